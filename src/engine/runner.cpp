#include "engine/runner.h"

#include <algorithm>
#include <utility>

namespace fastgen {
namespace {

// Biases that a captured step has room for, per row; a step with more runs uncaptured.
constexpr std::int64_t kCapturedBiasesPerRow = 4;

// Captured decode steps: powers of two, then every eighth, so that padding stays small where it costs.
std::vector<std::int64_t> captured_rows(std::int64_t max_batch) {
  std::vector<std::int64_t> rows;
  for (std::int64_t count : {1, 2, 4}) rows.push_back(count);
  for (std::int64_t count = 8; count < max_batch; count += 8) rows.push_back(count);
  std::erase_if(rows, [&](std::int64_t count) { return count >= max_batch; });
  rows.push_back(max_batch);
  return rows;
}

BatchShape decode_shape(std::int64_t num_rows, std::int64_t table_width) {
  return {.num_tokens = num_rows,
          .num_seqs = num_rows,
          .num_decode_seqs = num_rows,
          .num_logit_rows = num_rows,
          .num_samples = num_rows,
          .table_width = table_width,
          .num_biases = num_rows * kCapturedBiasesPerRow};
}

}  // namespace

Runner::Runner(std::unique_ptr<Backend> backend, std::unique_ptr<Transformer> transformer, const KvArena& arena,
               const RunnerLimits& limits, bool use_graphs)
    : backend_(std::move(backend)), transformer_(std::move(transformer)), arena_(arena), limits_(limits) {
  const std::int64_t block_size = arena.layout.block_size;
  max_blocks_ = (limits.max_model_len + block_size - 1) / block_size;
  const std::int64_t batch = limits.max_batch, tokens = limits.max_tokens;
  const BatchShape largest{.num_tokens = tokens, .num_seqs = batch, .num_logit_rows = batch, .num_samples = batch,
                           .num_prompt_rows = tokens, .num_copies = batch, .table_width = max_blocks_,
                           .num_biases = std::max(limits.max_biases, batch * kCapturedBiasesPerRow)};
  const std::size_t area_bytes = BatchArrays::at(nullptr, largest).bytes;
  area_ = backend_->allocate(MemoryKind::kDevice, area_bytes);
  state_tokens_ = Tensor(backend_->allocate(MemoryKind::kDevice, static_cast<std::size_t>(batch) * 4), DType::kI32, {batch});
  device_results_ = allocate_results(MemoryKind::kDevice);
  for (Buffers& buffers : buffers_) {
    buffers.staging = backend_->allocate(MemoryKind::kPinned, area_bytes);
    buffers.results = allocate_results(MemoryKind::kPinned);
    buffers.result = buffers.results.view();
  }
  backend_->seal();
  if (use_graphs && backend_->has_graphs())
    for (std::int64_t rows : captured_rows(batch)) capture(rows);
}

Runner::Results Runner::allocate_results(MemoryKind kind) {
  const auto make = [&](DType dtype, std::initializer_list<std::int64_t> dims) {
    Tensor tensor(nullptr, dtype, dims);
    tensor.data = backend_->allocate(kind, tensor.bytes());
    return tensor;
  };
  const std::int64_t batch = limits_.max_batch, tokens = limits_.max_tokens;
  return {.ids = make(DType::kI32, {batch}),
          .logprobs = make(DType::kF32, {batch}),
          .top_ids = make(DType::kI32, {batch, kSampleTop}),
          .top_logprobs = make(DType::kF32, {batch, kSampleTop}),
          .prompt_logprobs = make(DType::kF32, {tokens}),
          .prompt_top_ids = make(DType::kI32, {tokens, kSampleTop}),
          .prompt_top_logprobs = make(DType::kF32, {tokens, kSampleTop})};
}

StepResult Runner::Results::view() const {
  return {ids.as<std::int32_t>(),          logprobs.as<float>(),           top_ids.as<std::int32_t>(),
          top_logprobs.as<float>(),        prompt_logprobs.as<float>(),    prompt_top_ids.as<std::int32_t>(),
          prompt_top_logprobs.as<float>()};
}

ForwardBatch Runner::device_batch(const BatchShape& shape, std::int32_t num_prompt_top) const {
  ForwardBatch batch = BatchArrays::at(area_, shape).forward_batch(shape);
  const std::int64_t samples = shape.num_samples, prompts = shape.num_prompt_rows;
  batch.sample.state_tokens = state_tokens_;
  batch.sample_ids = device_results_.ids.slice(0, samples);
  batch.sample_logprobs = {device_results_.logprobs.slice(0, samples), device_results_.top_ids.slice(0, samples),
                           device_results_.top_logprobs.slice(0, samples)};
  batch.num_prompt_top = num_prompt_top;
  batch.prompt_logprobs = {device_results_.prompt_logprobs.slice(0, prompts), device_results_.prompt_top_ids.slice(0, prompts),
                           device_results_.prompt_top_logprobs.slice(0, prompts)};
  return batch;
}

void Runner::capture(std::int64_t num_rows) {
  const BatchShape shape = decode_shape(num_rows, max_blocks_);
  backend_->begin_capture();
  transformer_->forward(device_batch(shape, 0), arena_, state_tokens_);
  captured_.push_back({shape, backend_->end_capture()});
}

BatchShape Runner::fit(BatchShape shape) const {
  const bool decodes_alone = shape.num_decode_seqs == shape.num_tokens && shape.num_samples == shape.num_tokens &&
                             shape.num_prompt_rows == 0 && shape.num_copies == 0;
  if (!decodes_alone) return shape;
  for (const CapturedStep& step : captured_)
    if (step.shape.num_tokens >= shape.num_tokens && step.shape.num_biases >= shape.num_biases) return step.shape;
  return shape;
}

const Runner::CapturedStep* Runner::find_captured(const BatchShape& shape) const {
  const auto found = std::find_if(captured_.begin(), captured_.end(), [&](const auto& step) { return step.shape == shape; });
  return found == captured_.end() ? nullptr : &*found;
}

FenceId Runner::launch(const BatchShape& shape, const Wanted& wanted) {
  const Buffers& buffers = buffers_[next_];
  next_ = 1 - next_;
  const BatchArrays arrays = BatchArrays::at(area_, shape);
  backend_->upload(Stream::kCompute, area_, buffers.staging, arrays.bytes);
  if (shape.num_copies > 0) backend_->copy_blocks(Stream::kCompute, arena_, arrays.copies);
  if (const CapturedStep* captured = find_captured(shape)) {
    backend_->replay(captured->graph);
    ++num_graph_steps_;
  } else {
    transformer_->forward(device_batch(shape, wanted.num_prompt_top), arena_, state_tokens_);
  }
  download(buffers, shape, wanted);
  return backend_->record(Stream::kCompute);
}

void Runner::download(const Buffers& to, const BatchShape& shape, const Wanted& wanted) {
  const auto copy = [&](const Tensor& pinned, const Tensor& device, std::int64_t rows) {
    if (rows > 0) backend_->download(Stream::kCompute, pinned.data, device.data, device.slice(0, rows).bytes());
  };
  const Results &host = to.results, &device = device_results_;
  copy(host.ids, device.ids, shape.num_samples);
  copy(host.logprobs, device.logprobs, shape.num_samples);
  copy(host.prompt_logprobs, device.prompt_logprobs, shape.num_prompt_rows);
  if (wanted.top) {
    copy(host.top_ids, device.top_ids, shape.num_samples);
    copy(host.top_logprobs, device.top_logprobs, shape.num_samples);
  }
  if (wanted.num_prompt_top > 0) {
    copy(host.prompt_top_ids, device.prompt_top_ids, shape.num_prompt_rows);
    copy(host.prompt_top_logprobs, device.prompt_top_logprobs, shape.num_prompt_rows);
  }
}

}  // namespace fastgen
