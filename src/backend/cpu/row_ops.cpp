#include "backend/cpu/row_ops.h"

#include "backend/cpu/hwy_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/row_ops.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

#include "backend/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fastgen {
namespace HWY_NAMESPACE {

float add_and_sum_squares(float* x, const float* delta, std::int64_t n) {
  V32 sum = hn::Zero(kF);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    V32 value = load_f32(x + i);
    if (delta) {
      value = hn::Add(value, load_f32(delta + i));
      store_f32(value, x + i);
    }
    sum = hn::MulAdd(value, value, sum);
  }
  if (i < n) {
    V32 value = load_some(x + i, n - i);
    if (delta) {
      value = hn::Add(value, load_some(delta + i, n - i));
      store_some(value, x + i, n - i);
    }
    sum = hn::MulAdd(value, value, sum);
  }
  return hn::GetLane(hn::SumOfLanes(kF, sum));
}

template <typename T>
void scale(const float* x, const float* weight, float factor, std::int64_t n, T* out) {
  const V32 f = hn::Set(kF, factor);
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f32(hn::Mul(hn::Mul(load_f32(x + i), f), load_f32(weight + i)), out + i);
  if (i < n) store_some(hn::Mul(hn::Mul(load_some(x + i, n - i), f), load_some(weight + i, n - i)), out + i, n - i);
}

void AddRmsNormRow(float* residual, const float* delta, const float* weight, float eps, std::int64_t n, void* out,
                   DType out_dtype) {
  const float mean = add_and_sum_squares(residual, delta, n) / static_cast<float>(n);
  const float factor = 1.0f / std::sqrt(mean + eps);
  if (out_dtype == DType::kF32) {
    scale(residual, weight, factor, n, static_cast<float*>(out));
  } else {
    scale(residual, weight, factor, n, static_cast<std::uint16_t*>(out));
  }
}

template <typename T>
void rope(const float* x, const float* table, std::int64_t half, T* out) {
  const float* cosines = table;
  const float* sines = table + half;
  std::int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const V32 a = load_f32(x + i), b = load_f32(x + half + i);
    const V32 c = load_f32(cosines + i), s = load_f32(sines + i);
    store_f32(hn::NegMulAdd(b, s, hn::Mul(a, c)), out + i);
    store_f32(hn::MulAdd(a, s, hn::Mul(b, c)), out + half + i);
  }
  if (i == half) return;
  const std::int64_t n = half - i;
  const V32 a = load_some(x + i, n), b = load_some(x + half + i, n);
  const V32 c = load_some(cosines + i, n), s = load_some(sines + i, n);
  store_some(hn::NegMulAdd(b, s, hn::Mul(a, c)), out + i, n);
  store_some(hn::MulAdd(a, s, hn::Mul(b, c)), out + half + i, n);
}

void RopeRow(const float* x, const float* table, std::int64_t d, void* out, DType out_dtype) {
  if (out_dtype == DType::kF32) {
    rope(x, table, d / 2, static_cast<float*>(out));
  } else {
    rope(x, table, d / 2, static_cast<std::uint16_t*>(out));
  }
}

template <typename T>
void convert(const float* x, std::int64_t n, T* out) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f32(load_f32(x + i), out + i);
  if (i < n) store_some(load_some(x + i, n - i), out + i, n - i);
}

void ConvertRow(const float* x, std::int64_t n, void* out, DType out_dtype) {
  if (out_dtype == DType::kF32) {
    convert(x, n, static_cast<float*>(out));
  } else {
    convert(x, n, static_cast<std::uint16_t*>(out));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fastgen
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fastgen {
HWY_EXPORT(AddRmsNormRow);
HWY_EXPORT(RopeRow);
HWY_EXPORT(ConvertRow);

void add_rms_norm_row(float* residual, const float* delta, const float* weight, float eps, std::int64_t n, void* out,
                      DType out_dtype) {
  HWY_DYNAMIC_DISPATCH(AddRmsNormRow)(residual, delta, weight, eps, n, out, out_dtype);
}
void rms_norm_in_place(float* x, const float* weight, float eps, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(AddRmsNormRow)(x, nullptr, weight, eps, n, x, DType::kF32);
}
void rope_row(const float* x, const float* table, std::int64_t d, void* out, DType out_dtype) {
  HWY_DYNAMIC_DISPATCH(RopeRow)(x, table, d, out, out_dtype);
}
void convert_row(const float* x, std::int64_t n, void* out, DType out_dtype) {
  HWY_DYNAMIC_DISPATCH(ConvertRow)(x, n, out, out_dtype);
}
}  // namespace fastgen
#endif
