// The small kernels between products and attention. All are bound by memory: one pass over their rows, 16-byte
// accesses wherever a row's length allows, float32 arithmetic. With few rows what counts is latency: a row is
// spread over as many threads as it has groups of eight, and what does not depend on the kernel before is loaded
// while that one ends (launch.cuh).
//
// Measured on an H200 (gpu-ops.json), rows of 4,096: the norm takes 1.8 us for 1 row, 18 us for 1,024 (3.2 TB/s). SiLU and
// RoPE have no figures of their own yet.
#include <algorithm>

#include "device_math.cuh"
#include "launch.cuh"
#include "row_kernels.h"

namespace fastgen::device {

namespace {

constexpr int kThreads = 256;
constexpr int kNormThreadsMax = 1024;
constexpr int kTableThreads = 128;
constexpr int kBlocksPerCopy = 32;  // that share the copying of one KV block
constexpr int kGridRowsMax = 65535;  // of a grid's y; more rows take another launch

int div_up(int x, int y) { return (x + y - 1) / y; }

template <typename T>
__global__ void embed_kernel(EmbedLaunch a) {
  const int t = blockIdx.x;
  const std::int32_t slot = a.slots[t];
  std::int32_t id = a.token_ids[t];
  if (id < 0) id = a.state_tokens[-1 - id];
  if (slot >= 0 && threadIdx.x == 0) a.arena_token_ids[slot] = id;
  const T* row = static_cast<const T*>(a.table) + std::int64_t{id} * a.dim;
  float* out = a.residual + std::int64_t{t} * a.dim;
  if (a.dim % 8 != 0) {  // rows are not aligned to 16 bytes
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) out[i] = slot < 0 ? 0.0f : to_float(row[i]);
    return;
  }
  for (int i = threadIdx.x * 8; i < a.dim; i += blockDim.x * 8)
    store_eight(out + i, slot < 0 ? Eight{} : load_eight(row + i));
}

// Over the block, once in a kernel: one barrier.
__device__ float block_sum_once(float x) {
  __shared__ float partial[kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  x = warp_sum(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / kWarp ? partial[lane] : 0.0f);
}

// A row a block, dim a multiple of 8; thread i holds the eights i, i + blockDim.x, ..., kEights of them, between
// the row's two uses, so that it is read once.
template <typename T, int kEights>
__global__ void __launch_bounds__(kNormThreadsMax) add_rms_norm_kernel(NormLaunch a) {
  const std::int64_t start = std::int64_t{blockIdx.x} * a.dim;
  float* residual = a.residual + start;
  const auto at = [&](int j) { return static_cast<int>(threadIdx.x + j * blockDim.x) * 8; };
  let_next_start();
  Eight weight{};
  if (kEights == 1 && at(0) < a.dim) weight = load_eight(a.weight + at(0));
  wait_for_previous();
  Eight x[kEights] = {};
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kEights; ++j) {
    if (at(j) >= a.dim) break;
    x[j] = load_eight(residual + at(j));
    if (a.delta != nullptr) {
      const Eight delta = load_eight(a.delta + start + at(j));
#pragma unroll
      for (int i = 0; i < 8; ++i) x[j].v[i] += delta.v[i];
      store_eight(residual + at(j), x[j]);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += x[j].v[i] * x[j].v[i];
  }
  const float scale = rsqrtf(block_sum_once(squares) / static_cast<float>(a.dim) + a.eps);
  T* out = static_cast<T*>(a.out) + start;
#pragma unroll
  for (int j = 0; j < kEights; ++j) {
    if (at(j) >= a.dim) break;
    if (kEights > 1) weight = load_eight(a.weight + at(j));
#pragma unroll
    for (int i = 0; i < 8; ++i) x[j].v[i] *= scale * weight.v[i];
    store_eight(out + at(j), x[j]);
  }
}

// Any dim: element by element, the row read twice.
template <typename T>
__global__ void plain_rms_norm_kernel(NormLaunch a) {
  const std::int64_t start = std::int64_t{blockIdx.x} * a.dim;
  float* residual = a.residual + start;
  let_next_start();
  wait_for_previous();
  float squares = 0;
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
    const float x = residual[i] + (a.delta != nullptr ? a.delta[start + i] : 0.0f);
    if (a.delta != nullptr) residual[i] = x;
    squares += x * x;
  }
  const float scale = rsqrtf(block_sum_once(squares) / static_cast<float>(a.dim) + a.eps);
  T* out = static_cast<T*>(a.out) + start;
  for (int i = threadIdx.x; i < a.dim; i += blockDim.x)
    out[i] = from_float<T>(residual[i] * scale * a.weight[i]);
}

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

__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

template <typename In, typename T>
__global__ void silu_mul_kernel(const In* gate_up, T* out, int ffn_dim) {
  let_next_start();
  wait_for_previous();
  const In* gate = gate_up + std::int64_t{blockIdx.y} * 2 * ffn_dim;
  const In* up = gate + ffn_dim;
  out += std::int64_t{blockIdx.y} * ffn_dim;
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (i >= ffn_dim) return;
  if (ffn_dim % 8 != 0) {  // rows are not aligned to 16 bytes
    for (int j = i; j < min(i + 8, ffn_dim); ++j) out[j] = from_float<T>(silu(to_float(gate[j])) * to_float(up[j]));
    return;
  }
  Eight x = load_eight(gate + i);
  const Eight u = load_eight(up + i);
#pragma unroll
  for (int j = 0; j < 8; ++j) x.v[j] = silu(x.v[j]) * u.v[j];
  store_eight(out + i, x);
}

__global__ void add_bias_kernel(float* x, const float* bias, int dim) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < dim) x[std::int64_t{blockIdx.y} * dim + i] += bias[i];
}

template <typename Word>
__global__ void gather_rows_kernel(const Word* x, const std::int32_t* rows, Word* out, std::int64_t words) {
  let_next_start();
  wait_for_previous();
  const std::int32_t row = rows[blockIdx.x];
  for (std::int64_t i = threadIdx.x; i < words; i += blockDim.x)
    out[blockIdx.x * words + i] = row < 0 ? Word{} : x[row * words + i];
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
  const auto rows = static_cast<unsigned>(a.num_tokens);
  const int percent = shared_percent(a.num_tokens);
  const auto threads = [&](int eights_each) {  // whole warps
    return static_cast<unsigned>(div_up(a.dim, 8 * kWarp * eights_each) * kWarp);
  };
  if (a.dim % 8 != 0) {
    launch(plain_rms_norm_kernel<T>, {rows, kThreads, 0, 1, percent}, stream, a);
  } else if (a.dim <= 8 * kNormThreadsMax) {
    launch(add_rms_norm_kernel<T, 1>, {rows, threads(1), 0, 1, percent}, stream, a);
  } else {
    static_assert(8 * kNormThreadsMax * 4 == kNormDimMax);
    launch(add_rms_norm_kernel<T, 4>, {rows, threads(4), 0, 1, percent}, stream, a);
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
    launch(wide_rope_store_kernel<In, T>, {grid, kThreads, 0, 1, shared_percent(a.num_tokens)}, stream, a);
  } else {
    const int num_warps = 4;
    const dim3 grid(tokens, static_cast<unsigned>(div_up(num_all, num_warps)));
    launch(rope_store_kernel<In, T>, {grid, num_warps * kWarp, 0, 1, shared_percent(a.num_tokens)}, stream, a);
  }
}

template <typename In, typename T>
void launch_silu(const void* gate_up, void* out, int num_tokens, int ffn_dim, cudaStream_t stream) {
  const auto columns = static_cast<unsigned>(div_up(div_up(ffn_dim, 8), kThreads));
  for (std::int64_t first = 0; first < num_tokens; first += kGridRowsMax) {
    const dim3 grid(columns, static_cast<unsigned>(std::min<std::int64_t>(num_tokens - first, kGridRowsMax)));
    launch(silu_mul_kernel<In, T>, {grid, kThreads, 0, 1, shared_percent(num_tokens)}, stream,
           static_cast<const In*>(gate_up) + first * 2 * ffn_dim, static_cast<T*>(out) + first * ffn_dim, ffn_dim);
  }
}

template <typename Word>
void launch_gather(const void* x, const std::int32_t* rows, void* out, int num_rows, std::int64_t row_bytes,
                   cudaStream_t stream) {
  launch(gather_rows_kernel<Word>, {static_cast<unsigned>(num_rows), kThreads, 0, 1, shared_percent(num_rows)}, stream,
         static_cast<const Word*>(x), rows, static_cast<Word*>(out),
         row_bytes / static_cast<std::int64_t>(sizeof(Word)));
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
  if (!a.bf16) return launch_rope<float, float>(a, stream);
  a.qkv_bf16 ? launch_rope<__nv_bfloat16, __nv_bfloat16>(a, stream) : launch_rope<float, __nv_bfloat16>(a, stream);
}

void silu_mul(const void* gate_up, bool gate_up_bf16, void* out, std::int32_t num_tokens, std::int32_t ffn_dim, bool bf16,
              cudaStream_t stream) {
  if (num_tokens == 0) return;
  if (!bf16) return launch_silu<float, float>(gate_up, out, num_tokens, ffn_dim, stream);
  gate_up_bf16 ? launch_silu<__nv_bfloat16, __nv_bfloat16>(gate_up, out, num_tokens, ffn_dim, stream)
               : launch_silu<float, __nv_bfloat16>(gate_up, out, num_tokens, ffn_dim, stream);
}

void add_bias(float* x, const float* bias, std::int32_t num_tokens, std::int32_t dim, cudaStream_t stream) {
  for (std::int64_t first = 0; first < num_tokens; first += kGridRowsMax) {
    const auto rows = static_cast<unsigned>(std::min<std::int64_t>(num_tokens - first, kGridRowsMax));
    add_bias_kernel<<<dim3(div_up(dim, kThreads), rows), kThreads, 0, stream>>>(x + first * dim, bias, dim);
  }
}

void gather_rows(const void* x, const std::int32_t* rows, void* out, std::int32_t num_rows,
                 std::int64_t row_bytes, cudaStream_t stream) {
  if (num_rows == 0) return;
  row_bytes % 16 == 0 ? launch_gather<uint4>(x, rows, out, num_rows, row_bytes, stream)
                      : launch_gather<std::uint32_t>(x, rows, out, num_rows, row_bytes, stream);
}

void fill_table(const std::int32_t* entries, const std::int32_t* starts, std::int32_t* table, std::int32_t num_rows,
                std::int32_t width, cudaStream_t stream) {
  if (num_rows == 0) return;
  fill_table_kernel<<<num_rows, kTableThreads, 0, stream>>>(entries, starts, table, width);
}

void copy_blocks(void* arena, std::int32_t* token_ids, const std::int32_t* pairs, std::int32_t num_pairs,
                 std::int64_t block_bytes, std::int32_t block_size, cudaStream_t stream) {
  if (num_pairs == 0) return;
  copy_blocks_kernel<<<dim3(kBlocksPerCopy, num_pairs), kThreads, 0, stream>>>(static_cast<uint4*>(arena), token_ids,
                                                                   pairs, block_bytes / 16, block_size);
}

}  // namespace fastgen::device
