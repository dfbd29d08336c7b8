// Launchers of bfloat16 products of one row: what skinny_kernel.h's run for it. Plain C++17.
#pragma once

#include "skinny_kernel.h"

namespace fastgen::device {

// One row, and no more rows of weights than a block keeps the sums of.
bool narrow_serves(const SkinnyProduct& product);

void narrow_linear(const SkinnyProduct& product, const float* bias, void* out, bool out_bf16, bool add, cudaStream_t stream);
void narrow_gate_up(const SkinnyProduct& product, void* out, cudaStream_t stream);
void narrow_qkv(const SkinnyProduct& product, const RopeLaunch& rope, cudaStream_t stream);

}  // namespace fastgen::device
