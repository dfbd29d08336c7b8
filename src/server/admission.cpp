#include "server/admission.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

namespace fastgen::server {

namespace {

constexpr double kUnknownS = 1, kLeastS = 0.05, kMostS = 60;  // the official clients obey up to a minute
constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

void DrainRate::on_end(std::uint64_t now_us) {
  const std::uint64_t slot = now_us / kSlotUs;
  std::uint64_t none = 0;
  first_slot_.compare_exchange_strong(none, slot, std::memory_order_relaxed);
  std::atomic<std::uint64_t>& ended = ended_[slot % kNumSlots];
  std::uint64_t before = ended.load(std::memory_order_relaxed), after = 0;
  do {
    if (before >> kCountBits > slot) return;  // this thread was held up for ten seconds
    after = (before >> kCountBits == slot ? before : slot << kCountBits) + 1;
  } while (!ended.compare_exchange_weak(before, after, std::memory_order_relaxed));
}

double DrainRate::per_second(std::uint64_t now_us) const {
  const std::uint64_t slot = now_us / kSlotUs, first_slot = first_slot_.load(std::memory_order_relaxed);
  if (first_slot == 0) return 0;
  std::uint64_t count = 0;
  for (const std::atomic<std::uint64_t>& entry : ended_) {
    const std::uint64_t ended = entry.load(std::memory_order_relaxed);
    if ((ended >> kCountBits) + kNumSlots > slot) count += ended & ((std::uint64_t{1} << kCountBits) - 1);
  }
  const std::uint64_t begin_us = std::max(first_slot, slot + 1 > kNumSlots ? slot + 1 - kNumSlots : 0) * kSlotUs;
  return static_cast<double>(count) * 1e6 / static_cast<double>(std::max(now_us - std::min(begin_us, now_us), kSlotUs));
}

double Admission::expected_wait_s(std::int64_t num_waiting, std::uint64_t now_us) const {
  const double rate = drain_rate_.per_second(now_us);
  return num_waiting > 0 && rate > 0 ? static_cast<double>(num_waiting) / rate : 0;
}

std::optional<ApiError> Admission::refusal(std::int64_t num_waiting, std::optional<double> max_wait_s, std::uint64_t now_us) {
  double most = max_wait_s_ > 0 ? max_wait_s_ : kInfinity;
  if (max_wait_s) most = std::min(most, *max_wait_s);
  const double expected = expected_wait_s(num_waiting, now_us);
  if (expected <= most) return std::nullopt;
  ApiError error = come_again("the requests that wait already would take longer than this one may wait", expected - most, now_us);
  error.code = "queue_too_long";
  return error;
}

ApiError Admission::full(std::uint64_t now_us) { return come_again("all places of the queue are taken (--max-queue)", 0, now_us); }

ApiError Admission::come_again(const char* why, double excess_s, std::uint64_t now_us) {
  const double rate = drain_rate_.per_second(now_us);
  double wait_s = kUnknownS;
  if (rate > 0) {
    const auto gap_us = static_cast<std::uint64_t>(1e6 / rate), most_us = static_cast<std::uint64_t>(kMostS * 1e6);
    const auto soonest_us = now_us + static_cast<std::uint64_t>(excess_s * 1e6);
    std::uint64_t last_us = next_return_us_.load(std::memory_order_relaxed), return_us = 0;
    do return_us = std::min(std::max(last_us, soonest_us) + gap_us, now_us + most_us);
    while (!next_return_us_.compare_exchange_weak(last_us, return_us, std::memory_order_relaxed));
    wait_s = static_cast<double>(return_us - now_us) * 1e-6;
  }
  wait_s = std::clamp(wait_s, kLeastS, kMostS);
  ApiError error(429, fmt::format("{}; try again in {:.2g} s", why, wait_s), "", "rate_limit_exceeded");
  error.retry_after_s = wait_s;
  return error;
}

}  // namespace fastgen::server
