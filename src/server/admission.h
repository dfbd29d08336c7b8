// Whether a request may come in, decided before any work is spent on it (row 2): from the tickets, the number of requests
// that wait and the rate at which answers end. And when a client that is refused should come again. All of it from atomics: no
// request waits for another one, or for the engine.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "server/api_error.h"

namespace fastgen::server {

// The rate at which requests end, over the last ten seconds. Times on the steady clock, in microseconds. Thread-safe.
class DrainRate {
 public:
  void on_end(std::uint64_t now_us);
  // Requests per second; 0: none ended lately, so nothing is known.
  double per_second(std::uint64_t now_us) const;

 private:
  static constexpr std::uint64_t kSlotUs = 500'000;
  static constexpr std::size_t kNumSlots = 20;
  static constexpr int kCountBits = 24;

  // By slot of time, a ring; each holds slot << kCountBits | how many ended in it. They order nothing: a count that is seen a moment
  // late makes the rate a little smaller.
  std::array<std::atomic<std::uint64_t>, kNumSlots> ended_{};
  std::atomic<std::uint64_t> first_slot_{0};  // 0: none has ended yet
};

class Admission {
 public:
  explicit Admission(double max_wait_s) : max_wait_s_(max_wait_s) {}

  DrainRate& drain_rate() { return drain_rate_; }
  // Seconds until a request that comes now is begun, with so many waiting before it; 0 where nothing is known.
  double expected_wait_s(std::int64_t num_waiting, std::uint64_t now_us) const;
  // None: it may come in. `max_wait_s`: what the request itself allows (its ttft_timeout_ms), beside the server's --max-wait-s.
  std::optional<ApiError> refusal(std::int64_t num_waiting, std::optional<double> max_wait_s, std::uint64_t now_us);
  // 429 for a request that found no ticket.
  ApiError full(std::uint64_t now_us);

 private:
  ApiError come_again(const char* why, double excess_s, std::uint64_t now_us);

  const double max_wait_s_;  // 0: any
  DrainRate drain_rate_;
  // Refused clients are told to come back one after the other, as places come free, rather than all at once. Orders nothing.
  std::atomic<std::uint64_t> next_return_us_{0};
};

}  // namespace fastgen::server
