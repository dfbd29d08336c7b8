#include "engine/output.h"

#include <algorithm>

#include "base/check.h"

namespace fastgen {

OutputRing::OutputRing(std::int32_t num_records)
    : ring_(static_cast<std::size_t>(num_records)),
      slab_places_(ring_.capacity() + 1),
      slab_(slab_places_ * kMaxTopLogprobs) {}

bool OutputRing::pop(Event& event) {
  if (ring_.pop(event)) return true;
  if (!closed_.load(std::memory_order_acquire)) return false;
  if (ring_.pop(event)) return true;  // came between the two
  if (finishes_.empty()) return false;
  event = finishes_.front();
  finishes_.pop_front();
  return true;
}

std::span<const TopLogprob> OutputRing::top(const Event& event) const {
  return {slab_.data() + event.top_start, static_cast<std::size_t>(event.num_top)};
}

bool OutputRing::wait(int timeout_ms) {
  if (ring_.size() > 0) return true;
  // Nobody signals any more.
  if (closed_.load(std::memory_order_acquire)) return ring_.size() > 0 || !finishes_.empty();
  if (!wake_.wait(timeout_ms)) return ring_.size() > 0;
  wake_.drain();  // the events came before the signal, so whoever pops now sees them
  return true;
}

std::int64_t OutputRing::room() {
  return static_cast<std::int64_t>(ring_.free_slots()) - promised_ - static_cast<std::int64_t>(finishes_.size());
}

void OutputRing::push(Event event, std::span<const TopLogprob> top) {
  FG_CHECK(top.size() <= kMaxTopLogprobs, top.size());
  // The places go round one later than the ring's own, so this one is never that of the event popped last.
  event.top_start = static_cast<std::uint32_t>(next_place_ * kMaxTopLogprobs);
  event.num_top = static_cast<std::int32_t>(top.size());
  std::copy(top.begin(), top.end(), slab_.begin() + static_cast<std::ptrdiff_t>(event.top_start));
  const bool pushed = ring_.push(event);
  FG_CHECK(pushed, promised_, finishes_.size());
  next_place_ = (next_place_ + 1) % slab_places_;
  has_news_ = true;
}

void OutputRing::flush(const std::function<void(const Event&)>& on_last) {
  while (!finishes_.empty() && static_cast<std::int64_t>(ring_.free_slots()) > promised_) {
    if (finishes_.front().last_of_request) on_last(finishes_.front());
    push(finishes_.front(), {});
    finishes_.pop_front();
  }
  if (has_news_) wake_.signal();
  has_news_ = false;
}

void OutputRing::close(const std::function<void(const Event&)>& on_last) {
  for (const Event& event : finishes_)
    if (event.last_of_request) on_last(event);
  closed_.store(true, std::memory_order_release);
  wake_.signal();
}

}  // namespace fastgen
