// The small ops on one row each. `out` of dtype f32 or bf16 where a DType is given.
#pragma once

#include <cstdint>

#include "backend/tensor.h"

namespace fastgen {

// residual [n] += delta [n] (or null); out = residual / rms(residual) * weight.
void add_rms_norm_row(float* residual, const float* delta, const float* weight, float eps, std::int64_t n, void* out,
                      DType out_dtype);

// x [n] *= weight / rms(x): the norm of one head, in place.
void rms_norm_in_place(float* x, const float* weight, float eps, std::int64_t n);

// Rotates the pairs (i, i + d/2) of x [d] by the angles whose cos [d/2] and sin [d/2] stand in `table`; to `out`.
void rope_row(const float* x, const float* table, std::int64_t d, void* out, DType out_dtype);

void convert_row(const float* x, std::int64_t n, void* out, DType out_dtype);

}  // namespace fastgen
