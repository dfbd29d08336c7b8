#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>

#include "base/clock.h"
#include "engine/debug_checks.h"
#include "engine_support.h"

using namespace fastgen;
using namespace fastgen::test;

namespace {

struct OneByOne {
  TempDir dir;
  std::unique_ptr<Engine> engine;
  explicit OneByOne(const std::string& backend) {
    check_every_step = true;
    write_config(dir.path());
    EngineConfig config = echo_engine(dir.path(), backend);
    config.max_batch = 1;
    engine = Engine::create(config);
  }
  void submit(std::uint64_t tag, std::int32_t priority, std::int32_t max_tokens) {
    Request request;
    request.prompt = {5, 6, 7};
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = max_tokens;
    request.priority = priority;
    request.user_tag = tag;
    auto ticket = engine->try_admit();
    REQUIRE(ticket.has_value());
    engine->submit(std::move(*ticket), std::move(request));
  }
  // The tag of the next request that finishes.
  std::uint64_t next_finished() {
    for (const std::uint64_t start = now_us(); now_us() - start < 60'000'000; engine->ring(0).wait(100))
      for (Event event; engine->ring(0).pop(event);)
        if (event.last_of_request) return event.user_tag;
    FAIL("nothing finished for a minute");
    return 0;
  }
};

// Until the first request has the only place in the batch, so that all others wait.
void wait_running(const Engine& engine) {
  for (int i = 0; i < 6000 && engine.stats().num_running == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  REQUIRE(engine.stats().num_running == 1);
}

// Whether the engine goes to sleep within five seconds: it looks round once more after its start and after its last event.
bool rests(const Engine& engine) {
  for (int i = 0; i < 500 && engine.stats().silent_us > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return engine.stats().silent_us == 0;
}

}  // namespace

TEST_CASE("priority: what waits goes by priority, the same priority by arrival") {
  OneByOne one("slow:20:echo");
  one.submit(0, 0, 60);
  wait_running(*one.engine);
  one.submit(1, 7, 1);
  one.submit(2, 0, 1);
  one.submit(3, -5, 1);
  one.submit(4, 0, 1);
  std::vector<std::uint64_t> order;
  for (int i = 0; i < 5; ++i) order.push_back(one.next_finished());
  // The running one is not preempted for a better priority: there are blocks enough, only its place in the batch is taken.
  CHECK(order == std::vector<std::uint64_t>{0, 3, 2, 4, 1});
}

TEST_CASE("priority: one unit is overtaken for a second, not for ever") {
  OneByOne one("slow:15:echo");
  one.submit(1000, 0, 20);
  wait_running(*one.engine);
  const std::uint64_t start = now_us();
  one.submit(1, 1, 1);
  // A flood of better ones for ten seconds at most. A dozen of them wait, so that this thread may stand still for a while.
  std::uint64_t next = 2, done_us = 0;
  int num_waiting = 1;
  while (done_us == 0 && now_us() - start < 10'000'000) {
    for (; num_waiting < 13; ++num_waiting) one.submit(next++, 0, 1);
    const std::uint64_t tag = one.next_finished();
    num_waiting -= tag != 1000;
    if (tag == 1) done_us = now_us() - start;
  }
  CHECK(done_us > 900'000);
  CHECK(done_us > 0);
  CHECK(done_us < 5'000'000);
}

TEST_CASE("stats: a step that takes its time shows as silence, and steps are counted by size") {
  OneByOne one("slow:300:echo");
  CHECK(rests(*one.engine));
  one.submit(1, 0, 2);
  std::uint64_t most = 0;
  for (int i = 0; i < 500 && most <= 150'000; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    most = std::max(most, one.engine->stats().silent_us);
  }
  CHECK(most > 150'000);
  one.next_finished();
  CHECK(rests(*one.engine));
  const EngineStats stats = one.engine->stats();
  CHECK(stats.num_steps == 2);
  CHECK(stats.num_prefill_steps == 1);
  CHECK(stats.num_mixed_steps == 0);
  CHECK(std::accumulate(stats.step_us.counts.begin(), stats.step_us.counts.end(), std::uint64_t{0}) == 2);
  CHECK(stats.step_us.sum > 590'000);
  CHECK(stats.step_tokens.sum == 4);
}

TEST_CASE("priority: out of range is refused by name") {
  OneByOne one("echo");
  Request request;
  request.prompt = {5};
  request.priority = kMaxPriority + 1;
  std::string field;
  CHECK(!one.engine->validate(request, &field).empty());
  CHECK(field == "priority");
}
