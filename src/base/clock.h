// The steady clock: for durations and timestamps within one process, never for the time of day.
#pragma once

#include <chrono>
#include <cstdint>

namespace fastgen {

inline std::uint64_t now_ns() {
  const auto since_start = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(since_start).count());
}

inline std::uint64_t now_us() { return now_ns() / 1000; }

}  // namespace fastgen
