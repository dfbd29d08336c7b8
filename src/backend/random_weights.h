// Random weights: normal numbers with sigma 0.02, each a function of (seed, stream, its index) alone, so that the same model
// comes out on any machine, in any order, with any number of threads. Plain C++17, shared with kernels.
//
// Philox gives four words for four numbers; each two of them become two normal numbers by Box and Muller (1958). Logarithm, sine
// and cosine are series over plain IEEE operations, never fused, so that CPU and GPU agree to the last bit.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

#include "backend/counter_rng.h"

namespace fastgen {

inline constexpr float kRandomWeightSigma = 0.02f;

// FNV-1a, 64 bits: a tensor's name to its stream of the generator.
inline std::uint64_t random_weight_stream(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

namespace random_weights {

// The operations that every version uses, rounded one by one: a fused multiply-add would differ in the last bit.
#ifdef __CUDA_ARCH__
#define FG_ROUNDED(on_device, on_host) on_device
#else
#define FG_ROUNDED(on_device, on_host) on_host
#endif
FG_HOST_DEVICE inline float mul(float a, float b) { return FG_ROUNDED(__fmul_rn(a, b), a * b); }
FG_HOST_DEVICE inline float add(float a, float b) { return FG_ROUNDED(__fadd_rn(a, b), a + b); }
FG_HOST_DEVICE inline float div(float a, float b) { return FG_ROUNDED(__fdiv_rn(a, b), a / b); }
FG_HOST_DEVICE inline float root(float a) { return FG_ROUNDED(__fsqrt_rn(a), __builtin_sqrtf(a)); }
FG_HOST_DEVICE inline float from_bits(std::uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
FG_HOST_DEVICE inline std::uint32_t to_bits(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Coefficients, highest power first: atanh(s) / s in s^2, sin(x) / x and cos(x) in x^2.
inline constexpr float kLn2 = 0.693147180559945f;
inline constexpr std::uint32_t kRootHalf = 0x3F3504F3u;  // bits of sqrt(1/2)
#define FG_ATANH_SERIES 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f
#define FG_SIN_SERIES 1.0f / 362880, -1.0f / 5040, 1.0f / 120, -1.0f / 6, 1.0f
#define FG_COS_SERIES 1.0f / 40320, -1.0f / 720, 1.0f / 24, -1.0f / 2, 1.0f

FG_HOST_DEVICE inline float series(float z, float a, float b, float c, float d, float e) {
  return add(mul(add(mul(add(mul(add(mul(a, z), b), z), c), z), d), z), e);
}

// sigma * sqrt(-2 log(u)) for the uniform number u in (0, 1] that the bits make.
FG_HOST_DEVICE inline float radius(std::uint32_t bits) {
  const float u = add(mul(static_cast<float>(bits >> 8), 0x1p-24f), 0x1p-25f);
  // u = m * 2^exponent with m in [sqrt(1/2), sqrt(2)); log(m) = 2 atanh((m - 1) / (m + 1)).
  const std::uint32_t shifted = to_bits(u) + (0x3F800000u - kRootHalf);
  const float exponent = static_cast<float>(static_cast<std::int32_t>(shifted >> 23) - 127);
  const float m = from_bits((shifted & 0x7FFFFFu) + kRootHalf);
  const float s = div(add(m, -1.0f), add(m, 1.0f));
  const float log_m = mul(mul(2.0f, s), series(mul(s, s), FG_ATANH_SERIES));
  const float log_u = add(mul(exponent, kLn2), log_m);
  return mul(kRandomWeightSigma, root(mul(-2.0f, log_u)));
}

// Cosine and sine of a uniform angle: x in [-pi/4, pi/4) by the low 22 bits of 24, a sign and a swap by the high two.
FG_HOST_DEVICE inline void angle(std::uint32_t bits, float* cosine, float* sine) {
  const float turn = add(mul(static_cast<float>(bits >> 8 & 0x3FFFFFu), 0x1p-22f), -0.5f);
  const float x = mul(turn, 1.57079632679f), z = mul(x, x);
  const float c = from_bits(to_bits(series(z, FG_COS_SERIES)) ^ (bits << 1 & 0x80000000u));
  const float s = mul(x, series(z, FG_SIN_SERIES));
  *cosine = bits >> 31 ? s : c;
  *sine = bits >> 31 ? c : s;
}

}  // namespace random_weights

// Numbers 4 * group .. 4 * group + 3 of a stream.
FG_HOST_DEVICE inline void random_weights_of(std::uint64_t seed, std::uint64_t stream, std::uint64_t group, float* out) {
  const Random4 random = philox(seed, group, stream);
  for (int pair = 0; pair < 2; ++pair) {
    float cosine, sine;
    random_weights::angle(random.v[2 * pair + 1], &cosine, &sine);
    const float r = random_weights::radius(random.v[2 * pair]);
    out[2 * pair] = random_weights::mul(r, cosine);
    out[2 * pair + 1] = random_weights::mul(r, sine);
  }
}

}  // namespace fastgen
