// Products with the AVX512-BF16 dot instruction: two products of bf16 and their float32 sum per lane, twice the
// float32 rate (Zen 4, Cooper Lake, Sapphire Rapids). Only this file is compiled for it; has_product_bf16() guards it.
//
// A tile of 6 rows x 4 vectors keeps 24 sums in registers beside 4 weights and one pair of x. The next panel is fetched while
// later rows of a batch use the one in the L2 cache, so that a batch of 16 hides its memory reads behind its arithmetic.
#include "backend/cpu/cpu_info.h"
#include "backend/cpu/product.h"

// clang has no such pragma as turns the instructions on below: what it builds goes without this path.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <algorithm>

#include "base/check.h"

// gcc 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#include "backend/cpu/bf16_tile.h"

namespace fastgen {

namespace {

constexpr int kTileRows = kBf16TileRows;

template <int kRows, int kUnits, bool kPrefetch>
void run_tile(const ProductJob& job, std::int64_t row, std::int64_t unit, const char* prefetch) {
  const PackedMatrix& w = *job.weight;
  const std::int32_t* x[kRows];
  for (int r = 0; r < kRows; ++r) {
    x[r] = reinterpret_cast<const std::int32_t*>(static_cast<const std::uint16_t*>(job.x) + (row + r) * w.in_dim);
  }
  __m512 sum[kRows][kUnits];
  bf16_tile<kRows, kUnits, kPrefetch>(x, w.in_dim / 2, static_cast<const std::uint16_t*>(w.data) + w.offset(unit * kUnit, 0),
                                      2 * kPanel, prefetch, sum);
  alignas(64) float sums[kRows][kUnits * kUnit];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnits; ++u) _mm512_store_ps(sums[r] + u * kUnit, sum[r][u]);
  }
  finish_tile(job, sums[0], row, kRows, unit, kUnits);
}

using TileFn = void (*)(const ProductJob&, std::int64_t row, std::int64_t unit, const char* prefetch);
template <int kUnits, bool kPrefetch>
constexpr TileFn kTiles[kTileRows] = {
    run_tile<1, kUnits, kPrefetch>, run_tile<2, kUnits, kPrefetch>, run_tile<3, kUnits, kPrefetch>,
    run_tile<4, kUnits, kPrefetch>, run_tile<5, kUnits, kPrefetch>, run_tile<6, kUnits, kPrefetch>};
template <bool kPrefetch>
constexpr const TileFn* kTilesByUnits[] = {nullptr, kTiles<1, kPrefetch>, kTiles<2, kPrefetch>, kTiles<3, kPrefetch>,
                                           kTiles<4, kPrefetch>};

}  // namespace

bool has_product_bf16() { return cpu_has_avx512_bf16(); }

void product_part_bf16(const ProductJob& job, const ProductPart& part) {
  const PackedMatrix& w = *job.weight;
  FG_CHECK(w.dtype == DType::kBF16 && w.in_dim % 2 == 0, w.in_dim);
  for (std::int64_t row = part.row_begin; row < part.row_end; row += kProductRows) {
    const std::int64_t row_end = std::min(row + kProductRows, part.row_end);
    for (std::int64_t unit = part.unit_begin, units = 0; unit < part.unit_end; unit += units) {
      units = std::min(kPanelUnits - unit % kPanelUnits, part.unit_end - unit);
      const std::int64_t tiles = (row_end - row + kTileRows - 1) / kTileRows;
      for (std::int64_t t = 0; t < tiles; ++t) {
        // Rows in tiles of equal size, or one less: 16 as 6, 5, 5.
        const std::int64_t begin = row + (row_end - row) * t / tiles, end = row + (row_end - row) * (t + 1) / tiles;
        if (t == 0 || t + 1 < tiles) {
          kTilesByUnits<false>[units][end - begin - 1](job, begin, unit, nullptr);
          continue;
        }
        // The last of several tiles fetches what comes next (beyond the matrix it is harmless). A single tile
        // streams the panel as fast as memory gives it; fetching a panel ahead made that a quarter slower (Zen 4).
        const char* next = static_cast<const char*>(w.data) + w.offset((unit + units) * kUnit, 0) * 2;
        kTilesByUnits<true>[units][end - begin - 1](job, begin, unit, next);
      }
    }
  }
}

}  // namespace fastgen
#pragma GCC pop_options

#else

namespace fastgen {
bool has_product_bf16() { return false; }
void product_part_bf16(const ProductJob&, const ProductPart&) {}
}  // namespace fastgen

#endif
