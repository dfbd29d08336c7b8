// One item of attention with the AVX512-BF16 dot instruction, for bf16 q, K and V and head_dim a multiple of 16.
//
// A block of 64 keys becomes two panels like those of a packed weight: K^T as [D/2][64 keys][2], V as [32 pairs of keys][D][2];
// both products are then the tile of bf16_tile.h. Scores are exact products summed in float32. Probabilities are
// rounded to bf16 before they meet V, and their sum is that of the rounded ones, so the rounding moves no mass.
#include "backend/cpu/attention.h"
#include "backend/cpu/cpu_info.h"

// clang has no such pragma as turns the instructions on below: what it builds goes without this path.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

// gcc 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#include "backend/cpu/bf16_tile.h"

namespace fastgen {

namespace {

constexpr int kKeys = kAttendKeyBlock;
constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.44269504088896f;

struct Scratch {
  std::uint16_t* keys;    // [D/2][64][2]
  std::uint16_t* values;  // [32][D][2]
  std::uint16_t* probs;   // [rows][64]
  float* scores;          // [rows][64]
  float* sums;            // [rows][D]
  float* totals;          // [rows][16]: lanes, added at the end
  float* max;             // [rows], in units of log2
};

Scratch carve(float* base, std::int64_t head_dim) {
  Scratch s;
  s.keys = reinterpret_cast<std::uint16_t*>(base);
  s.values = s.keys + kKeys * head_dim;
  s.probs = s.values + kKeys * head_dim;
  s.scores = reinterpret_cast<float*>(s.probs + kAttendTileRows * kKeys);
  s.sums = s.scores + kAttendTileRows * kKeys;
  s.totals = s.sums + kAttendTileRows * head_dim;
  s.max = s.totals + kAttendTileRows * 16;
  return s;
}

// Addresses of one head's K or V of keys [key, key + count); zeros for the rest of the block.
void row_addresses(const AttendArgs& args, const AttendItem& item, int kv, std::int64_t key, std::int64_t count,
                   const std::uint16_t* (&rows)[kKeys]) {
  alignas(64) static constexpr std::uint16_t kZeros[kAttendMaxDim] = {};
  const KvLayout& layout = args.arena.layout;
  const std::int32_t* table =
      args.batch.block_table.as<std::int32_t>() + item.seq * args.batch.block_table.row_elements();
  const auto* data = static_cast<const std::uint16_t*>(args.arena.data);
  std::int64_t block = key / layout.block_size, place = key % layout.block_size;
  for (std::int64_t j = 0; j < count; ++block, place = 0) {
    const std::uint16_t* row = data + layout.tile_offset(table[block], args.layer, kv, item.kv_head) + place * layout.head_dim;
    for (; j < count && place < layout.block_size; ++j, ++place, row += layout.head_dim) rows[j] = row;
  }
  for (std::int64_t j = count; j < kKeys; ++j) rows[j] = kZeros;
}

// 16 x 16 32-bit numbers transposed: out[i] lane j = in[j] lane i.
inline __attribute__((always_inline)) void transpose16(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // v[4 i + c]: in each 128-bit part q, column 4 q + c of rows 4 i .. 4 i + 3
    v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {  // transposes the 4 x 4 parts of v[c], v[4 + c], v[8 + c], v[12 + c]
    t[c] = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xDD);
    t[8 + c] = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xDD);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    v[c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0x88);
    v[4 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0x88);
    v[8 + c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0xDD);
    v[12 + c] = _mm512_shuffle_i32x4(t[4 + c], t[12 + c], 0xDD);
  }
}

void pack_keys(const std::uint16_t* const* rows, std::int64_t head_dim, std::uint16_t* out) {
  const std::int64_t pairs = head_dim / 2;
  for (std::int64_t p = 0; p < pairs; p += 16) {
    const std::int64_t n = std::min<std::int64_t>(16, pairs - p);
    const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
    for (int group = 0; group < kKeys / 16; ++group) {
      __m512i v[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) v[i] = _mm512_maskz_loadu_epi32(mask, rows[group * 16 + i] + 2 * p);
      transpose16(v);
      for (std::int64_t i = 0; i < n; ++i) _mm512_store_si512(out + ((p + i) * kKeys + group * 16) * 2, v[i]);
    }
  }
}

void pack_values(const std::uint16_t* const* rows, std::int64_t head_dim, std::uint16_t* out) {
  for (int pair = 0; pair < kKeys / 2; ++pair) {
    for (std::int64_t d = 0; d < head_dim; d += 16, out += 32) {
      const auto* even = reinterpret_cast<const __m256i*>(rows[2 * pair] + d);
      const auto* odd = reinterpret_cast<const __m256i*>(rows[2 * pair + 1] + d);
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even));
      const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(odd)), 16);
      _mm512_store_si512(out, _mm512_or_si512(low, high));
    }
  }
}

// 2^x for x <= 0, good to 3e-6: far below the rounding to bf16 that follows. -inf gives 0.
inline __m512 exp2_of(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-150.0f));
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);  // [-0.5, 0.5]; Taylor coefficients of 2^f, the last ones adjusted
  __m512 y = _mm512_set1_ps(0.00961813f);
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.05550411f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.24022651f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.69314718f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(y, whole);
}

template <int kRows>
void score_tile(const std::int32_t* const* q, std::int64_t head_dim, const std::uint16_t* keys, const char* next,
                float* scores) {
  __m512 sum[kRows][4];
  bf16_tile<kRows, 4, true>(q, head_dim / 2, keys, 2 * kKeys, next, sum);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) _mm512_store_ps(scores + r * kKeys + u * 16, sum[r][u]);
  }
}

template <int kRows, int kUnits>
void value_tile(const std::int32_t* const* probs, std::int64_t num_pairs, const std::uint16_t* values,
                std::int64_t head_dim, const char* next, float* sums) {
  __m512 sum[kRows][kUnits];
  bf16_tile<kRows, kUnits, true>(probs, num_pairs, values, 2 * head_dim, next, sum);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < kUnits; ++u) {
      float* out = sums + r * head_dim + u * 16;
      _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), sum[r][u]));
    }
  }
}

template <int kRows>
void value_rows(const std::int32_t* const* probs, std::int64_t num_pairs, const std::uint16_t* values,
                std::int64_t head_dim, const char* next, float* sums) {
  for (std::int64_t d = 0; d < head_dim;) {
    const std::int64_t units = std::min<std::int64_t>(4, (head_dim - d) / 16);
    const std::uint16_t* v = values + 2 * d;
    switch (units) {
      case 4: value_tile<kRows, 4>(probs, num_pairs, v, head_dim, next, sums + d); break;
      case 3: value_tile<kRows, 3>(probs, num_pairs, v, head_dim, next, sums + d); break;
      case 2: value_tile<kRows, 2>(probs, num_pairs, v, head_dim, next, sums + d); break;
      default: value_tile<kRows, 1>(probs, num_pairs, v, head_dim, next, sums + d); break;
    }
    d += 16 * units;
    next += kKeys * 2 * 16 * units;
  }
}

// body(first row, std::integral_constant number of rows) over all rows in tiles.
template <typename Body>
void for_tiles(std::int64_t rows, const Body& body) {
  std::int64_t r = 0;
  for (; r + kBf16TileRows <= rows; r += kBf16TileRows) body(r, std::integral_constant<int, kBf16TileRows>{});
  switch (rows - r) {
    case 5: body(r, std::integral_constant<int, 5>{}); break;
    case 4: body(r, std::integral_constant<int, 4>{}); break;
    case 3: body(r, std::integral_constant<int, 3>{}); break;
    case 2: body(r, std::integral_constant<int, 2>{}); break;
    case 1: body(r, std::integral_constant<int, 1>{}); break;
    default: break;
  }
}

// Scores of one row to bf16 probabilities; keys outside [begin, end) get 0. Rescales what the row summed before.
inline void softmax_row(const Scratch& s, std::int64_t r, float scale, std::int64_t begin, std::int64_t end,
                        std::int64_t head_dim) {
  std::uint16_t* probs = s.probs + r * kKeys;
  if (begin >= end) {
    std::memset(probs, 0, kKeys * 2);
    return;
  }
  const std::uint64_t visible = (end == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << end) - 1) & ~((std::uint64_t{1} << begin) - 1);
  __m512 t[4];
#pragma GCC unroll 4
  for (int u = 0; u < 4; ++u) {
    const __mmask16 mask = static_cast<__mmask16>(visible >> (16 * u));
    t[u] = _mm512_mask_mul_ps(_mm512_set1_ps(kNone), mask, _mm512_load_ps(s.scores + r * kKeys + u * 16), _mm512_set1_ps(scale));
  }
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(t[0], t[1]), _mm512_max_ps(t[2], t[3])));
  float* sums = s.sums + r * head_dim;
  __m512 total = _mm512_load_ps(s.totals + r * 16);
  if (largest > s.max[r]) {
    const __m512 factor = exp2_of(_mm512_set1_ps(s.max[r] - largest));
    s.max[r] = largest;
    total = _mm512_mul_ps(total, factor);
    for (std::int64_t d = 0; d < head_dim; d += 16) _mm512_storeu_ps(sums + d, _mm512_mul_ps(_mm512_loadu_ps(sums + d), factor));
  }
  const __m512 max = _mm512_set1_ps(s.max[r]);
  const __m512bh ones = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3F80));
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const __m512 low = exp2_of(_mm512_sub_ps(t[2 * half], max)), high = exp2_of(_mm512_sub_ps(t[2 * half + 1], max));
    const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
    total = _mm512_dpbf16_ps(total, rounded, ones);
    _mm512_store_si512(probs + half * 32, reinterpret_cast<__m512i>(rounded));
  }
  _mm512_store_ps(s.totals + r * 16, total);
}

void write_results(const AttendArgs& args, const AttendItem& item, std::int64_t first_row, const Scratch& s,
                   float* partials) {
  const std::int64_t heads = args.q.shape[1], head_dim = args.q.shape[2], group = heads / args.arena.layout.num_kv_heads;
  for (std::int64_t pair = item.pair_begin; pair < item.pair_end; ++pair) {
    const std::int64_t r = pair - item.pair_begin;
    const float* sums = s.sums + r * head_dim;
    const float total = _mm512_reduce_add_ps(_mm512_load_ps(s.totals + r * 16));
    if (item.partial >= 0) {
      float* out = partials + (item.partial + r) * partial_floats(head_dim);
      std::memcpy(out, sums, static_cast<std::size_t>(head_dim) * sizeof(float));
      out[head_dim] = s.max[r] / kLog2E;
      out[head_dim + 1] = total;
      continue;
    }
    const std::int64_t target = ((first_row + pair / group) * heads + item.kv_head * group + pair % group) * head_dim;
    const __m512 factor = _mm512_set1_ps(total > 0 ? 1 / total : 0.0f);
    auto* out = static_cast<std::uint16_t*>(args.out.data) + target;
    for (std::int64_t d = 0; d < head_dim; d += 16) {
      const __m256bh value = _mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(sums + d), factor));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + d), reinterpret_cast<__m256i>(value));
    }
  }
}

}  // namespace

bool can_attend_bf16(const AttendArgs& args) {
  return cpu_has_avx512_bf16() && args.q.dtype == DType::kBF16 && args.arena.dtype == DType::kBF16 &&
         args.q.shape[2] % 16 == 0 && args.scale > 0;
}

void attend_item_bf16(const AttendArgs& args, const AttendItem& item, float* partials, float* scratch) {
  const std::int64_t heads = args.q.shape[1], head_dim = args.q.shape[2], group = heads / args.arena.layout.num_kv_heads;
  const Scratch s = carve(scratch, head_dim);
  const std::int32_t* query_start = args.batch.query_start.as<std::int32_t>();
  const std::int64_t first_row = query_start[item.seq];
  const std::int64_t first_position =
      args.batch.context_len.as<std::int32_t>()[item.seq] - (query_start[item.seq + 1] - first_row);
  const std::int64_t rows = item.pair_end - item.pair_begin;
  std::fill(s.sums, s.sums + rows * head_dim, 0.0f);
  std::fill(s.totals, s.totals + rows * 16, 0.0f);
  std::fill(s.max, s.max + rows, kNone);
  const std::int32_t* q[kAttendTileRows];
  const std::int32_t* probs[kAttendTileRows];
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t pair = item.pair_begin + r;
    const std::int64_t row = (first_row + pair / group) * heads + item.kv_head * group + pair % group;
    q[r] = reinterpret_cast<const std::int32_t*>(static_cast<const std::uint16_t*>(args.q.data) + row * head_dim);
    probs[r] = reinterpret_cast<const std::int32_t*>(s.probs + r * kKeys);
  }
  // The arena's blocks lie far apart, where no hardware looks ahead: while a block is multiplied, the tiles fetch the K and V of the
  // next one (64 rows in one run, as blocks of 64 tokens have them; otherwise something else, harmlessly).
  const std::uint16_t *keys[kKeys], *values[kKeys], *next_keys[kKeys], *next_values[kKeys];
  const auto num_keys = [&item](std::int64_t key) { return std::clamp<std::int64_t>(item.key_end - key, 0, kKeys); };
  row_addresses(args, item, 0, item.key_begin, num_keys(item.key_begin), keys);
  row_addresses(args, item, 1, item.key_begin, num_keys(item.key_begin), values);
  for (std::int64_t key = item.key_begin; key < item.key_end; key += kKeys) {
    const std::int64_t count = num_keys(key);
    row_addresses(args, item, 0, key + kKeys, num_keys(key + kKeys), next_keys);
    row_addresses(args, item, 1, key + kKeys, num_keys(key + kKeys), next_values);
    pack_keys(keys, head_dim, s.keys);
    for_tiles(rows, [&](std::int64_t r, auto n) {
      score_tile<n>(q + r, head_dim, s.keys, reinterpret_cast<const char*>(next_keys[0]), s.scores + r * kKeys);
    });
    pack_values(values, head_dim, s.values);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t position = first_position + (item.pair_begin + r) / group;
      const std::int64_t first = args.window > 0 ? std::max<std::int64_t>(0, position + 1 - args.window) : 0;
      softmax_row(s, r, args.scale * kLog2E, std::clamp<std::int64_t>(first - key, 0, count),
                  std::clamp<std::int64_t>(position + 1 - key, 0, count), head_dim);
    }
    const std::int64_t pairs = (count + 1) / 2;
    for_tiles(rows, [&](std::int64_t r, auto n) {
      value_rows<n>(probs + r, pairs, s.values, head_dim, reinterpret_cast<const char*>(next_values[0]),
                    s.sums + r * head_dim);
    });
    std::copy(next_keys, next_keys + kKeys, keys);
    std::copy(next_values, next_values + kKeys, values);
  }
  write_results(args, item, first_row, s, partials);
}

}  // namespace fastgen
#pragma GCC pop_options

#else

namespace fastgen {
bool can_attend_bf16(const AttendArgs&) { return false; }
void attend_item_bf16(const AttendArgs&, const AttendItem&, float*, float*) {}
}  // namespace fastgen

#endif
