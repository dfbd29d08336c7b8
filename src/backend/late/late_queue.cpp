#include "backend/late/late_queue.h"

#include <utility>

#include "backend/counter_rng.h"
#include "base/check.h"

namespace fastgen {

void LateQueue::push(Stream stream, std::function<void()> call) {
  items_[idx(stream)].push_back({std::move(call)});
}

FenceId LateQueue::record(Stream stream, std::function<void()> call) {
  // The id says its stream (the remainder) and its order (the quotient).
  last_recorded_ = (last_recorded_ / kNumStreams + 1) * kNumStreams + idx(stream);
  items_[idx(stream)].push_back({std::move(call), last_recorded_});
  return last_recorded_;
}

void LateQueue::wait(Stream stream, FenceId fence, std::function<void()> call) {
  FG_CHECK(fence <= last_recorded_, fence, last_recorded_);
  items_[idx(stream)].push_back({std::move(call), 0, fence});
}

bool LateQueue::reached(FenceId fence) const { return fence <= last_reached_[idx(stream_of(fence))]; }

// Ends: fences are recorded before they are waited on, so that what needs what has no circle.
void LateQueue::force(FenceId fence) {
  FG_CHECK(fence <= last_recorded_, fence, last_recorded_);
  const Stream stream = stream_of(fence);
  while (!reached(fence)) {
    const std::deque<Item>& items = items_[idx(stream)];
    FG_CHECK(!items.empty(), fence);
    if (!ready(items)) {
      force(items.front().needs);
      continue;  // a forced fence may have let this stream go on by itself
    }
    run_others(stream);
    run_front(stream);
  }
}

void LateQueue::run_front(Stream stream) {
  std::deque<Item>& items = items_[idx(stream)];
  const Item item = std::move(items.front());
  items.pop_front();
  item.call();
  if (item.reaches) last_reached_[idx(stream)] = item.reaches;
}

void LateQueue::run_others(Stream stream) {
  bool any = true;
  while (any) {  // one stream's fence may let another go on
    any = false;
    for (int other = 0; other < kNumStreams; ++other) {
      const std::deque<Item>& items = items_[static_cast<std::size_t>(other)];
      if (static_cast<Stream>(other) == stream) continue;
      while (ready(items) && draw()) {
        run_front(static_cast<Stream>(other));
        any = true;
      }
    }
  }
}

bool LateQueue::draw() {
  if (seed_ <= 1) return seed_ == 1;
  return philox(seed_, ++num_draws_, 0).v[0] & 1;
}

}  // namespace fastgen
