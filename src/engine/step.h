// A step between plan and collect: which sequences have rows in it, and how they are packed.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/batch.h"
#include "engine/runner.h"
#include "engine/sequence.h"
#include "kv/kv_cache.h"

namespace fastgen {

// One sequence's part. Followers that draw from another's logits row have count 0 and come right after it.
struct StepRow {
  Sequence* sequence = nullptr;
  std::int32_t start = 0;  // tokens start .. start + count - 1
  std::int32_t count = 0;
  bool draws = false;
  std::int32_t sample_idx = -1;      // set by pack_step, as the next
  std::int32_t prompt_row = -1;      // the first of its prompt logprobs
  std::int32_t first_target = 0;     // the place in the prompt that it reports
  std::int32_t num_targets = 0;
  std::int32_t num_records = 0;      // promised on its ring
};

struct Step {
  std::vector<StepRow> rows;  // decode rows first
  std::int32_t num_decodes = 0;
  std::vector<BlockCopy> copies;
  std::vector<BlockCopy> page_outs, page_ins;  // from the arena to the host tier, and from there; both before the step
  Runner::Wanted wanted;
  FenceId fence = 0;
  StepResult result;
  std::uint64_t prefill_tokens = 0;  // of prompts, and whatever a preempted sequence computes again
  std::uint64_t decode_tokens = 0;
  std::uint64_t start_ns = 0;  // when packing began
  bool is_graph = false;       // a captured step was replayed
};

// Writes the step's arrays into the runner's staging. Returns the shape to launch.
BatchShape pack_step(Step& step, const KvCache& kv, Runner& runner);

// Into the flight recorder, at its collect.
void record_step(const Step& step, std::uint64_t step_number);

// Most biases that one row can have.
std::int64_t max_biases_per_row(std::size_t num_eos_ids);

}  // namespace fastgen
