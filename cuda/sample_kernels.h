// From rows of logits to tokens and logprobs on the device, with the meaning that backend/cpu/sampling.h
// defines.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/sample_row.h"

namespace fastgen::device {

struct SampleLaunch {
  const SampleRow* rows;  // [S]
  const float* logits;    // [R, V]
  float* work;            // [S, V]: a row's own copy where bias or penalties change it
  const std::int32_t* bias_ids;
  const float* bias_values;
  const std::int32_t* block_table;      // [B, M]
  const std::int32_t* arena_token_ids;  // [slots]
  std::int32_t* state_tokens;
  std::int32_t* ids;      // [S]
  float* logprobs;        // [S]
  std::int32_t* top_ids;  // [S, kSampleTop]
  float* top_logprobs;    // [S, kSampleTop]
  std::int32_t num_rows, vocab, blocks_per_seq, block_size;
};
// V <= 1,500,000 (a bit per token in shared memory).
void sample(const SampleLaunch& launch, cudaStream_t stream);

struct LogprobLaunch {
  const float* logits;      // [R, V]
  const std::int32_t* ids;  // [R]; out of range: no logprob is written
  float* logprobs;          // [R]
  std::int32_t* top_ids;    // [R, kSampleTop]
  float* top_logprobs;      // [R, kSampleTop]
  std::int32_t num_rows, vocab, num_top;
};
void token_logprobs(const LogprobLaunch& launch, cudaStream_t stream);

}  // namespace fastgen::device
