// A failed CUDA call becomes an Error that says which call and why; the engine ends its streams and the
// process.
#pragma once

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen {

inline void cuda_check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw Error(fmt::format("CUDA: {}: {}", what, cudaGetErrorString(status)));
}

// A kernel that could not be launched; what goes wrong while it runs shows at a later call.
inline void check_launch(const char* op) { cuda_check(cudaGetLastError(), op); }

}  // namespace fastgen
