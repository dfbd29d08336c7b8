// Products in Highway over packed panels (packed_matrix.h), for every x86-64 and as the reference.
//
// A block of rows of x becomes float32 once; then each 16 outputs of a panel are loaded, promoted (bf16: one shift, one
// mask) and used for kTileRows rows held in registers.
#include "backend/cpu/hwy_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/product_hwy.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cstring>

#include "backend/bf16.h"
#include "backend/cpu/product.h"
#include "backend/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastgen {
namespace HWY_NAMESPACE {

constexpr int kVecs = static_cast<int>(kUnit / kLanes);  // vectors of one unit
// Accumulators of a tile fit the registers beside the loaded weights: 32 registers with AVX-512, else 16.
constexpr int kTileRows = kLanes == 16 ? 6 : kLanes == 8 ? 4 : 2;
constexpr int kTileUnits = kLanes == 16 ? 4 : 1;

// One tile's sums, [rows][units][vectors of a unit].
template <int kRows, int kUnits>
struct Tile {
  V32 sum[kRows][kUnits * kVecs];
};

template <int kRows, int kUnits>
HWY_INLINE void accumulate_bf16(const float* const* x, std::int64_t num_k, const std::uint16_t* w,
                                Tile<kRows, kUnits>& tile) {
  const hn::Repartition<std::uint32_t, D32> du;
  const auto high = hn::Set(du, 0xFFFF0000u);
  for (std::int64_t k = 0; k < num_k; k += 2, w += 2 * kPanel) {
#pragma GCC unroll 8
    for (int v = 0; v < kUnits * kVecs; ++v) {
      const auto pair = hn::Load(du, reinterpret_cast<const std::uint32_t*>(w) + v * kLanes);
      const V32 even = hn::BitCast(kF, hn::ShiftLeft<16>(pair));
      const V32 odd = hn::BitCast(kF, hn::And(pair, high));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        tile.sum[r][v] = hn::MulAdd(hn::Set(kF, x[r][k]), even, tile.sum[r][v]);
        tile.sum[r][v] = hn::MulAdd(hn::Set(kF, x[r][k + 1]), odd, tile.sum[r][v]);
      }
    }
  }
}

template <int kRows, int kUnits>
HWY_INLINE void accumulate_f32(const float* const* x, std::int64_t num_k, const float* w, Tile<kRows, kUnits>& tile) {
  for (std::int64_t k = 0; k < num_k; ++k, w += kPanel) {
#pragma GCC unroll 8
    for (int v = 0; v < kUnits * kVecs; ++v) {
      const V32 weight = hn::Load(kF, w + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) tile.sum[r][v] = hn::MulAdd(hn::Set(kF, x[r][k]), weight, tile.sum[r][v]);
    }
  }
}

// What leaves a tile: `count` columns of 16 sums, stored, added or turned into silu(gate) * up.
HWY_INLINE void store_columns(const ProductJob& job, const float* sums, std::int64_t row, std::int64_t column,
                              std::int64_t count) {
  float* out = static_cast<float*>(job.out) + row * job.out_stride + column;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    V32 value = hn::Load(kF, sums + i);
    if (job.bias) value = hn::Add(value, load_f32(job.bias + column + i));
    if (job.epilogue == Epilogue::kAdd) value = hn::Add(value, load_f32(out + i));
    store_f32(value, out + i);
  }
  for (; i < count; ++i) {
    const float value = sums[i] + (job.bias ? job.bias[column + i] : 0.0f);
    out[i] = job.epilogue == Epilogue::kAdd ? out[i] + value : value;
  }
}

template <typename T>
HWY_INLINE void store_values(const float* values, T* out, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_f32(hn::Load(kF, values + i), out + i);
  if (i < count) store_some(hn::Load(kF, values + i), out + i, count - i);
}

HWY_INLINE void store_silu_mul(const ProductJob& job, const float* gate, const float* up, std::int64_t row,
                               std::int64_t column, std::int64_t count) {
  HWY_ALIGN float values[kUnit];
  for (int i = 0; i < kUnit; i += kLanes) {
    const V32 g = hn::Load(kF, gate + i);
    const V32 denominator = hn::Add(hn::Set(kF, 1.0f), hn::Exp(kF, hn::Neg(g)));
    hn::Store(hn::Mul(hn::Div(g, denominator), hn::Load(kF, up + i)), kF, values + i);
  }
  if (job.out_dtype == DType::kF32) {
    store_values(values, static_cast<float*>(job.out) + row * job.out_stride + column, count);
  } else {
    store_values(values, static_cast<std::uint16_t*>(job.out) + row * job.out_stride + column, count);
  }
}

// The epilogue of sums [num_rows][num_units * 16]. A gate|up job's tiles are whole pairs of units.
void FinishTile(const ProductJob& job, const float* sums, std::int64_t row, std::int64_t num_rows, std::int64_t unit,
                std::int64_t num_units) {
  const std::int64_t columns = job.out_columns();
  const bool silu = job.epilogue == Epilogue::kSiluMul;
  for (std::int64_t r = row; r < row + num_rows; ++r) {
    for (std::int64_t u = unit; u < unit + num_units; u += silu ? 2 : 1, sums += silu ? 2 * kUnit : kUnit) {
      const std::int64_t column = (silu ? u / 2 : u) * kUnit, count = std::min(kUnit, columns - column);
      if (count <= 0) continue;
      if (silu) {
        store_silu_mul(job, sums, sums + kUnit, r, column, count);
      } else {
        store_columns(job, sums, r, column, count);
      }
    }
  }
}

template <int kRows, int kUnits>
void run_tile(const ProductJob& job, const float* const* x, std::int64_t row, std::int64_t unit) {
  const PackedMatrix& w = *job.weight;
  Tile<kRows, kUnits> tile;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kUnits * kVecs; ++v) tile.sum[r][v] = hn::Zero(kF);
  }
  if (w.dtype == DType::kBF16) {
    accumulate_bf16(x, w.in_dim, static_cast<const std::uint16_t*>(w.data) + w.offset(unit * kUnit, 0), tile);
  } else {
    accumulate_f32(x, w.in_dim, static_cast<const float*>(w.data) + w.offset(unit * kUnit, 0), tile);
  }
  HWY_ALIGN float sums[kRows][kUnits * kUnit];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kUnits * kVecs; ++v) hn::Store(tile.sum[r][v], kF, sums[r] + v * kLanes);
  }
  FinishTile(job, sums[0], row, kRows, unit, kUnits);
}

template <int kUnits>
void run_rows(const ProductJob& job, const float* x, std::int64_t row_begin, std::int64_t num_rows, std::int64_t unit) {
  const std::int64_t stride = job.weight->padded_in;
  for (std::int64_t r = 0; r < num_rows;) {
    const float* rows[kTileRows];
    for (int i = 0; i < kTileRows; ++i) rows[i] = x + std::min(r + i, num_rows - 1) * stride;
    const std::int64_t left = num_rows - r;
    if (left >= kTileRows) {
      run_tile<kTileRows, kUnits>(job, rows, row_begin + r, unit);
      r += kTileRows;
    } else if (left >= 2) {
      run_tile<2, kUnits>(job, rows, row_begin + r, unit);
      r += 2;
    } else {
      run_tile<1, kUnits>(job, rows, row_begin + r, unit);
      r += 1;
    }
  }
}

void convert_rows(const ProductJob& job, std::int64_t row, std::int64_t num_rows, float* out) {
  const std::int64_t in_dim = job.weight->in_dim, stride = job.weight->padded_in;
  for (std::int64_t r = 0; r < num_rows; ++r, out += stride) {
    if (job.weight->dtype == DType::kF32) {
      std::memcpy(out, static_cast<const float*>(job.x) + (row + r) * in_dim, static_cast<std::size_t>(in_dim) * 4);
    } else {
      const std::uint16_t* x = static_cast<const std::uint16_t*>(job.x) + (row + r) * in_dim;
      for (std::int64_t k = 0; k < in_dim; ++k) out[k] = bf16_to_f32(x[k]);
    }
    for (std::int64_t k = in_dim; k < stride; ++k) out[k] = 0;
  }
}

// Units that one step takes: up to kTileUnits, not across a panel's end; 2 where a gate|up pair needs it.
HWY_INLINE std::int64_t step_units(const ProductJob& job, std::int64_t unit, std::int64_t unit_end) {
  const std::int64_t most = std::max<std::int64_t>(kTileUnits, job.epilogue == Epilogue::kSiluMul ? 2 : 1);
  return std::min<std::int64_t>({most, kPanelUnits - unit % kPanelUnits, unit_end - unit});
}

void ProductPartImpl(const ProductJob& job, const ProductPart& part, float* scratch) {
  for (std::int64_t row = part.row_begin; row < part.row_end; row += kProductRows) {
    const std::int64_t num_rows = std::min(kProductRows, part.row_end - row);
    convert_rows(job, row, num_rows, scratch);
    for (std::int64_t unit = part.unit_begin; unit < part.unit_end;) {
      const std::int64_t units = step_units(job, unit, part.unit_end);
      if (units == 4) {
        if constexpr (kTileUnits == 4) run_rows<4>(job, scratch, row, num_rows, unit);
      } else if (units == 3) {
        if constexpr (kTileUnits == 4) run_rows<3>(job, scratch, row, num_rows, unit);
      } else if (units == 2) {
        run_rows<2>(job, scratch, row, num_rows, unit);
      } else {
        run_rows<1>(job, scratch, row, num_rows, unit);
      }
      unit += units;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fastgen
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastgen {
HWY_EXPORT(ProductPartImpl);
HWY_EXPORT(FinishTile);
void finish_tile(const ProductJob& job, const float* sums, std::int64_t row, std::int64_t num_rows, std::int64_t unit,
                 std::int64_t num_units) {
  HWY_DYNAMIC_DISPATCH(FinishTile)(job, sums, row, num_rows, unit, num_units);
}
void product_part_hwy(const ProductJob& job, const ProductPart& part, float* scratch) {
  HWY_DYNAMIC_DISPATCH(ProductPartImpl)(job, part, scratch);
}
}  // namespace fastgen
#endif
