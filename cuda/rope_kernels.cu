// RoPE: what a product made of a row becomes q, and k and v in the arena. As row_kernels.cu's kernels, bound by memory, and with few rows by
// latency.
//
// Tried on an H200 (no record): with many tokens a block of as many threads as a token has heads for, in place of two turns of 256 threads:
// steps of 1,152 rows no faster.
#include <algorithm>

#include "device_math.cuh"
#include "launch.cuh"
#include "row_kernels.h"

namespace fastgen::device {

namespace {

constexpr int kThreads = 256;

// One head vector of one token: bias, RMS norm, rotation. Any head_dim: a warp owns it, lane l holds pairs l, l + 32, ...
// head_dim <= 256, so at most four pairs a lane.
constexpr int kPairsPerLane = 4;

struct HeadVector {
  float low[kPairsPerLane], high[kPairsPerLane];  // elements i and i + D/2
};

template <typename T>
__device__ HeadVector load_head(const T* x, const float* bias, int half) {
  HeadVector v{};
#pragma unroll
  for (int j = 0; j < kPairsPerLane; ++j) {
    const int i = threadIdx.x % kWarp + j * kWarp;
    if (i >= half) break;
    v.low[j] = to_float(x[i]) + (bias ? bias[i] : 0.0f);
    v.high[j] = to_float(x[i + half]) + (bias ? bias[i + half] : 0.0f);
  }
  return v;
}

__device__ void normalize(HeadVector& v, const float* weight, float eps, int half) {
  float squares = 0;
  for (int j = 0; j < kPairsPerLane; ++j) squares += v.low[j] * v.low[j] + v.high[j] * v.high[j];
  const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(2 * half) + eps);
  for (int j = 0; j < kPairsPerLane; ++j) {
    const int i = threadIdx.x % kWarp + j * kWarp;
    if (i >= half) break;
    v.low[j] *= scale * weight[i];
    v.high[j] *= scale * weight[i + half];
  }
}

__device__ void rotate(HeadVector& v, const float* angles, int half) {
  for (int j = 0; j < kPairsPerLane; ++j) {
    const int i = threadIdx.x % kWarp + j * kWarp;
    if (i >= half) break;
    const float c = angles[i], s = angles[i + half], low = v.low[j];
    v.low[j] = low * c - v.high[j] * s;
    v.high[j] = v.high[j] * c + low * s;
  }
}

template <typename T>
__device__ void store_head(const HeadVector& v, T* out, int half) {
#pragma unroll
  for (int j = 0; j < kPairsPerLane; ++j) {
    const int i = threadIdx.x % kWarp + j * kWarp;
    if (i >= half) break;
    out[i] = from_float<T>(v.low[j]);
    out[i + half] = from_float<T>(v.high[j]);
  }
}

// Grid (T, ceil(heads / warps)); heads run q, k, v as in the fused product.
template <typename In, typename T>
__global__ void rope_store_kernel(RopeLaunch a) {
  const int t = blockIdx.x, dim = a.layout.head_dim, half = dim / 2, num_kv = a.layout.num_kv_heads;
  const int head = blockIdx.y * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const int num_all = a.num_heads + 2 * num_kv;
  let_next_start();
  wait_for_previous();
  const std::int32_t slot = a.slots[t];
  if (head >= num_all || slot < 0) return;
  const In* x = static_cast<const In*>(a.qkv) + (std::int64_t{t} * num_all + head) * dim;
  HeadVector v = load_head(x, a.bias ? a.bias + head * dim : nullptr, half);
  const bool is_q = head < a.num_heads, is_v = head >= a.num_heads + num_kv;
  const float* norm = is_q ? a.q_norm : a.k_norm;
  if (!is_v && norm) normalize(v, norm, a.norm_eps, half);
  if (!is_v) rotate(v, a.rope + std::int64_t{a.positions[t]} * dim, half);
  T* out = static_cast<T*>(a.q_out) + (std::int64_t{t} * a.num_heads + head) * dim;
  if (!is_q)
    out = static_cast<T*>(a.arena) + a.layout.offset(slot, a.layer, is_v, (head - a.num_heads) % num_kv);
  store_head(v, out, half);
}

// head_dim a multiple of 16: a group of head_dim / 16 threads owns a head vector, each with eight elements of the
// first half and their partners in the second; the angles are loaded once for all heads that a thread works on.
// Norms need a group that is a power of two. Grid (T, heads / heads in a block, or fewer).
template <typename T>
__device__ Eight load_with_bias(const T* x, const float* bias) {
  Eight v = load_eight(x);
  if (bias == nullptr) return v;
  const Eight b = load_eight(bias);
#pragma unroll
  for (int i = 0; i < 8; ++i) v.v[i] += b.v[i];
  return v;
}

__device__ void normalize(Eight& low, Eight& high, const float* weight, float eps, int half, int group) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) squares += low.v[i] * low.v[i] + high.v[i] * high.v[i];
  // Other groups of the warp may have left already.
  const unsigned lanes = (group < kWarp ? (1u << group) - 1 : kAllLanes) << threadIdx.x % kWarp / group * group;
  for (int offset = group / 2; offset > 0; offset /= 2) squares += __shfl_xor_sync(lanes, squares, offset);
  const float scale = rsqrtf(squares / static_cast<float>(2 * half) + eps);
  const Eight low_weight = load_eight(weight), high_weight = load_eight(weight + half);
#pragma unroll
  for (int i = 0; i < 8; ++i) low.v[i] *= scale * low_weight.v[i], high.v[i] *= scale * high_weight.v[i];
}

__device__ void rotate(Eight& low, Eight& high, const Eight& cosine, const Eight& sine) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float x = low.v[i];
    low.v[i] = x * cosine.v[i] - high.v[i] * sine.v[i];
    high.v[i] = high.v[i] * cosine.v[i] + x * sine.v[i];
  }
}

template <typename In, typename T>
__global__ void __launch_bounds__(kThreads) wide_rope_store_kernel(RopeLaunch a) {
  const int t = blockIdx.x, dim = a.layout.head_dim, half = dim / 2, num_kv = a.layout.num_kv_heads;
  const int group = half / 8, per_block = kThreads / group, i = static_cast<int>(threadIdx.x) % group * 8;
  const int num_all = a.num_heads + 2 * num_kv;
  let_next_start();
  wait_for_previous();
  const std::int32_t slot = a.slots[t];
  if (slot < 0 || static_cast<int>(threadIdx.x) >= per_block * group) return;
  const float* angles = a.rope + std::int64_t{a.positions[t]} * dim + i;
  const Eight cosine = load_eight(angles), sine = load_eight(angles + half);
  for (int head = blockIdx.y * per_block + threadIdx.x / group; head < num_all; head += gridDim.y * per_block) {
    const In* x = static_cast<const In*>(a.qkv) + (std::int64_t{t} * num_all + head) * dim + i;
    const float* bias = a.bias != nullptr ? a.bias + head * dim + i : nullptr;
    Eight low = load_with_bias(x, bias), high = load_with_bias(x + half, bias ? bias + half : nullptr);
    const bool is_q = head < a.num_heads, is_v = head >= a.num_heads + num_kv;
    const float* norm = is_q ? a.q_norm : a.k_norm;
    if (!is_v && norm != nullptr) normalize(low, high, norm + i, a.norm_eps, half, group);
    if (!is_v) rotate(low, high, cosine, sine);
    T* out = static_cast<T*>(a.q_out) + (std::int64_t{t} * a.num_heads + head) * dim;
    if (!is_q)
      out = static_cast<T*>(a.arena) + a.layout.offset(slot, a.layer, is_v, (head - a.num_heads) % num_kv);
    store_eight(out + i, low);
    store_eight(out + i + half, high);
  }
}

template <typename In, typename T>
void launch_rope(const RopeLaunch& a, cudaStream_t stream) {
  const int num_all = a.num_heads + 2 * a.layout.num_kv_heads, dim = a.layout.head_dim, group = dim / 16;
  const auto tokens = static_cast<unsigned>(a.num_tokens);
  const bool has_norm = a.q_norm != nullptr || a.k_norm != nullptr;
  if (dim % 16 == 0 && (!has_norm || (group <= kWarp && (group & (group - 1)) == 0))) {
    // With many tokens a block takes all heads of one, else they are spread.
    const int passes = div_up(num_all, kThreads / group);
    const dim3 grid(tokens, static_cast<unsigned>(a.num_tokens >= 4 * card().num_sms ? 1 : passes));
    launch(wide_rope_store_kernel<In, T>, small_shape(grid, kThreads, a.num_tokens), stream, a);
  } else {
    const int num_warps = 4;
    const dim3 grid(tokens, static_cast<unsigned>(div_up(num_all, num_warps)));
    launch(rope_store_kernel<In, T>, small_shape(grid, num_warps * kWarp, a.num_tokens), stream, a);
  }
}

}  // namespace

void rope_store(const RopeLaunch& a, cudaStream_t stream) {
  if (a.num_tokens == 0) return;
  if (!a.bf16) return launch_rope<float, float>(a, stream);
  a.qkv_bf16 ? launch_rope<__nv_bfloat16, __nv_bfloat16>(a, stream) : launch_rope<float, __nv_bfloat16>(a, stream);
}

}  // namespace fastgen::device
