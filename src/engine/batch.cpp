#include "engine/batch.h"

#include <algorithm>
#include <cstring>

namespace fastgen {
namespace {

// A device line; every array begins on one.
constexpr std::size_t kAlign = 128;

class Carver {
 public:
  explicit Carver(void* area) : area_(static_cast<char*>(area)) {}
  Tensor take(DType dtype, std::initializer_list<std::int64_t> dims) {
    Tensor out(area_ ? area_ + offset_ : nullptr, dtype, dims);
    offset_ += (out.bytes() + kAlign - 1) / kAlign * kAlign;
    return out;
  }
  std::size_t offset() const { return offset_; }

 private:
  char* area_;
  std::size_t offset_ = 0;
};

// From element `first` on.
void fill(Tensor tensor, std::int64_t first, std::int32_t value) {
  std::fill(tensor.as<std::int32_t>() + first, tensor.as<std::int32_t>() + tensor.elements(), value);
}

}  // namespace

BatchArrays BatchArrays::at(void* area, const BatchShape& shape) {
  Carver carver(area);
  BatchArrays arrays;
  for (Tensor* tensor : {&arrays.token_ids, &arrays.positions, &arrays.slots})
    *tensor = carver.take(DType::kI32, {shape.num_tokens});
  arrays.query_start = carver.take(DType::kI32, {shape.num_seqs + 1});
  arrays.context_len = carver.take(DType::kI32, {shape.num_seqs});
  arrays.logit_rows = carver.take(DType::kI32, {shape.num_logit_rows});
  arrays.sample_rows = carver.take(DType::kU8, {shape.num_samples, std::int64_t{sizeof(SampleRow)}});
  arrays.prompt_rows = carver.take(DType::kI32, {shape.num_prompt_rows});
  arrays.prompt_targets = carver.take(DType::kI32, {shape.num_prompt_rows});
  arrays.copies = carver.take(DType::kI32, {shape.num_copies, 2});
  arrays.bias_ids = carver.take(DType::kI32, {shape.num_biases});
  arrays.bias_values = carver.take(DType::kF32, {shape.num_biases});
  arrays.table_starts = carver.take(DType::kI32, {shape.num_seqs + 1});
  arrays.table_entries = carver.take(DType::kI32, {shape.num_entries});
  arrays.bytes = carver.offset();
  return arrays;
}

ForwardBatch BatchArrays::forward_batch(const BatchShape& shape, Tensor block_table) const {
  ForwardBatch batch;
  batch.token_ids = token_ids;
  batch.positions = positions;
  batch.slots = slots;
  batch.attend = {query_start, context_len, block_table, static_cast<std::int32_t>(shape.num_decode_seqs), 1};
  batch.logit_rows = logit_rows;
  batch.sample = {.rows = sample_rows, .bias_ids = bias_ids, .bias_values = bias_values, .block_table = block_table};
  batch.prompt_rows = prompt_rows;
  batch.prompt_targets = prompt_targets;
  return batch;
}

ResultArrays ResultArrays::at(void* area, const BatchShape& shape) {
  Carver carver(area);
  ResultArrays arrays;
  arrays.ids = carver.take(DType::kI32, {shape.num_samples});
  arrays.logprobs = carver.take(DType::kF32, {shape.num_samples});
  arrays.prompt_logprobs = carver.take(DType::kF32, {shape.num_prompt_rows});
  arrays.plain_bytes = carver.offset();
  arrays.top_ids = carver.take(DType::kI32, {shape.num_samples, kSampleTop});
  arrays.top_logprobs = carver.take(DType::kF32, {shape.num_samples, kSampleTop});
  arrays.top_bytes = carver.offset();
  arrays.prompt_top_ids = carver.take(DType::kI32, {shape.num_prompt_rows, kSampleTop});
  arrays.prompt_top_logprobs = carver.take(DType::kF32, {shape.num_prompt_rows, kSampleTop});
  arrays.bytes = carver.offset();
  return arrays;
}

std::int32_t BatchWriter::add_sequence(std::span<const std::int32_t> blocks, std::int32_t context_len) {
  FG_CHECK(num_seqs_ < shape_.num_seqs && num_entries_ + static_cast<std::int64_t>(blocks.size()) <= shape_.num_entries, num_seqs_,
           num_entries_, blocks.size(), shape_.num_entries);
  arrays_.query_start.as<std::int32_t>()[num_seqs_] = num_tokens_;
  arrays_.context_len.as<std::int32_t>()[num_seqs_] = context_len;
  arrays_.table_starts.as<std::int32_t>()[num_seqs_] = num_entries_;
  std::copy(blocks.begin(), blocks.end(), arrays_.table_entries.as<std::int32_t>() + num_entries_);
  num_entries_ += static_cast<std::int32_t>(blocks.size());
  return num_seqs_++;
}

void BatchWriter::add_token(std::int32_t token_id, std::int32_t position, std::int32_t slot) {
  FG_CHECK(num_tokens_ < shape_.num_tokens, num_tokens_);
  arrays_.token_ids.as<std::int32_t>()[num_tokens_] = token_id;
  arrays_.positions.as<std::int32_t>()[num_tokens_] = position;
  arrays_.slots.as<std::int32_t>()[num_tokens_++] = slot;
}

std::int32_t BatchWriter::add_logit_row() {
  FG_CHECK(num_logit_rows_ < shape_.num_logit_rows, num_logit_rows_);
  arrays_.logit_rows.as<std::int32_t>()[num_logit_rows_] = num_tokens_ - 1;
  return num_logit_rows_++;
}

void BatchWriter::add_bias(std::int32_t id, float value) {
  FG_CHECK(num_biases_ < shape_.num_biases, num_biases_);
  arrays_.bias_ids.as<std::int32_t>()[num_biases_] = id;
  arrays_.bias_values.as<float>()[num_biases_] = value;
  ++num_biases_;
}

std::int32_t BatchWriter::add_sample(SampleRow row) {
  FG_CHECK(num_samples_ < shape_.num_samples, num_samples_);
  row.bias_start = bias_start_;
  row.bias_count = num_biases_ - bias_start_;
  bias_start_ = num_biases_;
  std::memcpy(arrays_.sample_rows.slice(num_samples_, 1).data, &row, sizeof row);
  return num_samples_++;
}

void BatchWriter::add_prompt_row(std::int32_t target) {
  FG_CHECK(num_prompt_rows_ < shape_.num_prompt_rows, num_prompt_rows_);
  arrays_.prompt_rows.as<std::int32_t>()[num_prompt_rows_] = num_tokens_ - 1;
  arrays_.prompt_targets.as<std::int32_t>()[num_prompt_rows_++] = target;
}

void BatchWriter::add_copy(std::int32_t from, std::int32_t to) {
  FG_CHECK(num_copies_ < shape_.num_copies, num_copies_);
  std::int32_t* pair = arrays_.copies.as<std::int32_t>() + 2 * num_copies_++;
  pair[0] = from;
  pair[1] = to;
}

void BatchWriter::finish() {
  for (Tensor tensor : {arrays_.token_ids, arrays_.positions}) fill(tensor, num_tokens_, 0);
  fill(arrays_.slots, num_tokens_, -1);
  fill(arrays_.context_len, num_seqs_, 0);
  fill(arrays_.table_starts, num_seqs_, num_entries_);
  fill(arrays_.logit_rows, num_logit_rows_, -1);
  // A padding sequence has one row when it decodes and none otherwise.
  for (std::int64_t b = num_seqs_; b <= shape_.num_seqs; ++b)
    arrays_.query_start.as<std::int32_t>()[b] = static_cast<std::int32_t>(std::min(num_tokens_ + b - num_seqs_, shape_.num_tokens));
  SampleRow* samples = static_cast<SampleRow*>(arrays_.sample_rows.data);
  std::fill(samples + num_samples_, samples + shape_.num_samples, SampleRow{});
}

}  // namespace fastgen
