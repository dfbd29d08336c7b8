// A weight matrix [N, K] as the CPU's products read it: panels of 64 outputs, once in memory for all row counts.
//
//   bf16: [N/64] panels of [K/2][64 outputs][2 consecutive k]        f32: [N/64] panels of [K][64 outputs]
//
// One vector load holds 16 outputs' pairs of k, which is what a bf16 dot instruction takes and what two shifts turn into
// float32; a product of one row streams a panel from end to end, one of many rows uses each load for all of them. It is
// also oneDNN's blocked layout BA16a64b2a (BA16a64b for float32), so that oneDNN reads the same bytes and nothing is held twice. Outputs are
// padded with zeros to 64, k to 32.
//
// A gate|up matrix alternates 16 outputs of gate with 16 of up, so that both meet in one tile.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cpu/thread_pool.h"

namespace fastgen {

inline constexpr std::int64_t kUnit = 16;   // outputs of one full vector; work is dealt out in units
inline constexpr std::int64_t kPanel = 64;  // outputs of one panel
inline constexpr std::int64_t kPanelUnits = kPanel / kUnit;

struct PackedMatrix {
  WeightKind kind = WeightKind::kLinear;
  DType dtype = DType::kBF16;  // kBF16 or kF32
  std::int64_t out_dim = 0;    // N, all parts
  std::int64_t in_dim = 0;     // K
  std::int64_t padded_in = 0;  // K rounded up to 32
  std::int64_t num_units = 0;  // a multiple of kPanelUnits
  void* data = nullptr;

  std::size_t bytes() const {
    return static_cast<std::size_t>(num_units * kUnit * padded_in) * dtype_bytes(dtype);
  }
  // Element offset of packed column `col` at input k.
  std::int64_t offset(std::int64_t col, std::int64_t k) const {
    const std::int64_t panel = col / kPanel * kPanel * padded_in;
    if (dtype == DType::kF32) return panel + k * kPanel + col % kPanel;
    return panel + k / 2 * 2 * kPanel + col % kPanel * 2 + k % 2;
  }
};

// The shape alone; `data` is still to be allocated (bytes(), zero-filled).
PackedMatrix packed_shape(WeightKind kind, DType dtype, std::span<const Tensor> parts);
// Fills matrix.data from host parts [N_i, K] of f32, bf16 or f16.
void pack(ThreadPool& pool, std::span<const Tensor> parts, const PackedMatrix& matrix);
// Row `row` of the matrix as float32 [K]: the embedding of a token.
void unpack_row(const PackedMatrix& matrix, std::int64_t row, float* out);

}  // namespace fastgen
