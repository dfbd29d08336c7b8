#include "server/stream_table.h"

#include <deque>

#include "support/support.h"

namespace fastgen::server {

namespace {

class FakeRing final : public EventRing {
 public:
  bool pop(Event& event) override {
    if (events.empty()) return false;
    event = events.front();
    events.pop_front();
    return true;
  }
  std::span<const TopLogprob> top(const Event&) const override { return {}; }
  int fd() const override { return -1; }
  void acknowledge() override {}
  bool wait(int) override { return !events.empty(); }
  void add(std::uint64_t tag, bool last) {
    Event event;
    event.user_tag = tag;
    event.last_of_request = last;
    events.push_back(event);
  }
  std::deque<Event> events;
};

struct CountingSink final : EventSink {
  void on_event(std::size_t prompt_idx, const Event&, std::span<const TopLogprob>) override { prompts.push_back(prompt_idx); }
  void on_drained() override { ++num_drained; }
  std::vector<std::size_t> prompts;
  int num_drained = 0;
};

}  // namespace

TEST_CASE("events reach their sink, one wake for each drain") {
  StreamTable table;
  FakeRing ring;
  CountingSink a, b;
  const auto a0 = table.open(&a, 0), b0 = table.open(&b, 0), a1 = table.open(&a, 1);
  for (auto tag : {a0, b0, a1, a0}) ring.add(tag, false);
  CHECK_FALSE(table.drain(ring, 100));
  CHECK(a.prompts == std::vector<std::size_t>{0, 1, 0});
  CHECK(b.prompts.size() == 1);
  CHECK(a.num_drained == 1);
  CHECK(b.num_drained == 1);
}

TEST_CASE("a tag lives until the last event, also when its sink has gone, and is never confused with its successor") {
  StreamTable table;
  FakeRing ring;
  CountingSink a, b;
  const auto old_tag = table.open(&a, 0);
  table.detach(old_tag);
  ring.add(old_tag, false);
  table.drain(ring, 100);
  CHECK(a.prompts.empty());
  CHECK(table.num_open() == 1);
  ring.add(old_tag, true);
  table.drain(ring, 100);
  CHECK(table.num_open() == 0);
  const auto new_tag = table.open(&b, 0);
  CHECK(new_tag != old_tag);
  table.detach(old_tag);  // over: nothing happens
  ring.add(new_tag, true);
  table.drain(ring, 100);
  CHECK(b.prompts.size() == 1);
}

TEST_CASE("a drain is bounded") {
  StreamTable table;
  FakeRing ring;
  CountingSink a;
  const auto tag = table.open(&a, 0);
  for (int i = 0; i < 10; ++i) ring.add(tag, i == 9);
  CHECK(table.drain(ring, 4));
  CHECK(a.prompts.size() == 4);
  CHECK(table.drain(ring, 4));
  CHECK_FALSE(table.drain(ring, 4));
  CHECK(a.prompts.size() == 10);
}

}  // namespace fastgen::server
