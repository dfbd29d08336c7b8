// One 64-bit lane runs one Philox, whose 32-bit words stand in the lane's low half: products take low halves alone, so what the
// high halves hold does not matter. Built without fused multiply-add (meson.build), as random_weights.h wants it.
#include "backend/cpu/random_fill.h"

#include "backend/cpu/hwy_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/random_fill.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "backend/bf16.h"
#include "backend/cpu/simd-inl.h"
#include "backend/random_weights.h"

HWY_BEFORE_NAMESPACE();
namespace fastgen {
namespace HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR  // which has no lanes of 64 bits

using DU32 = hn::Repartition<std::uint32_t, D32>;
using DI32 = hn::Repartition<std::int32_t, D32>;
using DU64 = hn::Repartition<std::uint64_t, D32>;
using VU32 = hn::Vec<DU32>;
using VU64 = hn::Vec<DU64>;
constexpr DU32 kU32{};
constexpr DI32 kI32{};
constexpr DU64 kU64{};

HWY_INLINE VU64 product(VU64 word, std::uint32_t factor) {
  return hn::MulEven(hn::BitCast(kU32, word), hn::Set(kU32, factor));
}

HWY_INLINE V32 series(V32 z, float a, float b, float c, float d, float e) {
  V32 sum = hn::Set(kF, a);
  for (float next : {b, c, d, e}) sum = hn::Add(hn::Mul(sum, z), hn::Set(kF, next));
  return sum;
}

// Exact: at most 24 bits.
HWY_INLINE V32 to_float(VU32 bits) { return hn::ConvertTo(kF, hn::BitCast(kI32, bits)); }

HWY_INLINE V32 radius(VU32 bits) {
  const V32 u = hn::Add(hn::Mul(to_float(hn::ShiftRight<8>(bits)), hn::Set(kF, 0x1p-24f)), hn::Set(kF, 0x1p-25f));
  const VU32 shifted = hn::Add(hn::BitCast(kU32, u), hn::Set(kU32, 0x3F800000u - random_weights::kRootHalf));
  const V32 exponent = hn::ConvertTo(kF, hn::Sub(hn::BitCast(kI32, hn::ShiftRight<23>(shifted)), hn::Set(kI32, 127)));
  const V32 m = hn::BitCast(kF, hn::Add(hn::And(shifted, hn::Set(kU32, 0x7FFFFFu)), hn::Set(kU32, random_weights::kRootHalf)));
  const V32 one = hn::Set(kF, 1.0f);
  const V32 s = hn::Div(hn::Add(m, hn::Neg(one)), hn::Add(m, one));
  const V32 log_m = hn::Mul(hn::Mul(hn::Set(kF, 2.0f), s), series(hn::Mul(s, s), FG_ATANH_SERIES));
  const V32 log_u = hn::Add(hn::Mul(exponent, hn::Set(kF, random_weights::kLn2)), log_m);
  return hn::Mul(hn::Set(kF, kRandomWeightSigma), hn::Sqrt(hn::Mul(hn::Set(kF, -2.0f), log_u)));
}

HWY_INLINE void angle(VU32 bits, V32* cosine, V32* sine) {
  const V32 fraction = to_float(hn::And(hn::ShiftRight<8>(bits), hn::Set(kU32, 0x3FFFFFu)));
  const V32 turn = hn::Add(hn::Mul(fraction, hn::Set(kF, 0x1p-22f)), hn::Set(kF, -0.5f));
  const V32 x = hn::Mul(turn, hn::Set(kF, 1.57079632679f)), z = hn::Mul(x, x);
  const VU32 sign = hn::And(hn::ShiftLeft<1>(bits), hn::Set(kU32, 0x80000000u));
  const V32 c = hn::Xor(series(z, FG_COS_SERIES), hn::BitCast(kF, sign));
  const V32 s = hn::Mul(x, series(z, FG_SIN_SERIES));
  const auto swapped = hn::Lt(hn::BitCast(kI32, bits), hn::Zero(kI32));
  const auto swapped_f = hn::RebindMask(kF, swapped);
  *cosine = hn::IfThenElse(swapped_f, s, c);
  *sine = hn::IfThenElse(swapped_f, c, s);
}

// As many whole vectors as fit; returns the first element that is left.
template <typename T>
HWY_INLINE std::int64_t fill_vectors(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, T* out) {
  constexpr std::int64_t kGroups = static_cast<std::int64_t>(hn::MaxLanes(kU64));  // of 4 numbers
  // Interleaving works within halves of two lanes: even lanes take the first half of the groups, odd lanes the second, so
  // that what comes out is in order.
  HWY_ALIGN std::uint64_t offsets[8];
  for (std::int64_t lane = 0; lane < kGroups; ++lane)
    offsets[lane] = static_cast<std::uint64_t>(lane % 2 * std::max<std::int64_t>(kGroups / 2, 1) + lane / 2);
  const VU64 low = hn::Set(kU64, 0xFFFFFFFFu);
  std::int64_t i = first;
  for (; i + 4 * kGroups <= last; i += 4 * kGroups) {
    VU64 c0 = hn::Add(hn::Set(kU64, static_cast<std::uint64_t>(i) / 4), hn::Load(kU64, offsets));
    VU64 c1 = hn::ShiftRight<32>(c0), c2 = hn::Set(kU64, stream), c3 = hn::Set(kU64, stream >> 32);
    auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      const VU64 p0 = product(c0, 0xD2511F53u), p1 = product(c2, 0xCD9E8D57u);
      c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c1), hn::Set(kU64, k0));
      c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c3), hn::Set(kU64, k1));
      c1 = p1;
      c3 = p0;
    }
    const V32 r = radius(hn::BitCast(kU32, hn::Or(hn::And(c0, low), hn::ShiftLeft<32>(c2))));
    V32 cosine, sine;
    angle(hn::BitCast(kU32, hn::Or(hn::And(c1, low), hn::ShiftLeft<32>(c3))), &cosine, &sine);
    const V32 a = hn::Mul(r, cosine), b = hn::Mul(r, sine);
    store_f32(hn::InterleaveLower(kF, a, b), out + i);
    store_f32(hn::InterleaveUpper(kF, a, b), out + i + kLanes);
  }
  return i;
}

#endif

template <typename T>
HWY_INLINE void fill(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, T* out) {
#if HWY_TARGET != HWY_SCALAR
  first = fill_vectors(seed, stream, first, last, out);
#endif
  for (std::int64_t i = first; i < last; i += 4) {
    float four[4];
    random_weights_of(seed, stream, static_cast<std::uint64_t>(i) / 4, four);
    for (std::int64_t j = 0; j < std::min<std::int64_t>(4, last - i); ++j) {
      if constexpr (sizeof(T) == 4) {
        out[i + j] = four[j];
      } else {
        out[i + j] = f32_to_bf16(four[j]);
      }
    }
  }
}

void FillF32(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, float* out) {
  fill(seed, stream, first, last, out);
}
void FillBF16(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, std::uint16_t* out) {
  fill(seed, stream, first, last, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace fastgen
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastgen {

HWY_EXPORT(FillF32);
HWY_EXPORT(FillBF16);

void fill_random(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, float* out) {
  HWY_DYNAMIC_DISPATCH(FillF32)(seed, stream, first, last, out);
}
void fill_random(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, std::uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(FillBF16)(seed, stream, first, last, out);
}

}  // namespace fastgen
#endif  // HWY_ONCE
