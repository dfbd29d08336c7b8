// The small kernels between products and attention, but for RoPE. All are bound by memory: one pass over their rows, 16-byte
// accesses wherever a row's length allows, float32 arithmetic. With few rows what counts is latency: a row is
// spread over as many threads as it has groups of eight, and what does not depend on the kernel before is loaded
// while that one ends (launch.cuh).
//
// Measured on an H200 (gpu-ops.json), rows of 4,096: the norm takes 1.8 us for 1 row, 18 us for 1,024 (3.2 TB/s). SiLU has no figures of
// its own yet.
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
  const auto threads = [&](int eights_each) {  // whole warps
    return static_cast<unsigned>(div_up(a.dim, 8 * kWarp * eights_each) * kWarp);
  };
  if (a.dim % 8 != 0) {
    launch(plain_rms_norm_kernel<T>, small_shape(rows, kThreads, a.num_tokens), stream, a);
  } else if (a.dim <= 8 * kNormThreadsMax) {
    launch(add_rms_norm_kernel<T, 1>, small_shape(rows, threads(1), a.num_tokens), stream, a);
  } else {
    static_assert(8 * kNormThreadsMax * 4 == kNormDimMax);
    launch(add_rms_norm_kernel<T, 4>, small_shape(rows, threads(4), a.num_tokens), stream, a);
  }
}

template <typename In, typename T>
void launch_silu(const void* gate_up, void* out, int num_tokens, int ffn_dim, cudaStream_t stream) {
  const auto columns = static_cast<unsigned>(div_up(div_up(ffn_dim, 8), kThreads));
  for (std::int64_t first = 0; first < num_tokens; first += kGridRowsMax) {
    const dim3 grid(columns, static_cast<unsigned>(std::min<std::int64_t>(num_tokens - first, kGridRowsMax)));
    launch(silu_mul_kernel<In, T>, small_shape(grid, kThreads, num_tokens), stream,
           static_cast<const In*>(gate_up) + first * 2 * ffn_dim, static_cast<T*>(out) + first * ffn_dim, ffn_dim);
  }
}

template <typename Word>
void launch_gather(const void* x, const std::int32_t* rows, void* out, int num_rows, std::int64_t row_bytes,
                   cudaStream_t stream) {
  launch(gather_rows_kernel<Word>, small_shape(static_cast<unsigned>(num_rows), kThreads, num_rows), stream,
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
