#include "server/stream_table.h"

#include <algorithm>

#include "base/check.h"

namespace fastgen::server {

std::uint64_t StreamTable::open(EventSink* sink, std::size_t prompt_idx) {
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const std::uint32_t slot_idx = free_slots_.back();
  free_slots_.pop_back();
  Slot& slot = slots_[slot_idx];
  slot = {sink, prompt_idx, slot.serial + 1, true};
  ++num_open_;
  return std::uint64_t{slot.serial} << 32 | slot_idx;
}

StreamTable::Slot* StreamTable::find(std::uint64_t tag) {
  const std::size_t slot_idx = tag & 0xFFFFFFFF;
  if (slot_idx >= slots_.size()) return nullptr;
  Slot& slot = slots_[slot_idx];
  return slot.open && slot.serial == tag >> 32 ? &slot : nullptr;
}

void StreamTable::detach(std::uint64_t tag) {
  if (Slot* slot = find(tag)) slot->sink = nullptr;
}

void StreamTable::close(std::uint64_t tag) {
  find(tag)->open = false;
  free_slots_.push_back(static_cast<std::uint32_t>(tag & 0xFFFFFFFF));
  --num_open_;
}

bool StreamTable::drain(EventRing& ring, std::size_t max_events) {
  touched_.clear();
  std::size_t num_events = 0;
  for (Event event; num_events < max_events && ring.pop(event); ++num_events) {
    Slot* slot = find(event.user_tag);
    FG_CHECK(slot != nullptr, event.user_tag, event.request);
    if (EventSink* sink = slot->sink) {
      sink->on_event(slot->prompt_idx, event, ring.top(event));
      if (touched_.empty() || touched_.back() != sink) touched_.push_back(sink);
    }
    if (event.last_of_request) close(event.user_tag);
  }
  std::sort(touched_.begin(), touched_.end());
  touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
  for (EventSink* sink : touched_) sink->on_drained();
  return num_events == max_events;
}

}  // namespace fastgen::server
