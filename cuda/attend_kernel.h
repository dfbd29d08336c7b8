// Attention over the paged arena by our own kernels. Which one serves:
//   bf16, head_dim 64, 80, 96, 128 or 256   decode rows attend_decode.cu, other rows attend_prefill.cu, or on sm_90a with
//                                           head_dim 64 or 128 and blocks of a multiple of 64 attend_prefill_wgmma.cu
//   anything else (any head_dim up to 256)   attend_kernel.cu, for both kinds of rows
// A card with too little shared memory for a tiled kernel's head_dim falls back to attend_kernel.cu too.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "backend/kv_layout.h"

namespace fastgen::device {

struct AttendLaunch {
  const void* q;                    // [T, H, D] product
  const std::int32_t* query_start;  // [B + 1]; this and context_len come by copies: kernels may read them before the
  const std::int32_t* context_len;  // [B]      kernel launched last has ended
  const std::int32_t* block_table;  // [B, M]
  const void* arena;                // product
  KvLayout layout;
  void* out;        // [T, H * D] product
  void* workspace;  // attend_workspace_bytes, zeroed once; launches that share it run one after the other
  std::int32_t num_tokens, num_seqs, num_heads, blocks_per_seq, layer, window;
  std::int32_t num_decode_seqs;  // the first ones; each has one row, or none and context_len 0
  float scale;                   // > 0
  bool bf16;
  std::int32_t block_shift = -1;  // log2 of block_size, -1 if it is no power of two; attend() sets it
};

// At the front of the workspace: attend_prefill_wgmma.cu's. What attend_decode.cu keeps follows.
inline constexpr std::size_t kPrefillWorkspaceBytes = 16;

// For this card (the current device) and any number of sequences.
std::size_t attend_workspace_bytes(std::int32_t head_dim);

// Every row, decode or prefill alike. Nothing about the lengths is read on the host.
void attend(AttendLaunch launch, cudaStream_t stream);

// The parts of attend(). The tiled ones return false, having launched nothing, where they do not serve the shape.
bool attend_decode(const AttendLaunch& launch, cudaStream_t stream);   // sequences before num_decode_seqs
bool attend_prefill(const AttendLaunch& launch, cudaStream_t stream);  // sequences from num_decode_seqs
bool attend_prefill_wgmma(const AttendLaunch& launch, cudaStream_t stream);  // the same
void attend_general(const AttendLaunch& launch, cudaStream_t stream);  // all

}  // namespace fastgen::device
