// Attention over the paged arena by our own kernel, any even head_dim up to 256, bf16 and float32.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/kv_layout.h"

namespace fastgen::device {

struct AttendLaunch {
  const void* q;                    // [T, H, D] product
  const std::int32_t* query_start;  // [B + 1]
  const std::int32_t* context_len;  // [B]
  const std::int32_t* block_table;  // [B, M]
  const void* arena;                // product
  KvLayout layout;
  void* out;  // [T, H * D] product
  std::int32_t num_tokens, num_seqs, num_heads, blocks_per_seq, layer, window;
  float scale;
  bool bf16;
};

// Every row, decode or prefill alike.
void attend(const AttendLaunch& launch, cudaStream_t stream);

}  // namespace fastgen::device
