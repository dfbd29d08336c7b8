// Wraps another backend and takes its time: for tests of what must stay right while the engine is slow or hangs.
//
//   stall-after:N:echo   the step after the first N never ends
//   slow:MS:echo         every step takes MS milliseconds more
//
// A step is what ends with record() on the compute stream; the engine thread sleeps in there.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "backend/backend.h"

namespace fastgen {

struct StallPlan {
  std::int64_t num_steps = -1;  // after so many one hangs; < 0: none does
  std::chrono::milliseconds delay{0};
};

std::unique_ptr<Backend> make_stall_backend(std::unique_ptr<Backend> inner, const StallPlan& plan);

}  // namespace fastgen
