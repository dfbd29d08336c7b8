#include "engine/runner.h"

#include <algorithm>
#include <utility>

#include "model/uploader.h"

namespace fastgen {
namespace {

// Biases that a captured step has room for, per row; a step with more runs uncaptured.
constexpr std::int64_t kCapturedBiasesPerRow = 4;
// While its own size is not captured yet, a step of so few rows, or of half those of a captured one, runs as that one padded:
// launching the ops one by one would take longer than the rows that it does not need.
constexpr std::int64_t kFewRows = 16;

std::int64_t rounded(std::int64_t count) { return count > 16 ? count / 8 * 8 : count; }

BatchShape decode_shape(std::int64_t num_rows, std::int64_t max_seq_blocks) {
  return {.num_tokens = num_rows,
          .num_seqs = num_rows,
          .num_decode_seqs = num_rows,
          .num_logit_rows = num_rows,
          .num_samples = num_rows,
          .num_biases = num_rows * kCapturedBiasesPerRow,
          .num_entries = num_rows * max_seq_blocks};
}

BatchShape largest_shape(const RunnerLimits& limits) {
  const std::int64_t batch = limits.max_batch, tokens = limits.max_tokens;
  return {.num_tokens = tokens,
          .num_seqs = batch,
          .num_logit_rows = batch,
          .num_samples = batch,
          .num_prompt_rows = tokens,
          .num_copies = batch,
          .num_biases = std::max(limits.max_biases, batch * kCapturedBiasesPerRow),
          .num_entries = batch * limits.max_seq_blocks};
}

StepResult view(const ResultArrays& arrays) {
  return {arrays.ids.as<std::int32_t>(),     arrays.logprobs.as<float>(),        arrays.top_ids.as<std::int32_t>(),
          arrays.top_logprobs.as<float>(),   arrays.prompt_logprobs.as<float>(), arrays.prompt_top_ids.as<std::int32_t>(),
          arrays.prompt_top_logprobs.as<float>()};
}

}  // namespace

std::vector<std::int64_t> graph_rows(std::int64_t max_batch, std::int32_t num_graphs) {
  std::vector<std::int64_t> rows;
  if (num_graphs < 1) return rows;
  for (std::int64_t count = 1; count < max_batch; count *= 2) rows.push_back(count);
  rows.push_back(max_batch);
  const auto most = static_cast<std::size_t>(num_graphs);
  // Too many: every second one goes, the largest stays.
  while (rows.size() > most) {
    std::vector<std::int64_t> fewer;
    for (std::size_t i = rows.size() - 1;; i -= 2) {
      fewer.insert(fewer.begin(), rows[i]);
      if (i < 2) break;
    }
    rows = fewer;
  }
  while (rows.size() < most) {
    std::size_t widest = 1;
    for (std::size_t i = 1; i < rows.size(); ++i)
      if (rows[i] - rows[i - 1] > rows[widest] - rows[widest - 1]) widest = i;
    if (rows.size() < 2 || rows[widest] - rows[widest - 1] < 2) break;
    const std::int64_t middle = rounded((rows[widest - 1] + rows[widest]) / 2);
    if (middle <= rows[widest - 1]) break;
    rows.insert(rows.begin() + static_cast<std::ptrdiff_t>(widest), middle);
  }
  return rows;
}

Runner::Runner(std::unique_ptr<Backend> backend, std::unique_ptr<Transformer> transformer, const RunnerLimits& limits)
    : backend_(std::move(backend)), transformer_(std::move(transformer)), limits_(limits) {
  const BatchShape largest = largest_shape(limits);
  const std::size_t area_bytes = BatchArrays::at(nullptr, largest).bytes, results_bytes = ResultArrays::at(nullptr, largest).bytes;
  area_ = backend_->allocate(MemoryKind::kDevice, area_bytes);
  results_ = backend_->allocate(MemoryKind::kDevice, results_bytes);
  state_tokens_ = device_tensor(*backend_, DType::kI32, {limits.max_batch});
  block_table_ = device_tensor(*backend_, DType::kI32, {limits.max_batch, limits.max_seq_blocks});
  for (Buffers& buffers : buffers_) {
    buffers.staging = backend_->allocate(MemoryKind::kPinned, area_bytes);
    buffers.results = backend_->allocate(MemoryKind::kPinned, results_bytes);
  }
  if (!backend_->has_graphs()) return;
  for (std::int64_t rows : graph_rows(limits.max_batch, limits.num_graphs))
    graphs_.push_back({decode_shape(rows, limits.max_seq_blocks)});
}

std::size_t Runner::device_bytes(const RunnerLimits& limits) {
  const BatchShape largest = largest_shape(limits);
  const auto tables = static_cast<std::size_t>(limits.max_batch * (limits.max_seq_blocks + 1)) * sizeof(std::int32_t);
  return BatchArrays::at(nullptr, largest).bytes + ResultArrays::at(nullptr, largest).bytes + tables;
}

void Runner::warm_up(const KvArena& arena) {
  arena_ = arena;
  BatchShape shape = decode_shape(limits_.max_batch, limits_.max_seq_blocks);
  shape.num_entries = 0;
  BatchWriter(staging(), shape).finish();
  backend_->host_wait(launch(shape, {}));
}

std::size_t Runner::measure_graphs(const KvArena& arena) {
  if (graphs_.empty()) return 0;
  arena_ = arena;
  const std::size_t bytes_before = backend_->graph_bytes();
  CapturedStep trial{graphs_.back().shape};  // never replayed
  capture(trial);
  return backend_->graph_bytes() - bytes_before;
}

std::int64_t Runner::block_bytes(const KvLayout& layout, DType dtype) {
  return layout.block_elements() * static_cast<std::int64_t>(dtype_bytes(dtype)) + layout.block_size * std::int64_t{sizeof(std::int32_t)};
}

void Runner::allocate_host_tier(const KvArena& arena, std::int32_t num_blocks) {
  const auto bytes = static_cast<std::size_t>(num_blocks * block_bytes(arena.layout, arena.dtype));
  host_tier_ = static_cast<char*>(backend_->allocate(MemoryKind::kPinned, bytes));
  num_host_blocks_ = num_blocks;
}

void Runner::start(const KvArena& arena) {
  arena_ = arena;
  backend_->seal();
  if (!graphs_.empty()) capture(graphs_.back());
}

// ---- captured steps

void Runner::capture(CapturedStep& step) {
  backend_->begin_capture();
  queue_step(step.shape, 0);
  step.graph = backend_->end_capture();
}

void Runner::capture_missing() {
  if (missing_) capture(*missing_);
  missing_ = nullptr;
}

bool Runner::lacks_graphs() const {
  return std::any_of(graphs_.begin(), graphs_.end(), [](const auto& step) { return !step.is_captured(); });
}

bool Runner::capture_next() {
  const auto next = std::find_if(graphs_.begin(), graphs_.end(), [](const auto& step) { return !step.is_captured(); });
  if (next == graphs_.end()) return false;
  capture(*next);
  return true;
}

BatchShape Runner::fit(BatchShape shape) {
  missing_ = nullptr;
  const bool decodes_alone = shape.num_decode_seqs == shape.num_tokens && shape.num_samples == shape.num_tokens &&
                             shape.num_prompt_rows == 0 && shape.num_copies == 0;
  if (!decodes_alone) return shape;
  for (CapturedStep& step : graphs_) {
    if (step.shape.num_tokens < shape.num_tokens || step.shape.num_biases < shape.num_biases) continue;
    if (!step.is_captured()) {
      if (!missing_) missing_ = &step;
      continue;
    }
    const bool wastes_little = !missing_ || step.shape.num_tokens <= std::max(kFewRows, 2 * shape.num_tokens);
    if (!wastes_little) return shape;
    const std::int64_t num_entries = shape.num_entries;
    shape = step.shape;
    shape.num_entries = num_entries;
    return shape;
  }
  return shape;
}

const Runner::CapturedStep* Runner::find_captured(const BatchShape& shape) const {
  for (const CapturedStep& step : graphs_) {
    BatchShape captured = step.shape;
    captured.num_entries = shape.num_entries;
    if (step.is_captured() && captured == shape) return &step;
  }
  return nullptr;
}

// ---- the host tier

std::array<Runner::BlockPart, 2> Runner::parts_of(BlockId arena_block, BlockId host_block, std::int32_t count) const {
  FG_CHECK(host_block >= 0 && count >= 1 && host_block <= num_host_blocks_ - count, host_block, count, num_host_blocks_);
  const std::size_t id_bytes = static_cast<std::size_t>(arena_.layout.block_size) * sizeof(std::int32_t);
  const std::size_t kv_bytes = static_cast<std::size_t>(block_bytes(arena_.layout, arena_.dtype)) - id_bytes;
  const auto in_arena = static_cast<std::size_t>(arena_block), in_host = static_cast<std::size_t>(host_block), n = static_cast<std::size_t>(count);
  char* const host_ids = host_tier_ + static_cast<std::size_t>(num_host_blocks_) * kv_bytes;
  return {{{static_cast<char*>(arena_.data) + in_arena * kv_bytes, host_tier_ + in_host * kv_bytes, n * kv_bytes},
           {static_cast<char*>(arena_.token_ids.data) + in_arena * id_bytes, host_ids + in_host * id_bytes, n * id_bytes}}};
}

void Runner::page(const std::vector<BlockCopy>& outs, const std::vector<BlockCopy>& ins) {
  if (const FenceId before = std::exchange(paged_in_, 0)) backend_->wait(Stream::kCompute, before);
  if (!outs.empty()) {
    for (const BlockRun& run : runs_of(outs))
      for (const BlockPart& part : parts_of(run.from, run.to, run.count)) backend_->download(Stream::kCopyOut, part.host, part.arena, part.bytes);
    // The blocks are others' from now on.
    backend_->wait(Stream::kCompute, backend_->record(Stream::kCopyOut));
  }
  if (!ins.empty()) {
    // The step in flight may have run ahead of the end of a sequence that had these blocks; and page-outs come first, as above.
    backend_->wait(Stream::kCopyIn, backend_->record(Stream::kCompute));
    for (const BlockRun& run : runs_of(ins))
      for (const BlockPart& part : parts_of(run.to, run.from, run.count)) backend_->upload(Stream::kCopyIn, part.arena, part.host, part.bytes);
    // What was read is free to be paged over, and what was written may be paged out again.
    paged_in_ = backend_->record(Stream::kCopyIn);
    backend_->wait(Stream::kCopyOut, paged_in_);
  }
}

// ---- a step

void Runner::queue_step(const BatchShape& shape, std::int32_t num_prompt_top) {
  const BatchArrays arrays = BatchArrays::at(area_, shape);
  const ResultArrays results = ResultArrays::at(results_, shape);
  const Tensor table = block_table_.slice(0, shape.num_seqs);
  backend_->fill_table(Stream::kCompute, arrays.table_entries, arrays.table_starts, table);
  ForwardBatch batch = arrays.forward_batch(shape, table);
  batch.sample.state_tokens = state_tokens_;
  batch.sample_ids = results.ids;
  batch.sample_logprobs = {results.logprobs, results.top_ids, results.top_logprobs};
  batch.num_prompt_top = num_prompt_top;
  batch.prompt_logprobs = {results.prompt_logprobs, results.prompt_top_ids, results.prompt_top_logprobs};
  transformer_->forward(batch, arena_, state_tokens_);
}

FenceId Runner::launch(const BatchShape& shape, const Wanted& wanted) {
  Buffers& buffers = buffers_[next_];
  next_ = 1 - next_;
  const BatchArrays arrays = BatchArrays::at(area_, shape);
  backend_->upload(Stream::kCompute, area_, buffers.staging, arrays.bytes);
  if (shape.num_copies > 0) backend_->copy_blocks(Stream::kCompute, arena_, arrays.copies);
  if (const CapturedStep* captured = find_captured(shape)) {
    backend_->replay(captured->graph);
    ++num_graph_steps_;
  } else {
    queue_step(shape, wanted.num_prompt_top);
  }
  const ResultArrays results = ResultArrays::at(buffers.results, shape);
  const std::size_t bytes = wanted.num_prompt_top > 0 ? results.bytes : wanted.top ? results.top_bytes : results.plain_bytes;
  if (bytes > 0) backend_->download(Stream::kCompute, buffers.results, results_, bytes);
  buffers.result = view(results);
  return backend_->record(Stream::kCompute);
}

}  // namespace fastgen
