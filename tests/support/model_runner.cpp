#include "support/model_runner.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "base/check.h"

namespace fastgen::test {

namespace {

OpLimits limits_of(const ModelConfig& config, const RunnerOptions& options, std::int32_t max_blocks_per_seq) {
  return {.max_tokens = options.max_tokens,
          .max_seqs = options.max_seqs,
          .max_logit_rows = options.max_logit_rows,
          .max_sample_rows = options.max_seqs,
          .max_blocks_per_seq = max_blocks_per_seq,
          .model_dim = config.model_dim,
          .num_heads = config.num_heads,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .ffn_dim = config.ffn_dim,
          .vocab = config.vocab};
}

}  // namespace

ModelRunner::ModelRunner(const std::filesystem::path& folder, const RunnerOptions& options)
    : options_(options), config_(load_config(folder)), backend_(options.make_backend()) {
  Backend& backend = *backend_;
  const std::int64_t t = options.max_tokens, b = options.max_seqs, bs = options.block_size, n = options.num_blocks;
  max_blocks_per_seq_ = static_cast<std::int32_t>((std::min<std::int64_t>(std::max(config_.max_positions, options.max_positions), n * bs) + bs - 1) / bs);

  ModelWeights weights =
      load_weights(backend, folder, config_, {.dtype = options.dtype, .dummy_weights = options.dummy_weights, .on_progress = {}});
  transformer_ = std::make_unique<Transformer>(backend, config_, std::move(weights), options.max_positions > 0 ? options.max_positions : config_.max_positions,
                                               limits_of(config_, options, max_blocks_per_seq_));
  arena_.layout = {config_.num_layers, config_.num_kv_heads, options.block_size, config_.head_dim};
  arena_.dtype = backend.activation_types(options.dtype).kv;
  arena_.num_blocks = n;
  arena_.data = backend.allocate(MemoryKind::kDevice, static_cast<std::size_t>(n * arena_.layout.block_elements()) * dtype_bytes(arena_.dtype));
  arena_.token_ids = array(DType::kI32, {n * bs}).device;

  for (Array* rows : {&token_ids_, &positions_, &slots_, &prompt_rows_, &prompt_targets_}) *rows = array(DType::kI32, {t});
  for (Array* rows : {&context_len_, &logit_rows_, &state_tokens_, &sample_ids_}) *rows = array(DType::kI32, {b});
  query_start_ = array(DType::kI32, {b + 1});
  block_table_ = array(DType::kI32, {b, max_blocks_per_seq_});
  sample_rows_ = array(DType::kU8, {b, sizeof(SampleRow)});
  sample_logprobs_ = array(DType::kF32, {b});
  sample_top_ids_ = array(DType::kI32, {b, kSampleTop});
  sample_top_logprobs_ = array(DType::kF32, {b, kSampleTop});
  prompt_logprobs_ = array(DType::kF32, {t});
  prompt_top_ids_ = array(DType::kI32, {t, kSampleTop});
  prompt_top_logprobs_ = array(DType::kF32, {t, kSampleTop});
  no_bias_ids_ = array(DType::kI32, {1}).device;
  no_bias_values_ = array(DType::kF32, {1}).device;
  backend.seal();
  clear();
}

ModelRunner::Array ModelRunner::array(DType dtype, std::initializer_list<std::int64_t> shape) {
  Array out;
  out.device = Tensor(nullptr, dtype, shape);
  out.device.data = backend_->allocate(MemoryKind::kDevice, out.device.bytes());
  out.pinned = backend_->allocate(MemoryKind::kPinned, out.device.bytes());
  return out;
}

void ModelRunner::clear() {
  sequences_.clear();
  free_blocks_.clear();
  // Shuffled, so that a table which happens to count upwards could not pass.
  for (std::int32_t i = 0; i < options_.num_blocks; ++i) free_blocks_.push_back(i);
  std::shuffle(free_blocks_.begin(), free_blocks_.end(), std::mt19937(1));
}

std::size_t ModelRunner::add(std::vector<std::int32_t> ids) {
  const auto count = static_cast<std::int32_t>(ids.size());
  return add(std::move(ids), count, 1);
}

std::size_t ModelRunner::add(std::vector<std::int32_t> ids, std::int32_t prompt_len, std::int32_t num_greedy) {
  RunSequence sequence;
  sequence.prompt_len = prompt_len;
  sequence.num_known = static_cast<std::int32_t>(ids.size());
  sequence.num_greedy = num_greedy;
  sequence.scores.resize(ids.size());
  sequence.ids = std::move(ids);
  sequences_.push_back(std::move(sequence));
  return sequences_.size() - 1;
}

template <typename T>
void ModelRunner::push(Array& array, T value) {
  FG_CHECK(array.used < array.device.rows(), array.used, array.device.rows());
  std::memcpy(static_cast<char*>(array.pinned) + array.used * static_cast<std::int64_t>(sizeof(T)), &value, sizeof(T));
  ++array.used;
}

void ModelRunner::push_blocks(const RunSequence& sequence) {
  auto* row = static_cast<std::int32_t*>(block_table_.pinned) + block_table_.used * max_blocks_per_seq_;
  std::copy(sequence.blocks.begin(), sequence.blocks.end(), row);
  ++block_table_.used;
}

void ModelRunner::push_sequence(const Work& work) {
  RunSequence& sequence = sequences_[work.seq_idx];
  const std::int32_t end = sequence.num_computed + work.num_tokens;
  FG_CHECK(work.num_tokens > 0 && end <= static_cast<std::int32_t>(sequence.ids.size()), work.num_tokens, end);
  while (static_cast<std::int32_t>(sequence.blocks.size()) * options_.block_size < end) {
    FG_CHECK(!free_blocks_.empty(), end);
    sequence.blocks.push_back(free_blocks_.back());
    free_blocks_.pop_back();
  }
  for (std::int32_t position = sequence.num_computed; position < end; ++position) {
    const auto row = static_cast<std::int32_t>(token_ids_.used);
    const auto next = static_cast<std::size_t>(position) + 1;
    push(token_ids_, sequence.ids[next - 1]);
    push(positions_, position);
    push(slots_, sequence.blocks[static_cast<std::size_t>(position / options_.block_size)] * options_.block_size + position % options_.block_size);
    if (next < sequence.ids.size()) {
      if (!sequence.scores_prompt && static_cast<std::int32_t>(next) < sequence.prompt_len) continue;
      push(prompt_rows_, row);
      push(prompt_targets_, sequence.ids[next]);
      prompt_places_.push_back({work.seq_idx, next});
      continue;
    }
    SampleRow sample;
    sample.logits_row = static_cast<std::int32_t>(logit_rows_.used);
    sample.state_slot = static_cast<std::int32_t>(context_len_.used);
    sample.table_row = static_cast<std::int32_t>(context_len_.used);
    sample.history_len = end;
    sample.prompt_len = sequence.num_known;
    sample.num_top = 1;
    sample.temperature = 0;
    push(logit_rows_, row);
    push(sample_rows_, sample);
    sample_places_.push_back({work.seq_idx, next});
  }
  push_blocks(sequence);
  push(context_len_, end);
  push(query_start_, static_cast<std::int32_t>(token_ids_.used));
  sequence.num_computed = end;
}

void ModelRunner::step(std::vector<Work> work) {
  std::stable_partition(work.begin(), work.end(), [](const Work& w) { return w.num_tokens == 1; });
  num_decode_seqs_ = static_cast<std::int32_t>(std::count_if(work.begin(), work.end(), [](const Work& w) { return w.num_tokens == 1; }));
  for (Array* rows : {&token_ids_, &positions_, &slots_, &query_start_, &context_len_, &block_table_, &logit_rows_, &sample_rows_,
                      &prompt_rows_, &prompt_targets_}) {
    rows->used = 0;
  }
  prompt_places_.clear();
  sample_places_.clear();
  push(query_start_, std::int32_t{0});
  for (const Work& one : work) push_sequence(one);
  launch();
  collect();
}

Tensor ModelRunner::upload(Array& array) {
  const Tensor rows = array.device.slice(0, array.used);
  if (array.used > 0) backend_->upload(Stream::kCompute, rows.data, array.pinned, rows.bytes());
  return rows;
}

void ModelRunner::download(const Array& array, std::int64_t rows) {
  const Tensor used = array.device.slice(0, rows);
  if (rows > 0) backend_->download(Stream::kCompute, array.pinned, used.data, used.bytes());
}

void ModelRunner::launch() {
  const Tensor table = upload(block_table_);
  ForwardBatch batch;
  batch.token_ids = upload(token_ids_);
  batch.positions = upload(positions_);
  batch.slots = upload(slots_);
  batch.attend = {upload(query_start_), upload(context_len_), table, num_decode_seqs_, 1};
  batch.logit_rows = upload(logit_rows_);
  batch.sample = {upload(sample_rows_), no_bias_ids_, no_bias_values_, table, state_tokens_.device};
  const std::int64_t r = logit_rows_.used, p = prompt_rows_.used;
  batch.sample_ids = sample_ids_.device.slice(0, r);
  batch.sample_logprobs = {sample_logprobs_.device.slice(0, r), sample_top_ids_.device.slice(0, r), sample_top_logprobs_.device.slice(0, r)};
  batch.prompt_rows = upload(prompt_rows_);
  batch.prompt_targets = upload(prompt_targets_);
  batch.num_prompt_top = 1;
  batch.prompt_logprobs = {prompt_logprobs_.device.slice(0, p), prompt_top_ids_.device.slice(0, p), prompt_top_logprobs_.device.slice(0, p)};
  transformer_->forward(batch, arena_, state_tokens_.device);
  for (const Array* array : {&sample_ids_, &sample_logprobs_, &sample_top_ids_}) download(*array, r);
  for (const Array* array : {&prompt_logprobs_, &prompt_top_ids_}) download(*array, p);
  backend_->host_wait(backend_->record(Stream::kCompute));
}

void ModelRunner::collect() {
  const auto score = [](const Array& logprobs, const Array& top_ids, std::size_t row) {
    return TokenScore{static_cast<const float*>(logprobs.pinned)[row], static_cast<const std::int32_t*>(top_ids.pinned)[row * kSampleTop]};
  };
  for (std::size_t i = 0; i < prompt_places_.size(); ++i) {
    const Place& place = prompt_places_[i];
    sequences_[place.seq_idx].scores[place.position] = score(prompt_logprobs_, prompt_top_ids_, i);
  }
  for (std::size_t i = 0; i < sample_places_.size(); ++i) {
    RunSequence& sequence = sequences_[sample_places_[i].seq_idx];
    sequence.ids.push_back(static_cast<const std::int32_t*>(sample_ids_.pinned)[i]);
    sequence.scores.push_back(score(sample_logprobs_, sample_top_ids_, i));
  }
}

bool ModelRunner::is_done(const RunSequence& sequence) const {
  const auto drawn = static_cast<std::int32_t>(sequence.ids.size()) - sequence.num_known;
  if (drawn == 0) return sequence.num_greedy == 0 && sequence.num_computed + 1 >= sequence.num_known;
  return drawn >= sequence.num_greedy ||
         std::find(config_.eos_ids.begin(), config_.eos_ids.end(), sequence.ids.back()) != config_.eos_ids.end();
}

void ModelRunner::run(std::int32_t chunk) {
  while (true) {
    std::vector<Work> work;
    std::int32_t room = options_.max_tokens;
    for (std::size_t i = 0; i < sequences_.size() && room > 0; ++i) {
      const RunSequence& sequence = sequences_[i];
      if (is_done(sequence)) continue;
      const std::int32_t left = sequence.prompt_len - sequence.num_computed;
      work.push_back({i, left > 0 ? std::min({left, chunk, room}) : 1});
      room -= work.back().num_tokens;
    }
    if (work.empty()) return;
    step(work);
  }
}

std::vector<TokenScore> ModelRunner::force(const std::vector<std::int32_t>& ids, std::int32_t prompt_len, std::int32_t chunk) {
  clear();
  const std::size_t idx = add(ids, prompt_len, 0);
  run(chunk);
  std::vector<TokenScore> scores = sequence(idx).scores;
  scores.resize(ids.size());  // a prompt's last chunk draws a token
  return scores;
}

std::vector<std::int32_t> ModelRunner::generate(const std::vector<std::int32_t>& prompt, std::int32_t count, std::int32_t chunk) {
  clear();
  const auto prompt_len = static_cast<std::int32_t>(prompt.size());
  const std::size_t idx = add(prompt, prompt_len, count);
  sequences_[idx].scores_prompt = false;
  run(chunk);
  return {sequence(idx).ids.begin() + prompt_len, sequence(idx).ids.end()};
}

}  // namespace fastgen::test
