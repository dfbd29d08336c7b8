#include "engine/tickets.h"

#include <thread>
#include <utility>

namespace fastgen {
namespace {

// The rings are twice as large as what they can hold, so a push fails only while another thread stands still between
// taking a place and leaving it for a whole round; it ends when that thread runs again.
void push_surely(MpmcRing<std::uint32_t>& ring, std::uint32_t slot) {
  while (!ring.push(slot)) std::this_thread::yield();
}

std::uint32_t generation_of(RequestId request) { return static_cast<std::uint32_t>(request >> 32); }

}  // namespace

TicketTable::TicketTable(std::int32_t num_slots)
    : num_slots_(static_cast<std::uint32_t>(num_slots)),
      slots_(new Slot[num_slots_]),
      free_(2 * std::size_t{num_slots_}),
      submitted_(2 * std::size_t{num_slots_}) {
  for (std::uint32_t slot = 0; slot < num_slots_; ++slot) push_surely(free_, slot);
}

std::optional<std::uint32_t> TicketTable::take() {
  std::uint32_t slot = 0;
  if (!free_.pop(slot)) return std::nullopt;
  num_in_use_.fetch_add(1, std::memory_order_relaxed);
  return slot;
}

void TicketTable::give_back(std::uint32_t slot) {
  num_in_use_.fetch_sub(1, std::memory_order_relaxed);
  push_surely(free_, slot);
}

RequestId TicketTable::put(std::uint32_t slot, Request request) {
  Slot& place = slots_[slot];
  // Only the ticket's holder writes it; cancel reads it to see whether a request is still there.
  const std::uint32_t generation = place.generation.load(std::memory_order_relaxed) + 1;
  place.generation.store(generation, std::memory_order_relaxed);
  place.request = std::move(request);
  push_surely(submitted_, slot);
  return RequestId{generation} << 32 | slot;
}

std::optional<TicketTable::Submitted> TicketTable::take_request() {
  std::uint32_t slot = 0;
  if (!submitted_.pop(slot)) return std::nullopt;
  Slot& place = slots_[slot];
  const std::uint32_t generation = place.generation.load(std::memory_order_relaxed);
  return Submitted{RequestId{generation} << 32 | slot, slot, std::move(place.request)};
}

bool TicketTable::cancel(RequestId request, std::int32_t choice_idx) {
  if (slot_of(request) >= num_slots_ || choice_idx < -1 || choice_idx >= kMaxChoices) return false;
  Slot& place = slots_[slot_of(request)];
  const std::uint32_t generation = generation_of(request);
  if (place.generation.load(std::memory_order_relaxed) != generation) return false;
  auto& mark = place.cancelled[static_cast<std::size_t>(choice_idx < 0 ? kMaxChoices : choice_idx)];
  // Marks only grow: a cancel that was held up must not undo that of the slot's next request.
  std::uint32_t marked = mark.load(std::memory_order_relaxed);
  while (marked < generation && !mark.compare_exchange_weak(marked, generation, std::memory_order_relaxed)) {
  }
  any_cancelled_.store(true, std::memory_order_release);
  return true;
}

bool TicketTable::is_cancelled(RequestId request, std::int32_t choice_idx) const {
  const Slot& place = slots_[slot_of(request)];
  const auto is_marked = [&](std::size_t idx) {
    return place.cancelled[idx].load(std::memory_order_relaxed) == generation_of(request);
  };
  return is_marked(kMaxChoices) || is_marked(static_cast<std::size_t>(choice_idx));
}

}  // namespace fastgen
