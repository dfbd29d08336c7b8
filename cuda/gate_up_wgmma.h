// Launcher of the gate-up product of many rows with SiLU in it, for sm_90a. Plain C++17: included by host C++ and by .cu files.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fastgen::device {

// Device memory; rows contiguous and aligned to 16 bytes.
struct GateUpLaunch {
  const void* w;  // [2F, K] bf16: gate, then up
  const void* x;  // [T, K] bf16
  void* out;      // [T, F] bf16 = silu(x gate^T) * (x up^T), rounded once
  std::int32_t num_rows, ffn_dim, in_dim;
};

// False, and nothing is launched, where it does not serve: other cards, F no multiple of 128, K no multiple of 64, and numbers of rows
// that are so far from a multiple of 256 that another way is faster.
bool gate_up_wgmma(const GateUpLaunch& launch, cudaStream_t stream);

}  // namespace fastgen::device
