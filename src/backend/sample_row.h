// What the backend must know to draw one token: plain data, the same bytes on host and device. Plain C++17.
#pragma once

#include <cstdint>

namespace fastgen {

inline constexpr int kSampleTop = 20;  // width of the top-logprob outputs, equals types.h kMaxTopLogprobs

struct SampleRow {
  std::int32_t logits_row = 0;  // which row of x [R, E] it draws from; several rows may share one (n > 1)
  std::int32_t state_slot = -1;  // where the token is left for the next step's embed; < 0: padding, nothing is drawn
  std::int32_t table_row = 0;   // row of the block table whose tokens the penalties count
  std::int32_t history_len = 0;  // tokens stored for that row, this step's included
  std::int32_t prompt_len = 0;  // the first of them that are prompt
  std::int32_t top_k = 0;       // 0: off
  std::int32_t num_top = -1;    // -1: no logprob wanted; 0..kSampleTop alternatives
  std::int32_t bias_start = 0;  // into SampleBatch::bias_ids / bias_values
  std::int32_t bias_count = 0;
  std::uint32_t choice_idx = 0;
  std::uint32_t position = 0;   // index of this token in the output
  float temperature = 1;        // 0: greedy, lowest id among equals
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  std::uint32_t reserved = 0;
  std::uint64_t seed = 0;

  bool has_penalties() const {
    return repetition_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0;
  }
};
static_assert(sizeof(SampleRow) == 80, "the same layout on host and device");

}  // namespace fastgen
