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

}  // namespace fastgen
