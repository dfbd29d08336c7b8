// The small kernels between products and attention. All are bound by memory: one pass over their rows,
// 16-byte accesses wherever a row's length allows, float32 arithmetic.
#include "device_math.cuh"
#include "row_kernels.h"

namespace fastgen::device {

namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void embed_kernel(EmbedLaunch a) {
  const int t = blockIdx.x;
  const std::int32_t slot = a.slots[t];
  std::int32_t id = a.token_ids[t];
  if (id < 0) id = a.state_tokens[-1 - id];
  if (slot >= 0 && threadIdx.x == 0) a.arena_token_ids[slot] = id;
  const T* row = static_cast<const T*>(a.table) + std::int64_t{id} * a.dim;
  float* out = a.residual + std::int64_t{t} * a.dim;
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) out[i] = slot < 0 ? 0.0f : to_float(row[i]);
}

// The row stays in registers between the two uses where it fits (kPerThread * blockDim.x >= dim), so it is
// read once.
template <typename T, int kPerThread>
__global__ void add_rms_norm_kernel(NormLaunch a) {
  const std::int64_t start = std::int64_t{blockIdx.x} * a.dim;
  float* residual = a.residual + start;
  float x[kPerThread];
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = threadIdx.x + j * blockDim.x;
    x[j] = i < a.dim ? residual[i] : 0.0f;
    if (a.delta != nullptr && i < a.dim) residual[i] = x[j] += a.delta[start + i];
    squares += x[j] * x[j];
  }
  const float scale = rsqrtf(block_sum(squares) / static_cast<float>(a.dim) + a.eps);
  T* out = static_cast<T*>(a.out) + start;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = threadIdx.x + j * blockDim.x;
    if (i < a.dim) out[i] = from_float<T>(x[j] * scale * a.weight[i]);
  }
}

// One head vector of one token: bias, RMS norm, rotation; a warp owns it, lane l holds pairs l, l + 32, ...
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
template <typename T>
__global__ void rope_store_kernel(RopeLaunch a) {
  const int t = blockIdx.x, dim = a.layout.head_dim, half = dim / 2, num_kv = a.layout.num_kv_heads;
  const int head = blockIdx.y * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const int num_all = a.num_heads + 2 * num_kv;
  const std::int32_t slot = a.slots[t];
  if (head >= num_all || slot < 0) return;
  const T* x = static_cast<const T*>(a.qkv) + (std::int64_t{t} * num_all + head) * dim;
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

__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

template <typename T>
__global__ void silu_mul_kernel(const T* gate_up, T* out, int ffn_dim) {
  const T* gate = gate_up + std::int64_t{blockIdx.y} * 2 * ffn_dim;
  const T* up = gate + ffn_dim;
  out += std::int64_t{blockIdx.y} * ffn_dim;
  constexpr int kSize = Pack<T>::kSize;
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * kSize;
  if (i >= ffn_dim) return;
  if (ffn_dim % kSize != 0) {  // rows are not aligned to 16 bytes
    for (int j = i; j < min(i + kSize, ffn_dim); ++j)
      out[j] = from_float<T>(silu(to_float(gate[j])) * to_float(up[j]));
    return;
  }
  const Pack<T> g = load_pack(gate + i), u = load_pack(up + i);
  Pack<T> result;
#pragma unroll
  for (int j = 0; j < kSize; ++j) result.v[j] = from_float<T>(silu(to_float(g.v[j])) * to_float(u.v[j]));
  store_pack(out + i, result);
}

__global__ void add_bias_kernel(float* x, const float* bias, int dim) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < dim) x[std::int64_t{blockIdx.y} * dim + i] += bias[i];
}

__global__ void gather_rows_kernel(const std::uint32_t* x, const std::int32_t* rows, std::uint32_t* out,
                                   std::int64_t words) {
  const std::int32_t row = rows[blockIdx.x];
  for (std::int64_t i = threadIdx.x; i < words; i += blockDim.x)
    out[blockIdx.x * words + i] = row < 0 ? 0u : x[row * words + i];
}

__global__ void fill_table_kernel(const std::int32_t* entries, const std::int32_t* starts, std::int32_t* table,
                                  int width) {
  const int first = starts[blockIdx.x], count = min(starts[blockIdx.x + 1] - first, width);
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    table[std::int64_t{blockIdx.x} * width + i] = entries[first + i];
}

__global__ void copy_blocks_kernel(uint4* arena, std::int32_t* token_ids, const std::int32_t* pairs,
                                   std::int64_t packs, int block_size) {
  const std::int64_t from = pairs[2 * blockIdx.y], to = pairs[2 * blockIdx.y + 1];
  const std::int64_t first = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  for (std::int64_t i = first; i < packs; i += std::int64_t{gridDim.x} * blockDim.x)
    arena[to * packs + i] = arena[from * packs + i];
  if (first < block_size) token_ids[to * block_size + first] = token_ids[from * block_size + first];
}

template <typename T>
void launch_norm(const NormLaunch& a, cudaStream_t stream) {
  if (a.dim <= 4 * 256) {
    add_rms_norm_kernel<T, 4><<<a.num_tokens, 256, 0, stream>>>(a);
  } else if (a.dim <= 8 * 1024) {
    add_rms_norm_kernel<T, 8><<<a.num_tokens, (a.dim + 255) / 256 * 32, 0, stream>>>(a);
  } else {
    add_rms_norm_kernel<T, 32><<<a.num_tokens, 1024, 0, stream>>>(a);  // dim <= 32,768, checked by the caller
  }
}

template <typename T>
void launch_silu(const void* gate_up, void* out, int num_tokens, int ffn_dim, cudaStream_t stream) {
  const int packs = (ffn_dim + Pack<T>::kSize - 1) / Pack<T>::kSize;
  const dim3 grid((packs + kThreads - 1) / kThreads, num_tokens);
  silu_mul_kernel<T>
      <<<grid, kThreads, 0, stream>>>(static_cast<const T*>(gate_up), static_cast<T*>(out), ffn_dim);
}

}  // namespace

void embed(const EmbedLaunch& a, cudaStream_t stream) {
  if (a.num_tokens == 0) return;
  if (a.bf16) {
    embed_kernel<__nv_bfloat16><<<a.num_tokens, kThreads, 0, stream>>>(a);
  } else {
    embed_kernel<float><<<a.num_tokens, kThreads, 0, stream>>>(a);
  }
}

void add_rms_norm(const NormLaunch& a, cudaStream_t stream) {
  if (a.num_tokens == 0) return;
  a.bf16 ? launch_norm<__nv_bfloat16>(a, stream) : launch_norm<float>(a, stream);
}

void rope_store(const RopeLaunch& a, cudaStream_t stream) {
  if (a.num_tokens == 0) return;
  const int num_warps = 4, num_all = a.num_heads + 2 * a.layout.num_kv_heads;
  const dim3 grid(a.num_tokens, (num_all + num_warps - 1) / num_warps);
  if (a.bf16) {
    rope_store_kernel<__nv_bfloat16><<<grid, num_warps * kWarp, 0, stream>>>(a);
  } else {
    rope_store_kernel<float><<<grid, num_warps * kWarp, 0, stream>>>(a);
  }
}

void silu_mul(const void* gate_up, void* out, std::int32_t num_tokens, std::int32_t ffn_dim, bool bf16,
              cudaStream_t stream) {
  if (num_tokens == 0) return;
  bf16 ? launch_silu<__nv_bfloat16>(gate_up, out, num_tokens, ffn_dim, stream)
       : launch_silu<float>(gate_up, out, num_tokens, ffn_dim, stream);
}

void add_bias(float* x, const float* bias, std::int32_t num_tokens, std::int32_t dim, cudaStream_t stream) {
  if (num_tokens == 0) return;
  add_bias_kernel<<<dim3((dim + kThreads - 1) / kThreads, num_tokens), kThreads, 0, stream>>>(x, bias, dim);
}

void gather_rows(const void* x, const std::int32_t* rows, void* out, std::int32_t num_rows,
                 std::int64_t row_bytes, cudaStream_t stream) {
  if (num_rows == 0) return;
  gather_rows_kernel<<<num_rows, kThreads, 0, stream>>>(static_cast<const std::uint32_t*>(x), rows,
                                                        static_cast<std::uint32_t*>(out), row_bytes / 4);
}

void fill_table(const std::int32_t* entries, const std::int32_t* starts, std::int32_t* table, std::int32_t num_rows,
                std::int32_t width, cudaStream_t stream) {
  if (num_rows == 0) return;
  fill_table_kernel<<<num_rows, 128, 0, stream>>>(entries, starts, table, width);
}

void copy_blocks(void* arena, std::int32_t* token_ids, const std::int32_t* pairs, std::int32_t num_pairs,
                 std::int64_t block_bytes, std::int32_t block_size, cudaStream_t stream) {
  if (num_pairs == 0) return;
  copy_blocks_kernel<<<dim3(32, num_pairs), kThreads, 0, stream>>>(static_cast<uint4*>(arena), token_ids,
                                                                   pairs, block_bytes / 16, block_size);
}

}  // namespace fastgen::device
