#include "backend/cpu/hwy_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/sampling_hwy.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/sampling.h"
#include "backend/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastgen {
namespace HWY_NAMESPACE {

constexpr float kNone = -std::numeric_limits<float>::infinity();

HWY_INLINE V32 without_nan(V32 x, V32 instead) { return hn::IfThenElse(hn::IsNaN(x), instead, x); }

void FindMax(const float* x, std::int64_t n, MaxAt* out) {
  const V32 none = hn::Set(kF, kNone);
  V32 best = none;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = hn::Max(best, without_nan(load_f32(x + i), none));
  float value = hn::GetLane(hn::MaxOfLanes(kF, best));
  for (; i < n; ++i) value = x[i] > value ? x[i] : value;
  *out = {value, 0};
  if (value == kNone) return;
  const V32 wanted = hn::Set(kF, value);
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const std::intptr_t lane = hn::FindFirstTrue(kF, hn::Eq(load_f32(x + i), wanted));
    if (lane >= 0) {
      out->idx = i + lane;
      return;
    }
  }
  for (; i < n; ++i) {
    if (x[i] == value) {
      out->idx = i;
      return;
    }
  }
}

// exp underflows to 0 well before -200; the clamp keeps -inf and NaN out of the polynomial.
HWY_INLINE V32 exp_of(V32 x, V32 max, V32 scale) {
  const V32 least = hn::Set(kF, -200.0f);
  const V32 z = without_nan(hn::Mul(hn::Sub(x, max), scale), least);
  return hn::IfThenElse(hn::Le(z, least), hn::Zero(kF), hn::Exp(kF, hn::Max(z, least)));
}

void ExpScaled(const float* x, std::int64_t n, float max, float scale, float* out) {
  const V32 m = hn::Set(kF, max), s = hn::Set(kF, scale);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f32(exp_of(load_f32(x + i), m, s), out + i);
  if (i < n) store_some(exp_of(load_some(x + i, n - i), m, s), out + i, n - i);
}

void Sum(const float* x, std::int64_t n, double* out) {
  std::int64_t i = 0;
  *out = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::Repartition<double, D32> dd;
  const hn::Rebind<float, decltype(dd)> half;
  auto a = hn::Zero(dd), b = hn::Zero(dd);
  for (; i + kLanes <= n; i += kLanes) {
    a = hn::Add(a, hn::PromoteTo(dd, hn::LoadU(half, x + i)));
    b = hn::Add(b, hn::PromoteTo(dd, hn::LoadU(half, x + i + kLanes / 2)));
  }
  *out = hn::GetLane(hn::SumOfLanes(dd, hn::Add(a, b)));
#endif
  for (; i < n; ++i) *out += static_cast<double>(x[i]);
}

void CollectAtLeast(const float* x, std::int64_t n, float threshold, std::int32_t* ids, float* values,
                    std::int64_t* count) {
  const V32 least = hn::Set(kF, threshold);
  std::int64_t found = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    if (hn::AllFalse(kF, hn::Ge(load_f32(x + i), least))) continue;
    for (std::int64_t j = i; j < i + kLanes; ++j) {
      ids[found] = static_cast<std::int32_t>(j);
      values[found] = x[j];
      found += x[j] >= threshold;
    }
  }
  for (; i < n; ++i) {
    if (!(x[i] >= threshold)) continue;
    ids[found] = static_cast<std::int32_t>(i);
    values[found++] = x[i];
  }
  *count = found;
}

}  // namespace HWY_NAMESPACE
}  // namespace fastgen
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastgen {
HWY_EXPORT(FindMax);
HWY_EXPORT(ExpScaled);
HWY_EXPORT(Sum);
HWY_EXPORT(CollectAtLeast);

MaxAt find_max(const float* x, std::int64_t n) {
  MaxAt out;
  HWY_DYNAMIC_DISPATCH(FindMax)(x, n, &out);
  return out;
}
void exp_scaled(const float* x, std::int64_t n, float max, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(ExpScaled)(x, n, max, scale, out);
}
double sum(const float* x, std::int64_t n) {
  double out = 0;
  HWY_DYNAMIC_DISPATCH(Sum)(x, n, &out);
  return out;
}
std::int64_t collect_at_least(const float* x, std::int64_t n, float threshold, std::int32_t* ids, float* values) {
  std::int64_t count = 0;
  HWY_DYNAMIC_DISPATCH(CollectAtLeast)(x, n, threshold, ids, values, &count);
  return count;
}
}  // namespace fastgen
#endif
