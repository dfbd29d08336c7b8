// The order of the late backend: one queue of calls per stream, run only when a fence is forced.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>

#include "backend/backend.h"

namespace fastgen {

class LateQueue {
 public:
  explicit LateQueue(std::uint64_t seed) : seed_(seed) {}

  void push(Stream stream, std::function<void()> call);
  // `call` runs when the fence is reached.
  FenceId record(Stream stream, std::function<void()> call);
  // Everything pushed to `stream` from now runs after the fence, `call` first.
  void wait(Stream stream, FenceId fence, std::function<void()> call);

  bool reached(FenceId fence) const;
  // Runs what the fence needs, and more where the seed says so. Returns at once if it is reached.
  void force(FenceId fence);

  static Stream stream_of(FenceId fence) { return static_cast<Stream>(fence % kNumStreams); }

 private:
  struct Item {
    std::function<void()> call;
    FenceId reaches = 0;  // this fence is reached when the call has run
    FenceId needs = 0;    // the call may not run before this fence is reached
  };

  static std::size_t idx(Stream stream) { return static_cast<std::size_t>(stream); }
  bool ready(const std::deque<Item>& items) const { return !items.empty() && reached(items.front().needs); }
  void run_front(Stream stream);
  void run_others(Stream stream);
  bool draw();

  std::array<std::deque<Item>, kNumStreams> items_;
  std::array<FenceId, kNumStreams>
      last_reached_{};  // fences of one stream are reached in the order of their ids
  FenceId last_recorded_ = 0;
  std::uint64_t seed_;
  std::uint64_t num_draws_ = 0;
};

}  // namespace fastgen
