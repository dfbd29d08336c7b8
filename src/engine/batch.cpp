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

void fill(Tensor tensor, std::int32_t value) {
  std::fill_n(tensor.as<std::int32_t>(), tensor.elements(), value);
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
  arrays.block_table = carver.take(DType::kI32, {shape.num_seqs, shape.table_width});
  arrays.bias_ids = carver.take(DType::kI32, {shape.num_biases});
  arrays.bias_values = carver.take(DType::kF32, {shape.num_biases});
  arrays.bytes = carver.offset();
  return arrays;
}

ForwardBatch BatchArrays::forward_batch(const BatchShape& shape) const {
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

BatchWriter::BatchWriter(void* pinned, const BatchShape& shape) : shape_(shape), arrays_(BatchArrays::at(pinned, shape)) {
  for (Tensor tensor : {arrays_.token_ids, arrays_.positions, arrays_.context_len}) fill(tensor, 0);
  fill(arrays_.slots, -1);
  fill(arrays_.logit_rows, -1);
  // A padding sequence has one row when it decodes and none otherwise.
  for (std::int64_t b = 0; b <= shape.num_seqs; ++b)
    arrays_.query_start.as<std::int32_t>()[b] = static_cast<std::int32_t>(std::min(b, shape.num_tokens));
  const SampleRow padding;
  for (std::int64_t i = 0; i < shape.num_samples; ++i)
    std::memcpy(arrays_.sample_rows.slice(i, 1).data, &padding, sizeof padding);
}

std::int32_t BatchWriter::add_sequence(std::span<const std::int32_t> blocks, std::int32_t context_len) {
  FG_CHECK(num_seqs_ < shape_.num_seqs && static_cast<std::int64_t>(blocks.size()) <= shape_.table_width, num_seqs_,
           blocks.size(), shape_.table_width);
  arrays_.query_start.as<std::int32_t>()[num_seqs_] = num_tokens_;
  arrays_.context_len.as<std::int32_t>()[num_seqs_] = context_len;
  std::int32_t* row = arrays_.block_table.as<std::int32_t>() + num_seqs_ * shape_.table_width;
  std::fill(std::copy(blocks.begin(), blocks.end(), row), row + shape_.table_width, 0);
  return num_seqs_++;
}

void BatchWriter::add_token(std::int32_t token_id, std::int32_t position, std::int32_t slot) {
  FG_CHECK(num_tokens_ < shape_.num_tokens, num_tokens_);
  arrays_.token_ids.as<std::int32_t>()[num_tokens_] = token_id;
  arrays_.positions.as<std::int32_t>()[num_tokens_] = position;
  arrays_.slots.as<std::int32_t>()[num_tokens_] = slot;
  arrays_.query_start.as<std::int32_t>()[num_seqs_] = ++num_tokens_;  // the end of this sequence's rows
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

}  // namespace fastgen
