// From a row of logits to a token, as vLLM orders it: logprobs of the raw distribution; bias and bans; repetition
// penalty (prompt and output), frequency and presence penalties (output); greedy at temperature 0; temperature; min_p;
// top_k; top_p; the draw.
//
// Nothing is sorted, and equal tokens are treated alike: with p the probabilities after temperature, a token is kept iff
// p >= min_p * the largest; of those, iff fewer than top_k tokens are strictly likelier; of those, iff the strictly likelier ones
// have less than top_p of the mass. The draw is the inverse of the distribution function of what is kept, in order of ids, at
// sampling_uniform(seed, choice, position). NaN logits count as -inf; a row with nothing left gives token 0.
#pragma once

#include <cstdint>

#include "backend/sample_row.h"

namespace fastgen {

struct SampleInput {
  SampleRow row;
  const float* logits = nullptr;  // [V], not changed
  std::int64_t vocab = 0;
  const std::int32_t* bias_ids = nullptr;  // [row.bias_count]
  const float* bias_values = nullptr;
  // The row's tokens, for penalties: position p lives in slot block_table[p / block_size] * block_size + p % block_size.
  const std::int32_t* block_table = nullptr;
  const std::int32_t* slot_tokens = nullptr;
  std::int32_t block_size = 0;
};

inline constexpr std::int64_t sample_scratch_floats(std::int64_t vocab) { return 4 * vocab; }
// scratch: sample_scratch_floats(V) floats; marks: [V], all zero when called and when it returns.
std::int32_t sample_token(const SampleInput& input, float* scratch, std::int32_t* marks);

// log sum exp of a row; -inf if there is nothing in it.
float log_sum_exp(const float* logits, std::int64_t vocab);
// The `count` largest, most likely first, lower ids first among equals; logprobs = logits - lse.
void top_logprobs(const float* logits, std::int64_t vocab, float lse, std::int32_t count, std::int32_t* ids,
                  float* logprobs);

// ---- vector loops (sampling_hwy.cpp)
struct MaxAt {
  float value = 0;
  std::int64_t idx = 0;  // the first among equals
};
MaxAt find_max(const float* x, std::int64_t n);  // NaN is never the maximum; {-inf, 0} if nothing else
// out = exp((x - max) * scale), NaN becomes 0. Returns nothing: sums are taken in double by sum().
void exp_scaled(const float* x, std::int64_t n, float max, float scale, float* out);
double sum(const float* x, std::int64_t n);  // one order for one n
// Ids and values of x[i] >= threshold, in order; returns how many. Arrays hold n.
std::int64_t collect_at_least(const float* x, std::int64_t n, float threshold, std::int32_t* ids, float* values);

}  // namespace fastgen
