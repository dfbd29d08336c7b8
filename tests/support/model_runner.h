// Runs token ids through the loaded model without an engine: its own block tables, its own batches, one step per call. What every step
// says about a token that is already known (teacher forcing) or newly drawn (greedy) is kept with its sequence.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "model/loader.h"
#include "model/transformer.h"

namespace fastgen::test {

struct RunnerOptions {
  std::function<std::unique_ptr<Backend>()> make_backend = [] { return make_cpu_backend({}); };
  DType dtype = DType::kF32;
  bool dummy_weights = false;
  std::int32_t block_size = 16;
  std::int32_t num_blocks = 96;
  std::int32_t max_tokens = 256;  // of one step
  std::int32_t max_seqs = 16;
  std::int32_t max_logit_rows = 16;
  std::int32_t max_positions = 0;  // 0: the config's
};

// What the model thought of the token at one position, given those before it.
struct TokenScore {
  float logprob = 0;
  std::int32_t top_id = -1;  // the most likely one
};

struct RunSequence {
  std::vector<std::int32_t> ids;
  std::vector<TokenScore> scores;  // as many as ids; the first token has none
  std::int32_t num_computed = 0;   // tokens whose K and V are stored
  std::int32_t num_known = 0;      // ids that were given; the others were drawn
  std::int32_t prompt_len = 0;     // ids that go in chunks
  std::int32_t num_greedy = 0;     // how many to draw at most
  bool scores_prompt = true;       // of the ids that go in chunks
  std::vector<std::int32_t> blocks;
};

class ModelRunner {
 public:
  explicit ModelRunner(const std::filesystem::path& folder, const RunnerOptions& options = {});

  // A sequence of known ids; blocks come from all over the arena. Its index.
  std::size_t add(std::vector<std::int32_t> ids);
  // The same for run(): the first `prompt_len` ids go in chunks, the others one by one (teacher forcing); then it draws up to
  // `num_greedy` tokens, fewer if an end-of-sequence id comes, which is included.
  std::size_t add(std::vector<std::int32_t> ids, std::int32_t prompt_len, std::int32_t num_greedy);
  // Steps until every sequence is done, all of them in each step as far as max_tokens goes.
  void run(std::int32_t chunk);
  const RunSequence& sequence(std::size_t idx) const { return sequences_[idx]; }
  // Frees every block.
  void clear();

  struct Work {
    std::size_t seq_idx = 0;
    std::int32_t num_tokens = 0;  // the next ones of its ids
  };
  // One step; work of one token goes first, as decode. A sequence whose last known id is computed gets one more, drawn greedily.
  void step(std::vector<Work> work);

  // One sequence alone, teacher-forced. Scores of all ids.
  std::vector<TokenScore> force(const std::vector<std::int32_t>& ids, std::int32_t prompt_len, std::int32_t chunk);
  // One sequence alone: up to `count` greedy tokens. The prompt gets no scores, so that the last layer computes the rows that draw alone.
  std::vector<std::int32_t> generate(const std::vector<std::int32_t>& prompt, std::int32_t count, std::int32_t chunk);

  const ModelConfig& config() const { return config_; }
  Backend& backend() { return *backend_; }

 private:
  struct Array {
    Tensor device;
    void* pinned = nullptr;
    std::int64_t used = 0;  // rows filled for this step
  };
  Array array(DType dtype, std::initializer_list<std::int64_t> shape);
  template <typename T>
  void push(Array& array, T value);
  void push_sequence(const Work& work);
  void push_blocks(const RunSequence& sequence);
  Tensor upload(Array& array);
  void download(const Array& array, std::int64_t rows);
  void launch();
  void collect();
  bool is_done(const RunSequence& sequence) const;

  RunnerOptions options_;
  ModelConfig config_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> transformer_;
  KvArena arena_;
  std::int32_t max_blocks_per_seq_ = 0;
  std::vector<std::int32_t> free_blocks_;
  std::vector<RunSequence> sequences_;

  Array token_ids_, positions_, slots_, query_start_, context_len_, block_table_;
  Array logit_rows_, sample_rows_, state_tokens_, sample_ids_, sample_logprobs_, sample_top_ids_, sample_top_logprobs_;
  Array prompt_rows_, prompt_targets_, prompt_logprobs_, prompt_top_ids_, prompt_top_logprobs_;
  Tensor no_bias_ids_, no_bias_values_;
  std::int32_t num_decode_seqs_ = 0;
  struct Place {
    std::size_t seq_idx = 0;
    std::size_t position = 0;  // of the token that the score is about
  };
  std::vector<Place> prompt_places_, sample_places_;
};

}  // namespace fastgen::test
