// Wraps a backend that fails in a chosen step, as a device that falls off the bus does: for tests of what ends how.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"

namespace fastgen {

// fail-after:N:echo. The step after the first `num_steps` (run or replayed) throws Error, and so does every later one.
std::unique_ptr<Backend> make_failing_backend(std::unique_ptr<Backend> inner, std::int64_t num_steps);

}  // namespace fastgen
