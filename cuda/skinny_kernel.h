// Launchers of bfloat16 products with few rows, each with what follows the product in the same op. Plain C++17:
// included by host C++ and by .cu files.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "row_kernels.h"

namespace fastgen::device {

inline constexpr std::int64_t kSkinnyRowsMax = 16;

// Device memory; rows contiguous and aligned to 16 bytes, so K is a multiple of 8.
struct SkinnyProduct {
  const void* w;  // [N, K] bf16
  const void* x;  // [R, K] bf16, 1 <= R <= kSkinnyRowsMax
  std::int32_t num_rows, out_dim, in_dim;
};

// out [R, N] = or += x w^T + bias [N] (if given); out float32 or bf16.
void skinny_linear(const SkinnyProduct& product, const float* bias, void* out, bool out_bf16, bool add,
                   cudaStream_t stream);

// out [R, F] bf16 = silu(x gate^T) * (x up^T); w [2F, K]: gate, then up. F is a multiple of 16.
void skinny_gate_up(const SkinnyProduct& product, void* out, cudaStream_t stream);

// q, k and v of x with bias and rotation, stored where rope_store stores them. No q and k norms; head_dim is a
// multiple of 32. Of `rope`, qkv, q_norm, k_norm and num_tokens are not read.
void skinny_qkv(const SkinnyProduct& product, const RopeLaunch& rope, cudaStream_t stream);

}  // namespace fastgen::device
