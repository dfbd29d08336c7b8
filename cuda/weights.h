// Host matrices to device memory, converted on the way.
#pragma once

#include "backend/tensor.h"

namespace fastgen {

// part: host memory, f32, bf16 or f16. device: room for its elements in `dtype` (f32 or bf16). Returns when
// copied.
void upload_converted(const Tensor& part, DType dtype, void* device);

}  // namespace fastgen
