// A bounded queue between any number of producers and consumers, without locks (Vyukov's array queue: each
// place carries a sequence number that says whose turn it is).
//
//   place of ticket t: t & mask_; its sequence is
//     t                 free: the producer that holds ticket t writes it
//     t + 1             full: the consumer that holds ticket t reads it
//     t + capacity      free again, for the producer one round later
//
// A producer or consumer that is stopped between taking a ticket and finishing its place holds up those that
// come a round later, and consumers at that place: pop may say empty although a later push has returned.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/spsc_ring.h"  // kCacheLineBytes

namespace fastgen {

template <typename T>
class MpmcRing {
 public:
  // Holds at least `min_capacity` elements (the next power of two, at least 2). All memory is taken here.
  explicit MpmcRing(std::size_t min_capacity)
      : mask_(std::bit_ceil(std::max<std::size_t>(min_capacity, 2)) - 1), places_(new Place[mask_ + 1]) {
    // Relaxed: the ring reaches other threads only through something that synchronises.
    for (std::size_t i = 0; i <= mask_; ++i) places_[i].sequence.store(i, std::memory_order_relaxed);
  }
  MpmcRing(const MpmcRing&) = delete;
  MpmcRing& operator=(const MpmcRing&) = delete;

  std::size_t capacity() const { return mask_ + 1; }

  // False if full; `value` is then untouched. Any thread.
  template <typename U>
  bool push(U&& value) {
    // Relaxed: a ticket orders nothing; the place's sequence does.
    std::uint64_t ticket = push_ticket_.load(std::memory_order_relaxed);
    while (true) {
      Place& place = places_[ticket & mask_];
      // Pairs with the release store in pop: the consumer of the round before has moved the element out.
      const std::uint64_t sequence = place.sequence.load(std::memory_order_acquire);
      const std::int64_t ahead = static_cast<std::int64_t>(sequence - ticket);
      if (ahead < 0) return false;
      if (ahead > 0) {  // another producer was faster
        ticket = push_ticket_.load(std::memory_order_relaxed);
      } else if (push_ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed)) {
        place.value = std::forward<U>(value);
        // Publishes the element; pairs with the acquire load in pop.
        place.sequence.store(ticket + 1, std::memory_order_release);
        return true;
      }
    }
  }

  // False if empty; `value` is then untouched. Any thread.
  bool pop(T& value) {
    std::uint64_t ticket = pop_ticket_.load(std::memory_order_relaxed);
    while (true) {
      Place& place = places_[ticket & mask_];
      // Pairs with the release store in push: the element is fully written.
      const std::uint64_t sequence = place.sequence.load(std::memory_order_acquire);
      const std::int64_t ahead = static_cast<std::int64_t>(sequence - (ticket + 1));
      if (ahead < 0) return false;
      if (ahead > 0) {  // another consumer was faster
        ticket = pop_ticket_.load(std::memory_order_relaxed);
      } else if (pop_ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed)) {
        value = std::move(place.value);
        // Gives the place to the producer one round later; pairs with the acquire load in push.
        place.sequence.store(ticket + capacity(), std::memory_order_release);
        return true;
      }
    }
  }

 private:
  struct Place {
    std::atomic<std::uint64_t> sequence{0};
    T value{};
  };

  const std::size_t mask_;
  const std::unique_ptr<Place[]> places_;
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> push_ticket_{0};  // producers alone
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> pop_ticket_{0};   // consumers alone
};

}  // namespace fastgen
