// Products by oneDNN (libdnnl) on one thread's part of a job: the way to AMX tiles. It reads the packed panels as they
// are (packed_matrix.h), so no weight is held twice. Without oneDNN in the build, has_product_onednn() is false.
#pragma once

#include "backend/cpu/product.h"

namespace fastgen {

bool has_product_onednn();  // compiled in, and this CPU has AVX512-BF16 or AMX
// From how many rows on it is the faster way here: 0 for never.
std::int64_t onednn_default_min_rows();

inline constexpr std::int64_t kOnednnRows = 128;    // rows of one call
inline constexpr std::int64_t kOnednnUnits = 16;    // units of one call: 256 outputs
inline constexpr std::int64_t kOnednnScratchFloats = kOnednnRows * kOnednnUnits * kUnit;

// part: at most kOnednnRows rows, units of whole panels, at most kOnednnUnits. bf16 weights only.
void product_part_onednn(const ProductJob& job, const ProductPart& part, float* scratch);

}  // namespace fastgen
