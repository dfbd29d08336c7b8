// One item of attention in Highway: float32 arithmetic on K and V tiles of any dtype.
//
// A block of 64 keys is brought to float32 once for all rows of the item: K transposed, so that scores of 16 keys come from
// one vector and a broadcast of q; V as it lies, so that a row's sum is over vectors of D.
#include "backend/cpu/attention.h"

#include "backend/cpu/hwy_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention_hwy.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastgen {
namespace HWY_NAMESPACE {

constexpr int kKeys = kAttendKeyBlock;
constexpr int kRegRows = kLanes == 16 ? 6 : kLanes == 8 ? 3 : 2;  // rows whose sums stay in registers
constexpr int kRegVecs = kLanes == 16 ? 4 : 2;

// Where an item's scratch lies. dim is D rounded up to 16; the padding is zero.
struct Scratch {
  std::int64_t dim;
  float* q;       // [rows][D]
  float* keys;    // [D][64], transposed
  float* values;  // [64][dim]
  float* scores;  // [rows][64]
  float* sums;    // [rows][dim]
  float* max;     // [rows]
  float* total;   // [rows]
};

Scratch carve(float* base, std::int64_t head_dim) {
  Scratch s;
  s.dim = (head_dim + 15) / 16 * 16;
  s.q = base;
  s.keys = s.q + kAttendTileRows * s.dim;
  s.values = s.keys + kKeys * s.dim;
  s.scores = s.values + kKeys * s.dim;
  s.sums = s.scores + kAttendTileRows * kKeys;
  s.max = s.sums + kAttendTileRows * s.dim;
  s.total = s.max + kAttendTileRows;
  return s;
}

// Tokens [key, key + count) of one head to float32 rows; their addresses come block by block from the table.
template <typename T>
void load_rows(const AttendArgs& args, const AttendItem& item, int kv, std::int64_t key, std::int64_t count,
               const Scratch& s) {
  const KvLayout& layout = args.arena.layout;
  const std::int32_t* table =
      args.batch.block_table.as<std::int32_t>() + item.seq * args.batch.block_table.row_elements();
  const std::int64_t head_dim = layout.head_dim;
  for (std::int64_t j = 0; j < count; ++j) {
    const std::int64_t position = key + j;
    const T* token = static_cast<const T*>(args.arena.data) +
                     layout.tile_offset(table[position / layout.block_size], args.layer, kv, item.kv_head) +
                     position % layout.block_size * head_dim;
    float* row = s.values + j * s.dim;
    std::int64_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) store_f32(load_f32(token + d), row + d);
    if (d < head_dim) store_f32(load_some(token + d, head_dim - d), row + d);
  }
}

// keys [D][64] = values [64][dim] transposed, 4 x 4 at a time; up to 3 keys and dimensions beyond the ends come along.
#if HWY_TARGET == HWY_SCALAR
void transpose_keys(std::int64_t count, std::int64_t head_dim, const Scratch& s) {
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t d = 0; d < head_dim; ++d) s.keys[d * kKeys + j] = s.values[j * s.dim + d];
  }
}
#else
void transpose_keys(std::int64_t count, std::int64_t head_dim, const Scratch& s) {
  const hn::CappedTag<float, 4> d4;
  const hn::Repartition<double, decltype(d4)> d2;
  const auto low = [&](auto a, auto b) { return hn::BitCast(d4, hn::InterleaveLower(d2, hn::BitCast(d2, a), hn::BitCast(d2, b))); };
  const auto high = [&](auto a, auto b) { return hn::BitCast(d4, hn::InterleaveUpper(d2, hn::BitCast(d2, a), hn::BitCast(d2, b))); };
  for (std::int64_t j = 0; j < count; j += 4) {
    for (std::int64_t d = 0; d < head_dim; d += 4) {
      const float* in = s.values + j * s.dim + d;
      const auto a = hn::Load(d4, in), b = hn::Load(d4, in + s.dim);
      const auto c = hn::Load(d4, in + 2 * s.dim), e = hn::Load(d4, in + 3 * s.dim);
      const auto ab0 = hn::InterleaveLower(d4, a, b), ab1 = hn::InterleaveUpper(d4, a, b);
      const auto ce0 = hn::InterleaveLower(d4, c, e), ce1 = hn::InterleaveUpper(d4, c, e);
      float* out = s.keys + d * kKeys + j;
      hn::Store(low(ab0, ce0), d4, out);
      hn::Store(high(ab0, ce0), d4, out + kKeys);
      hn::Store(low(ab1, ce1), d4, out + 2 * kKeys);
      hn::Store(high(ab1, ce1), d4, out + 3 * kKeys);
    }
  }
}
#endif

void load_tile(const AttendArgs& args, const AttendItem& item, int kv, std::int64_t key, std::int64_t count,
               const Scratch& s) {
  if (args.arena.dtype == DType::kF32) {
    load_rows<float>(args, item, kv, key, count, s);
  } else {
    load_rows<std::uint16_t>(args, item, kv, key, count, s);
  }
}

void load_queries(const AttendArgs& args, const AttendItem& item, std::int64_t first_row, const Scratch& s) {
  const std::int64_t heads = args.q.shape[1], head_dim = args.q.shape[2], group = heads / args.arena.layout.num_kv_heads;
  for (std::int64_t pair = item.pair_begin; pair < item.pair_end; ++pair) {
    const std::int64_t source = ((first_row + pair / group) * heads + item.kv_head * group + pair % group) * head_dim;
    float* out = s.q + (pair - item.pair_begin) * s.dim;
    for (std::int64_t d = 0; d < head_dim; ++d) {
      if (args.q.dtype == DType::kF32) {
        out[d] = static_cast<const float*>(args.q.data)[source + d] * args.scale;
      } else {
        const std::uint32_t bits = std::uint32_t{static_cast<const std::uint16_t*>(args.q.data)[source + d]} << 16;
        float value;
        std::memcpy(&value, &bits, sizeof(value));
        out[d] = value * args.scale;
      }
    }
  }
}

// out [kRows][kRegVecs * kLanes] (+)= sum over i < n of a[row][i] * b[i]: both products of attention.
template <int kRows, bool kAccumulate>
HWY_INLINE void multiply_tile(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, std::int64_t n,
                              float* out, std::int64_t out_stride, int num_vecs) {
  V32 sum[kRows][kRegVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kRegVecs; ++v) {
      sum[r][v] = kAccumulate && v < num_vecs ? hn::Load(kF, out + r * out_stride + v * kLanes) : hn::Zero(kF);
    }
  }
  for (std::int64_t i = 0; i < n; ++i) {
    V32 vec[kRegVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kRegVecs; ++v) vec[v] = v < num_vecs ? hn::Load(kF, b + i * b_stride + v * kLanes) : hn::Zero(kF);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const V32 x = hn::Set(kF, a[r * a_stride + i]);
#pragma GCC unroll 8
      for (int v = 0; v < kRegVecs; ++v) sum[r][v] = hn::MulAdd(x, vec[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kRegVecs; ++v) {
      if (v < num_vecs) hn::Store(sum[r][v], kF, out + r * out_stride + v * kLanes);
    }
  }
}

// out [rows][columns] (+)= a [rows][n] * b [n][columns]; columns a multiple of 16.
template <bool kAccumulate>
void multiply(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, std::int64_t n, float* out,
              std::int64_t out_stride, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t kStep = kRegVecs * kLanes;
  for (std::int64_t c = 0; c < columns; c += kStep) {
    const int vecs = static_cast<int>(std::min<std::int64_t>(kRegVecs, (columns - c) / kLanes));
    std::int64_t r = 0;
    for (; r + kRegRows <= rows; r += kRegRows) {
      multiply_tile<kRegRows, kAccumulate>(a + r * a_stride, a_stride, b + c, b_stride, n, out + r * out_stride + c,
                                           out_stride, vecs);
    }
    for (; r < rows; ++r) {
      multiply_tile<1, kAccumulate>(a + r * a_stride, a_stride, b + c, b_stride, n, out + r * out_stride + c, out_stride,
                                    vecs);
    }
  }
}

// The keys of [key, key + kKeys) that a row sees, as a range relative to `key`.
struct Visible {
  std::int64_t begin, end;
};

HWY_INLINE Visible visible_keys(std::int64_t position, std::int64_t window, std::int64_t key, std::int64_t count) {
  const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, position + 1 - window) : 0;
  return {std::clamp<std::int64_t>(first - key, 0, count), std::clamp<std::int64_t>(position + 1 - key, 0, count)};
}

// Scores of one row to exponentials, in place, 0 where not visible; rescales what the row has summed before.
void softmax_row(float* scores, Visible visible, std::int64_t count, float* sums, std::int64_t dim, float* max,
                 float* total) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  for (std::int64_t j = 0; j < visible.begin; ++j) scores[j] = kNone;
  for (std::int64_t j = visible.end; j < (count + 15) / 16 * 16; ++j) scores[j] = kNone;
  V32 largest = hn::Set(kF, kNone);
  for (std::int64_t j = 0; j < count; j += kLanes) largest = hn::Max(largest, hn::Load(kF, scores + j));
  const float new_max = std::max(*max, hn::GetLane(hn::MaxOfLanes(kF, largest)));
  if (visible.begin >= visible.end || new_max == kNone) {
    std::memset(scores, 0, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  const V32 shift = hn::Set(kF, new_max);
  V32 sum = hn::Zero(kF);
  for (std::int64_t j = 0; j < count; j += kLanes) {
    const V32 p = hn::Exp(kF, hn::Max(hn::Sub(hn::Load(kF, scores + j), shift), hn::Set(kF, -200.0f)));
    hn::Store(p, kF, scores + j);
    sum = hn::Add(sum, p);
  }
  const float factor = *max == kNone ? 0.0f : std::exp(*max - new_max);
  *total = *total * factor + hn::GetLane(hn::SumOfLanes(kF, sum));
  *max = new_max;
  if (factor == 1.0f) return;
  const V32 f = hn::Set(kF, factor);
  for (std::int64_t d = 0; d < dim; d += kLanes) hn::Store(hn::Mul(hn::Load(kF, sums + d), f), kF, sums + d);
}

void write_results(const AttendArgs& args, const AttendItem& item, std::int64_t first_row, const Scratch& s,
                   float* partials) {
  const std::int64_t heads = args.q.shape[1], head_dim = args.q.shape[2], group = heads / args.arena.layout.num_kv_heads;
  for (std::int64_t pair = item.pair_begin; pair < item.pair_end; ++pair) {
    const std::int64_t r = pair - item.pair_begin;
    float* sums = s.sums + r * s.dim;
    if (item.partial >= 0) {
      float* out = partials + (item.partial + r) * partial_floats(head_dim);
      std::memcpy(out, sums, static_cast<std::size_t>(head_dim) * sizeof(float));
      out[head_dim] = s.max[r];
      out[head_dim + 1] = s.total[r];
      continue;
    }
    const std::int64_t target = ((first_row + pair / group) * heads + item.kv_head * group + pair % group) * head_dim;
    const V32 factor = hn::Set(kF, s.total[r] > 0 ? 1.0f / s.total[r] : 0.0f);
    for (std::int64_t d = 0; d < head_dim; d += kLanes) {
      const V32 value = hn::Mul(hn::Load(kF, sums + d), factor);
      const std::int64_t n = std::min(kLanes, head_dim - d);
      if (args.out.dtype == DType::kF32) {
        float* out = static_cast<float*>(args.out.data) + target + d;
        n == kLanes ? store_f32(value, out) : store_some(value, out, n);
      } else {
        std::uint16_t* out = static_cast<std::uint16_t*>(args.out.data) + target + d;
        n == kLanes ? store_f32(value, out) : store_some(value, out, n);
      }
    }
  }
}

void AttendItemImpl(const AttendArgs& args, const AttendItem& item, float* partials, float* scratch) {
  const Scratch s = carve(scratch, args.q.shape[2]);
  const std::int32_t* query_start = args.batch.query_start.as<std::int32_t>();
  const std::int64_t first_row = query_start[item.seq];
  const std::int64_t num_queries = query_start[item.seq + 1] - first_row;
  const std::int64_t first_position = args.batch.context_len.as<std::int32_t>()[item.seq] - num_queries;
  const std::int64_t head_dim = args.q.shape[2], group = args.q.shape[1] / args.arena.layout.num_kv_heads;
  const std::int64_t rows = item.pair_end - item.pair_begin;
  load_queries(args, item, first_row, s);
  std::fill(s.sums, s.sums + rows * s.dim, 0.0f);
  std::fill(s.max, s.max + rows, -std::numeric_limits<float>::infinity());
  std::fill(s.total, s.total + rows, 0.0f);
  for (std::int64_t key = item.key_begin; key < item.key_end; key += kKeys) {
    const std::int64_t count = std::min<std::int64_t>(kKeys, item.key_end - key);
    const std::int64_t padded = (count + 15) / 16 * 16;
    load_tile(args, item, 0, key, count, s);
    transpose_keys(count, head_dim, s);
    multiply<false>(s.q, s.dim, s.keys, kKeys, head_dim, s.scores, kKeys, rows, padded);
    load_tile(args, item, 1, key, count, s);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t position = first_position + (item.pair_begin + r) / group;
      softmax_row(s.scores + r * kKeys, visible_keys(position, args.window, key, count), count, s.sums + r * s.dim,
                  s.dim, s.max + r, s.total + r);
    }
    multiply<true>(s.scores, kKeys, s.values, s.dim, count, s.sums, s.dim, rows, s.dim);
  }
  write_results(args, item, first_row, s, partials);
}

}  // namespace HWY_NAMESPACE
}  // namespace fastgen
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastgen {
HWY_EXPORT(AttendItemImpl);

void attend_item(const AttendArgs& args, const AttendItem& item, float* partials, float* scratch) {
  HWY_DYNAMIC_DISPATCH(AttendItemImpl)(args, item, partials, scratch);
}

std::int64_t attend_scratch_floats(std::int64_t head_dim) {
  const std::int64_t dim = (head_dim + 15) / 16 * 16;
  return dim * (2 * kAttendTileRows + 2 * kAttendKeyBlock) + kAttendTileRows * (kAttendKeyBlock * 2 + 32);
}
}  // namespace fastgen
#endif
