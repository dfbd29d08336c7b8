// Launchers of bfloat16 products of 1 or 2 rows: what skinny_kernel.h's run for so few. Plain C++17.
#pragma once

#include "skinny_kernel.h"

namespace fastgen::device {

inline constexpr std::int32_t kNarrowRowsMax = 2;

// Few rows, and no more rows of weights than a block keeps the sums of.
bool narrow_serves(const SkinnyProduct& product);

void narrow_linear(const SkinnyProduct& product, const float* bias, void* out, bool out_bf16, bool add, cudaStream_t stream);
void narrow_gate_up(const SkinnyProduct& product, void* out, cudaStream_t stream);
void narrow_qkv(const SkinnyProduct& product, const RopeLaunch& rope, cudaStream_t stream);

}  // namespace fastgen::device
