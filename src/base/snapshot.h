// The latest value of something that one thread keeps up to date, for any number of threads to read without ever waiting.
//
// A seqlock with two places: the writer fills the one that nobody is sent to, then sends readers there.
//
//   num_published_ = n:   readers copy places_[n % 2]   while publish n + 1 fills places_[(n + 1) % 2]
//
// So a writer that is interrupted in the middle of publish holds no reader up. A reader tries again only if another value was published
// while it copied: its place may be the one that is filled next.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace fastgen {

template <typename Value>
class Snapshot {
  static_assert(std::is_trivially_copyable_v<Value>);

 public:
  // One thread.
  void publish(const Value& value) {
    std::array<std::uint64_t, kNumWords> words{};
    std::memcpy(words.data(), &value, sizeof(Value));
    const std::uint64_t next = num_published_.load(std::memory_order_relaxed) + 1;
    Place& place = places_[next % 2];
    // Each word also publishes the number before: whoever sees the word sees that its place is no longer the one to read.
    for (std::size_t i = 0; i < kNumWords; ++i) place[i].store(words[i], std::memory_order_release);
    num_published_.store(next, std::memory_order_release);
  }

  // Any thread. The value of the last publish that was done when this was called, or of a later one; Value{} before the first.
  Value read() const {
    std::array<std::uint64_t, kNumWords> words;
    std::uint64_t number = num_published_.load(std::memory_order_acquire);
    if (number == 0) return Value{};
    while (true) {
      const Place& place = places_[number % 2];
      for (std::size_t i = 0; i < kNumWords; ++i) words[i] = place[i].load(std::memory_order_acquire);
      const std::uint64_t after = num_published_.load(std::memory_order_relaxed);
      if (after == number) break;
      number = num_published_.load(std::memory_order_acquire);
    }
    Value value{};
    std::memcpy(static_cast<void*>(&value), words.data(), sizeof(Value));
    return value;
  }

 private:
  static constexpr std::size_t kNumWords = (sizeof(Value) + 7) / 8;
  using Place = std::array<std::atomic<std::uint64_t>, kNumWords>;

  std::array<Place, 2> places_{};
  std::atomic<std::uint64_t> num_published_{0};  // publishes the words of its place; paired with the acquire in read
};

}  // namespace fastgen
