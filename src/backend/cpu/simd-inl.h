// Loads and stores between float32 vectors and f32 or bf16 memory, any number of elements. Included once per target.
#if defined(FASTGEN_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FASTGEN_SIMD_INL_H_
#undef FASTGEN_SIMD_INL_H_
#else
#define FASTGEN_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include "backend/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace fastgen {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using D32 = hn::CappedTag<float, 16>;
using V32 = hn::Vec<D32>;
constexpr D32 kF{};
constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(kF));

HWY_INLINE V32 load_f32(const float* x) { return hn::LoadU(kF, x); }
HWY_INLINE V32 load_f32(const std::uint16_t* x) {
  const hn::Rebind<std::uint16_t, D32> d16;
  const hn::Repartition<std::uint32_t, D32> d32;
  return hn::BitCast(kF, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, x))));
}

HWY_INLINE void store_f32(V32 value, float* out) { hn::StoreU(value, kF, out); }
// Rounds to nearest even; a NaN stays one (its payload is not kept).
HWY_INLINE void store_f32(V32 value, std::uint16_t* out) {
  const hn::Rebind<std::uint16_t, D32> d16;
  const hn::Repartition<std::uint32_t, D32> d32;
  const hn::Repartition<std::int32_t, D32> di32;
  const auto bits = hn::BitCast(d32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFF))));
  const auto nan = hn::RebindMask(d32, hn::IsNaN(value));
  const auto result = hn::IfThenElse(nan, hn::Set(d32, 0x7FC0), rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di32, result)), d16, out);
}

// The first n < kLanes elements; the other lanes are 0.
template <typename T>
HWY_INLINE V32 load_some(const T* x, std::int64_t n) {
  T buffer[16] = {};
  for (std::int64_t i = 0; i < n; ++i) buffer[i] = x[i];
  return load_f32(buffer);
}
template <typename T>
HWY_INLINE void store_some(V32 value, T* out, std::int64_t n) {
  T buffer[16];
  store_f32(value, buffer);
  for (std::int64_t i = 0; i < n; ++i) out[i] = buffer[i];
}

}  // namespace HWY_NAMESPACE
}  // namespace fastgen
HWY_AFTER_NAMESPACE();

#endif  // FASTGEN_SIMD_INL_H_
