// Events on their way out: one ring per consumer, with a slab for top logprobs beside it.
//
// Tokens go straight into the ring: the scheduler plans a draw only where there is room for it. Finish events may come at
// any time (a cancel, a failure), so they pass a queue of the engine's and follow as room comes; per choice the order holds.
// pop, top, fd, acknowledge, wait: the consumer's thread. All else: the engine thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/spsc_ring.h"
#include "base/wake.h"
#include "fastgen/engine.h"

namespace fastgen {

class OutputRing final : public EventRing {
 public:
  explicit OutputRing(std::int32_t num_records);

  // ---- the consumer
  bool pop(Event& event) override;
  std::span<const TopLogprob> top(const Event& event) const override;
  int fd() const override { return wake_.fd(); }
  void acknowledge() override { wake_.drain(); }
  bool wait(int timeout_ms) override;

  // ---- the engine
  // Records that may be planned for: free ones, less those promised to steps in flight and to finish events.
  std::int64_t room();
  void promise(std::int64_t num_records) { promised_ += num_records; }
  void redeem(std::int64_t num_records) { promised_ -= num_records; }
  // A kToken or kPromptToken event, out of its step's promise.
  void push(Event event, std::span<const TopLogprob> top);
  void push_finish(const Event& event) { finishes_.push_back(event); }
  // Moves finish events into the ring as far as there is room, then wakes the consumer if anything new is there.
  // on_last is told of each event with last_of_request just before the consumer can see it.
  void flush(const std::function<void(const Event&)>& on_last);
  bool has_unsent() const { return !finishes_.empty(); }
  // The engine thread ends: finish events without room become the consumer's to take once the ring is empty, and on_last is told
  // of them.
  void close(const std::function<void(const Event&)>& on_last);

 private:
  SpscRing<Event> ring_;
  const std::size_t slab_places_;  // one more than the ring holds: the event popped last keeps its own
  std::vector<TopLogprob> slab_;   // kMaxTopLogprobs per place; published with the event through ring_
  Wake wake_;
  // Publishes finishes_ to the consumer: released by close, acquired by pop and wait.
  std::atomic<bool> closed_{false};

  // The engine thread's until closed_.
  std::deque<Event> finishes_;
  std::int64_t promised_ = 0;
  std::size_t next_place_ = 0;
  bool has_news_ = false;
};

}  // namespace fastgen
