// Launchers of the small kernels that work row by row. Plain C++17: included by host C++ and by .cu files.
//
// Pointers are device memory; `bf16` chooses between __nv_bfloat16 and float for the tensors marked
// [product]. Nothing here synchronises or allocates, so every launch may be captured into a graph.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/kv_layout.h"

namespace fastgen::device {

struct EmbedLaunch {
  const std::int32_t* token_ids;     // [T]
  const std::int32_t* state_tokens;  // [S]
  const std::int32_t* slots;         // [T]
  const void* table;                 // [V, E] product
  std::int32_t* arena_token_ids;     // [slots]
  float* residual;                   // [T, E]
  std::int32_t num_tokens, dim;
  bool bf16;
};
void embed(const EmbedLaunch& launch, cudaStream_t stream);

struct NormLaunch {
  float* residual;      // [T, E]
  const float* delta;   // [T, E] or null
  const float* weight;  // [E]
  void* out;            // [T, E] product
  float eps;
  std::int32_t num_tokens, dim;
  bool bf16;
};
inline constexpr std::int32_t kNormDimMax = 32768;  // of dim
void add_rms_norm(const NormLaunch& launch, cudaStream_t stream);

struct RopeLaunch {
  const void* qkv;      // [T, (H + 2K) D] bf16 if qkv_bf16, else f32
  const float* bias;    // [(H + 2K) D] or null
  const float* q_norm;  // [D] or null
  const float* k_norm;  // [D] or null
  float norm_eps;
  const float* rope;              // [positions, D]: cosines, then sines
  const std::int32_t* positions;  // [T]
  const std::int32_t* slots;      // [T]
  void* arena;                    // product
  KvLayout layout;
  void* q_out;  // [T, H, D] product
  std::int32_t num_tokens, num_heads, layer;
  bool bf16, qkv_bf16;
};
void rope_store(const RopeLaunch& launch, cudaStream_t stream);

// out [T, F] product = silu(gate) * up; gate_up [T, 2F] bf16 if gate_up_bf16, else f32: gate, then up.
void silu_mul(const void* gate_up, bool gate_up_bf16, void* out, std::int32_t num_tokens, std::int32_t ffn_dim, bool bf16,
              cudaStream_t stream);

// x [T, N] f32 += bias [N].
void add_bias(float* x, const float* bias, std::int32_t num_tokens, std::int32_t dim, cudaStream_t stream);

// out [R, row_bytes] = x [T, row_bytes] at rows [R]; row_bytes is a multiple of 4.
void gather_rows(const void* x, const std::int32_t* rows, void* out, std::int32_t num_rows,
                 std::int64_t row_bytes, cudaStream_t stream);

// Row b of table [num_rows, width] begins with entries[starts[b]] .. entries[starts[b + 1] - 1].
void fill_table(const std::int32_t* entries, const std::int32_t* starts, std::int32_t* table, std::int32_t num_rows,
                std::int32_t width, cudaStream_t stream);

// Whole blocks and their token ids, pairs [n, 2]: from, to. block_bytes is a multiple of 16.
void copy_blocks(void* arena, std::int32_t* token_ids, const std::int32_t* pairs, std::int32_t num_pairs,
                 std::int64_t block_bytes, std::int32_t block_size, cudaStream_t stream);

}  // namespace fastgen::device
