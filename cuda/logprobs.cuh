// Logprobs of one row of logits, by its team.
#pragma once

#include <algorithm>

#include "backend/sample_row.h"
#include "row_team.cuh"

namespace fastgen::device {

template <int kParts>
__device__ float log_sum_exp(Team<kParts>& team, const Run& run, float max) {
  if (!isfinite(max)) return max;
  float sum = 0;
  run.each([&](int, float logit) { sum += __expf(without_nan(logit) - max); });
  return max + logf(team.sum(block_sum(sum)));
}

template <int kParts>
__device__ void write_logprobs(Team<kParts>& team, const Run& run, int id, int num_top, float* logprob,
                               std::int32_t* top_ids, float* top_logprobs) {
  const bool writes = threadIdx.x == 0 && team.rank() == 0;
  Best best = first_best(team, run);
  const float lse = log_sum_exp(team, run, best.value);
  if (writes && id >= 0 && id < run.vocab) *logprob = run.logits[id] - lse;
  for (int i = 0; i < min(num_top, min(kSampleTop, run.vocab)); ++i) {
    if (writes) top_ids[i] = best.id, top_logprobs[i] = best.value - lse;
    best = next_best(team, run, best);
  }
}

}  // namespace fastgen::device
