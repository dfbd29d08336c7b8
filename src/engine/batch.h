// A step as packed arrays: what the host writes in pinned staging and one upload brings to the device, and the results that one
// download brings back.
//
//   one area, filled from the left; a step uploads only what it uses:
//   [ token_ids | positions | slots | query_start | context_len | logit_rows | sample rows | prompt rows | targets | copies |
//     bias ids | bias values | table_starts | table_entries ]
//   another, of which a step downloads the part up to what is wanted:
//   [ ids | logprobs | prompt logprobs | top ids | top logprobs | prompt top ids | prompt top logprobs ]
//
// The places depend on the shape alone, so a captured decode step of a shape finds its arrays where every step of it puts them. The
// block table is as wide as the longest sequence may get; what a step brings are the blocks that there are (Backend::fill_table).
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "model/transformer.h"

namespace fastgen {

// How many of everything a step has, padding included.
struct BatchShape {
  std::int64_t num_tokens = 0;       // T
  std::int64_t num_seqs = 0;         // B
  std::int64_t num_decode_seqs = 0;
  std::int64_t num_logit_rows = 0;   // R
  std::int64_t num_samples = 0;
  std::int64_t num_prompt_rows = 0;  // P
  std::int64_t num_copies = 0;
  std::int64_t num_biases = 0;
  std::int64_t num_entries = 0;  // blocks of all sequences together; the last array, so no other's place depends on it

  bool operator==(const BatchShape&) const = default;
};

// Views of one area, pinned or device, for one shape.
struct BatchArrays {
  Tensor token_ids, positions, slots;  // [T] i32
  Tensor query_start;                  // [B+1] i32
  Tensor context_len;                  // [B] i32
  Tensor logit_rows;                   // [R] i32
  Tensor sample_rows;                  // [num_samples, sizeof(SampleRow)] u8
  Tensor prompt_rows, prompt_targets;  // [P] i32
  Tensor copies;                       // [num_copies, 2] i32
  Tensor bias_ids;                     // [num_biases] i32
  Tensor bias_values;                  // [num_biases] f32
  Tensor table_starts;                 // [B+1] i32, into table_entries
  Tensor table_entries;                // [num_entries] i32
  std::size_t bytes = 0;               // from the area's start to the last array's end

  // `area` may be null to learn the size.
  static BatchArrays at(void* area, const BatchShape& shape);
  // As the forward pass takes them, with block_table [B, M]; outputs and state are the runner's to add.
  ForwardBatch forward_batch(const BatchShape& shape, Tensor block_table) const;
};

// Views of one area of results, pinned or device, for one shape.
struct ResultArrays {
  Tensor ids;                  // [num_samples] i32
  Tensor logprobs;             // [num_samples] f32
  Tensor prompt_logprobs;      // [P] f32
  Tensor top_ids;              // [num_samples, kSampleTop] i32
  Tensor top_logprobs;         // [num_samples, kSampleTop] f32
  Tensor prompt_top_ids;       // [P, kSampleTop] i32
  Tensor prompt_top_logprobs;  // [P, kSampleTop] f32
  // From the area's start to the end of the prompt logprobs, of the alternatives, of all.
  std::size_t plain_bytes = 0, top_bytes = 0, bytes = 0;

  static ResultArrays at(void* area, const BatchShape& shape);
};

// Writes one step's arrays, row by row; decode rows first. Counts against the shape are checked.
class BatchWriter {
 public:
  BatchWriter(void* pinned, const BatchShape& shape) : shape_(shape), arrays_(BatchArrays::at(pinned, shape)) {}

  // A sequence whose tokens of this step end at context_len; returns its row of the block table.
  std::int32_t add_sequence(std::span<const std::int32_t> blocks, std::int32_t context_len);
  void add_token(std::int32_t token_id, std::int32_t position, std::int32_t slot);  // of the sequence added last
  std::int32_t add_logit_row();  // the token added last; returns its index
  void add_bias(std::int32_t id, float value);  // of the sample row that comes next
  std::int32_t add_sample(SampleRow row);       // bias range filled in; returns its index
  void add_prompt_row(std::int32_t target);     // the token added last
  void add_copy(std::int32_t from, std::int32_t to);
  // Last: what was not written becomes padding: slot -1, context_len 0, state_slot -1, logit row -1.
  void finish();

 private:
  BatchShape shape_;
  BatchArrays arrays_;
  std::int32_t num_tokens_ = 0, num_seqs_ = 0, num_logit_rows_ = 0, num_samples_ = 0;
  std::int32_t num_prompt_rows_ = 0, num_copies_ = 0, num_biases_ = 0, bias_start_ = 0, num_entries_ = 0;
};

}  // namespace fastgen
