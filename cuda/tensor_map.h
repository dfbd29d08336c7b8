// Tensor maps: how a copy by sm_90's engine finds a box of a matrix in device memory (CUDA Driver API, "Tensor Map Object Management").
#pragma once

#include <cuda.h>

#include <cstdint>
#include <optional>

namespace fastgen::device {

// Of a row-major bf16 matrix [rows, cols] with rows `cols` apart: boxes of `box_rows` rows (at most 256) by 64 columns, swizzled by 128 bytes.
// The address and the bytes of a row are multiples of 16. Nothing if the driver refuses or is none that has tensor maps.
std::optional<CUtensorMap> row_map(const void* data, std::int64_t rows, std::int64_t cols, int box_rows);

}  // namespace fastgen::device
