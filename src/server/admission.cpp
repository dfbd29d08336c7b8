#include "server/admission.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

namespace fastgen::server {

namespace {

constexpr double kUnknownS = 1, kLeastS = 0.05, kMostS = 60;  // the official clients obey up to a minute
constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

void DrainRate::forget_old(std::uint64_t slot) {
  if (first_slot_ == 0) first_slot_ = newest_slot_ = slot;
  for (std::size_t i = 0; newest_slot_ < slot && i < kNumSlots; ++i) ended_[++newest_slot_ % kNumSlots] = 0;
  newest_slot_ = std::max(newest_slot_, slot);
}

void DrainRate::on_end(std::uint64_t now_us) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t slot = now_us / kSlotUs;
  forget_old(slot);
  ++ended_[newest_slot_ % kNumSlots];
}

double DrainRate::per_second(std::uint64_t now_us) const {
  const std::lock_guard lock(mutex_);
  const std::uint64_t slot = now_us / kSlotUs;
  if (first_slot_ == 0 || slot >= newest_slot_ + kNumSlots) return 0;
  std::uint64_t count = 0;
  for (std::uint64_t s = newest_slot_; s + kNumSlots > slot && s + kNumSlots > newest_slot_ && s >= first_slot_; --s) count += ended_[s % kNumSlots];
  const std::uint64_t begin_us = std::max(first_slot_, slot + 1 > kNumSlots ? slot + 1 - kNumSlots : 0) * kSlotUs;
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
    const std::lock_guard lock(mutex_);
    const auto gap_us = static_cast<std::uint64_t>(1e6 / rate), excess_us = static_cast<std::uint64_t>(excess_s * 1e6);
    next_return_us_ = std::min(std::max(next_return_us_, now_us + excess_us) + gap_us, now_us + static_cast<std::uint64_t>(kMostS * 1e6));
    wait_s = static_cast<double>(next_return_us_ - now_us) * 1e-6;
  }
  wait_s = std::clamp(wait_s, kLeastS, kMostS);
  ApiError error(429, fmt::format("{}; try again in {:.2g} s", why, wait_s), "", "rate_limit_exceeded");
  error.retry_after_s = wait_s;
  return error;
}

}  // namespace fastgen::server
