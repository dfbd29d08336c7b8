// What becomes of the sums of a product of few rows. Outputs are numbered: rows of weights, or pairs of them whose results meet (gate and up,
// the halves of a head). ahead() loads what store() will need while the sums are still on their way.
#pragma once

#include "device_math.cuh"
#include "row_kernels.h"

namespace fastgen::device {

template <typename T>
struct LinearEpilogue {
  static constexpr bool kPairs = false;
  const float* bias;
  T* out;
  bool add;
  std::int32_t out_dim;

  struct Ahead {
    float value = 0;
  };
  __device__ Ahead ahead(int n, int col) const {
    Ahead held;
    if (n >= out_dim) return held;
    if (add) held.value = to_float(out[std::int64_t{col} * out_dim + n]);
    if (bias) held.value += bias[n];
    return held;
  }
  __device__ void store(int n, int col, float sum, float, const Ahead& held) const {
    if (n < out_dim) out[std::int64_t{col} * out_dim + n] = from_float<T>(sum + held.value);
  }
};

struct GateUpEpilogue {
  static constexpr bool kPairs = true;
  __nv_bfloat16* out;
  std::int32_t ffn_dim;

  struct Ahead {};
  __device__ Ahead ahead(int, int) const { return {}; }
  __device__ void store(int i, int col, float gate, float up, Ahead) const {
    out[std::int64_t{col} * ffn_dim + i] = __float2bfloat16_rn(silu(gate) * up);
  }
};

// Pair i of head h is number h D / 2 + i; heads run q, k, v.
struct RopeEpilogue {
  static constexpr bool kPairs = true;
  RopeLaunch a;

  struct Ahead {
    float cosine = 1, sine = 0;
    std::int32_t slot = -1;
  };
  __device__ bool is_v(int head) const { return head >= a.num_heads + a.layout.num_kv_heads; }
  __device__ Ahead ahead(int pair, int col) const {
    const int half = a.layout.head_dim / 2, head = pair / half, i = pair % half;
    Ahead held;
    held.slot = a.slots[col];
    if (held.slot >= 0 && !is_v(head)) {
      const float* angles = a.rope + std::int64_t{a.positions[col]} * (2 * half);
      held.cosine = angles[i], held.sine = angles[i + half];
    }
    return held;
  }
  __device__ void store(int pair, int col, float low, float high, const Ahead& held) const {
    if (held.slot < 0) return;
    const int dim = a.layout.head_dim, half = dim / 2, head = pair / half, i = pair % half;
    if (a.bias) low += a.bias[head * dim + i], high += a.bias[head * dim + i + half];
    __nv_bfloat16* to =
        static_cast<__nv_bfloat16*>(a.q_out) + (std::int64_t{col} * a.num_heads + head) * dim;
    if (head >= a.num_heads)
      to = static_cast<__nv_bfloat16*>(a.arena) +
           a.layout.offset(held.slot, a.layer, is_v(head), (head - a.num_heads) % a.layout.num_kv_heads);
    to[i] = __float2bfloat16_rn(low * held.cosine - high * held.sine);
    to[i + half] = __float2bfloat16_rn(high * held.cosine + low * held.sine);
  }
};

}  // namespace fastgen::device
