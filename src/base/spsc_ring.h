// A bounded queue between one producer thread and one consumer thread, without locks (Lamport 1983; each side
// keeps a copy of the other's index, so that it reads the shared line only when the copy says full or empty).
//
//      tail_                head_
//        v                    v
//   [ . | a | b | c | d | e | . | . ]     place of index i: i & mask_
//         `- pop    push -----^           both indices only grow; head_ - tail_ elements lie between them
//
// push, free_slots: the producer alone. pop, front: the consumer alone. size, capacity: any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "base/check.h"

namespace fastgen {

inline constexpr std::size_t kCacheLineBytes = 64;

template <typename T>
class SpscRing {
 public:
  // Holds at least `min_capacity` elements (the next power of two). All memory is taken here.
  explicit SpscRing(std::size_t min_capacity)
      : mask_(std::bit_ceil(std::max<std::size_t>(min_capacity, 1)) - 1), places_(new T[mask_ + 1]()) {}
  SpscRing(const SpscRing&) = delete;
  SpscRing& operator=(const SpscRing&) = delete;

  std::size_t capacity() const { return mask_ + 1; }
  // Exact on either side while the other rests; else the producer sees at least, the consumer at most what is
  // there.
  std::size_t size() const {
    // The tail first: the head can only have grown since, so that the difference is never negative.
    const std::uint64_t tail = tail_.load(std::memory_order_acquire);
    return std::min<std::uint64_t>(head_.load(std::memory_order_acquire) - tail, capacity());
  }

  // False if full; `value` is then untouched.
  template <typename U>
  bool push(U&& value) {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);  // our own index
    if (!has_room(head, 1)) return false;
    places_[head & mask_] = std::forward<U>(value);
    // Publishes the element; pairs with the acquire load of head_ in available().
    head_.store(head + 1, std::memory_order_release);
    return true;
  }

  // Copies as many of `values` as there is room for, in order, and publishes them at once. Returns how many.
  std::size_t push_some(std::span<const T> values) {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (!has_room(head, values.size())) values = values.first(capacity() - (head - tail_seen_));
    for (std::size_t i = 0; i < values.size(); ++i) places_[(head + i) & mask_] = values[i];
    // Publishes all of them; pairs with the acquire load of head_ in available().
    head_.store(head + values.size(), std::memory_order_release);
    return values.size();
  }

  // At least so many pushes will succeed.
  std::size_t free_slots() {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    has_room(head, capacity());
    return capacity() - (head - tail_seen_);
  }

  // False if empty; `value` is then untouched.
  bool pop(T& value) {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);  // our own index
    if (available(tail, 1) == 0) return false;
    value = std::move(places_[tail & mask_]);
    // Gives the place back; pairs with the acquire load of tail_ in has_room(): our read of the element comes
    // before the producer's next write to its place.
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }

  // Moves up to out.size() elements out, oldest first. Returns how many.
  std::size_t pop_some(std::span<T> out) {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    const std::size_t count = std::min(out.size(), available(tail, out.size()));
    for (std::size_t i = 0; i < count; ++i) out[i] = std::move(places_[(tail + i) & mask_]);
    // Gives the places back; pairs with the acquire load of tail_ in has_room().
    tail_.store(tail + count, std::memory_order_release);
    return count;
  }

  // The oldest element, or null; it stays until the next pop.
  const T* front() {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    return available(tail, 1) ? &places_[tail & mask_] : nullptr;
  }

 private:
  bool has_room(std::uint64_t head, std::size_t wanted) {
    if (capacity() - (head - tail_seen_) >= wanted) return true;
    // Pairs with the release stores in pop: places before it have been read and may be written again.
    tail_seen_ = tail_.load(std::memory_order_acquire);
    return capacity() - (head - tail_seen_) >= wanted;
  }

  std::size_t available(std::uint64_t tail, std::size_t wanted) {
    if (head_seen_ - tail >= wanted) return head_seen_ - tail;
    // Pairs with the release stores in push: elements before it are fully written.
    head_seen_ = head_.load(std::memory_order_acquire);
    return head_seen_ - tail;
  }

  const std::size_t mask_;
  const std::unique_ptr<T[]> places_;
  // Written by the producer; tail_seen_ is read by it alone.
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> head_{0};
  std::uint64_t tail_seen_ = 0;
  // Written by the consumer; head_seen_ is read by it alone.
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> tail_{0};
  std::uint64_t head_seen_ = 0;
};

}  // namespace fastgen
