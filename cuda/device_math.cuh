// Small device helpers that every kernel shares: packs, conversions, reductions.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace fastgen::device {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// 16 bytes of T, loaded and stored at once.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};

template <typename T>
__device__ inline Pack<T> load_pack(const T* address) {
  return *reinterpret_cast<const Pack<T>*>(address);
}
template <typename T>
__device__ inline void store_pack(T* address, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(address) = pack;
}

// 16 bytes that nobody writes while the kernel runs and nobody reads again: past L1.
__device__ inline uint4 load_once(const __nv_bfloat16* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

// The two bfloat16 of a word.
__device__ inline float low_of(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Eight neighbours, as float32: one access of bfloat16, two of float32. Addresses are multiples of 16 bytes.
struct Eight {
  float v[8];
};
__device__ inline Eight load_eight(const float* address) {
  const Pack<float> low = load_pack(address), high = load_pack(address + 4);
  return {{low.v[0], low.v[1], low.v[2], low.v[3], high.v[0], high.v[1], high.v[2], high.v[3]}};
}
__device__ inline Eight load_eight(const __nv_bfloat16* address) {
  const Pack<__nv_bfloat16> pack = load_pack(address);
  Eight x;
#pragma unroll
  for (int i = 0; i < 8; ++i) x.v[i] = __bfloat162float(pack.v[i]);
  return x;
}
__device__ inline void store_eight(float* address, const Eight& x) {
  store_pack(address, Pack<float>{{x.v[0], x.v[1], x.v[2], x.v[3]}});
  store_pack(address + 4, Pack<float>{{x.v[4], x.v[5], x.v[6], x.v[7]}});
}
__device__ inline void store_eight(__nv_bfloat16* address, const Eight& x) {
  Pack<__nv_bfloat16> pack;
#pragma unroll
  for (int i = 0; i < 8; ++i) pack.v[i] = __float2bfloat16_rn(x.v[i]);
  store_pack(address, pack);
}

__device__ inline float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

__device__ inline float warp_sum(float x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// Over the whole block; every thread gets the result. Two barriers.
__device__ inline float block_sum(float x) {
  __shared__ float partial[kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  x = warp_sum(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  const int num_warps = (blockDim.x + kWarp - 1) / kWarp;
  x = warp_sum(lane < num_warps ? partial[lane] : 0.0f);
  __syncthreads();
  return x;
}
__device__ inline float block_max(float x) {
  __shared__ float partial[kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  x = warp_max(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  const int num_warps = (blockDim.x + kWarp - 1) / kWarp;
  x = warp_max(lane < num_warps ? partial[lane] : -INFINITY);
  __syncthreads();
  return x;
}

}  // namespace fastgen::device
