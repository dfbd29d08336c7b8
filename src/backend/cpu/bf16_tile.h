// The inner loop of everything that uses the AVX512-BF16 dot instruction. Include only between
// `#pragma GCC push_options`, `#pragma GCC target(... avx512bf16)` and `#pragma GCC pop_options`; what calls it runs only
// where cpu_has_avx512_bf16().
#pragma once

#include <cstdint>

#include <immintrin.h>

namespace fastgen {

inline constexpr int kBf16TileRows = 6;  // with 4 units: 24 sums beside 4 weights and one pair of x in 32 registers

// sum [kRows][kUnits vectors] = x [kRows][pairs] * w: each pair of k is one 32-bit number, w holds 16 outputs' pairs in
// a vector, kUnits vectors side by side, `w_stride` elements from one pair of k to the next. With kPrefetch, kUnits
// lines of every 4 from `prefetch` on are brought to the L2 cache per pair.
template <int kRows, int kUnits, bool kPrefetch>
inline __attribute__((always_inline)) void bf16_tile(const std::int32_t* const* x, std::int64_t num_pairs,
                                                     const std::uint16_t* w, std::int64_t w_stride, const char* prefetch,
                                                     __m512 (&sum)[kRows][kUnits]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnits; ++u) sum[r][u] = _mm512_setzero_ps();
  }
  for (std::int64_t k = 0; k < num_pairs; ++k, w += w_stride) {
    __m512bh weight[kUnits];
#pragma GCC unroll 4
    for (int u = 0; u < kUnits; ++u) {
      weight[u] = reinterpret_cast<__m512bh>(_mm512_load_si512(w + u * 32));
      if constexpr (kPrefetch) _mm_prefetch(prefetch + (k * 4 + u) * 64, _MM_HINT_T1);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512bh pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(x[r][k]));
#pragma GCC unroll 4
      for (int u = 0; u < kUnits; ++u) sum[r][u] = _mm512_dpbf16_ps(sum[r][u], weight[u], pair);
    }
  }
}

}  // namespace fastgen
