// Everything on the device: backend, transformer, KV arena, the arrays of a step, captured decode steps.
//
// Two steps may be in flight, so what host and device share per step exists twice (pinned staging and results); device
// arrays exist once, since the compute stream orders uploads, steps and downloads. Engine thread only.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/batch.h"
#include "model/transformer.h"

namespace fastgen {

// The largest step, and what the arena holds.
struct RunnerLimits {
  std::int32_t max_batch = 0;    // state slots, and samples of a step
  std::int64_t max_tokens = 0;   // of a step
  std::int32_t max_model_len = 0;
  std::int64_t max_biases = 0;   // of a step
};

// What a launched step left for the host: pinned memory, valid until the second launch after it.
struct StepResult {
  const std::int32_t* ids = nullptr;            // [samples]
  const float* logprobs = nullptr;              // [samples]
  const std::int32_t* top_ids = nullptr;        // [samples, kSampleTop]
  const float* top_logprobs = nullptr;          // [samples, kSampleTop]
  const float* prompt_logprobs = nullptr;       // [P]
  const std::int32_t* prompt_top_ids = nullptr;  // [P, kSampleTop]
  const float* prompt_top_logprobs = nullptr;   // [P, kSampleTop]
};

class Runner {
 public:
  Runner(std::unique_ptr<Backend> backend, std::unique_ptr<Transformer> transformer, const KvArena& arena,
         const RunnerLimits& limits, bool use_graphs);

  Backend& backend() { return *backend_; }
  void report_progress(std::atomic<std::uint64_t>* progress_us) { transformer_->report_progress(progress_us); }
  const KvArena& arena() const { return arena_; }

  // Rounds a step of decode rows alone up to a captured one, where it can be; `shape` then counts padding too.
  BatchShape fit(BatchShape shape) const;
  // Where the arrays of the next launch are written: BatchWriter(staging(), fit(shape)).
  void* staging() const { return buffers_[next_].staging; }

  struct Wanted {
    bool top = false;                // some sample wants alternatives
    std::int32_t num_prompt_top = 0;
  };
  // Queues the step written in staging: upload, copies, forward, downloads. No waiting. The fence passes when its result is there.
  FenceId launch(const BatchShape& shape, const Wanted& wanted);
  // Of the step launched last.
  StepResult result() const { return buffers_[1 - next_].result; }
  std::uint64_t num_graph_steps() const { return num_graph_steps_; }

 private:
  struct Results {
    Tensor ids, logprobs, top_ids, top_logprobs, prompt_logprobs, prompt_top_ids, prompt_top_logprobs;
    StepResult view() const;
  };
  struct Buffers {
    void* staging = nullptr;
    Results results;
    StepResult result;
  };
  struct CapturedStep {
    BatchShape shape;
    GraphId graph = 0;
  };

  Results allocate_results(MemoryKind kind);
  ForwardBatch device_batch(const BatchShape& shape, std::int32_t num_prompt_top) const;
  void capture(std::int64_t num_rows);
  const CapturedStep* find_captured(const BatchShape& shape) const;
  void download(const Buffers& to, const BatchShape& shape, const Wanted& wanted);

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> transformer_;
  KvArena arena_;
  RunnerLimits limits_;
  std::int64_t max_blocks_ = 0;  // M at most
  void* area_ = nullptr;         // device; see batch.h
  Tensor state_tokens_;          // [max_batch] i32
  Results device_results_;
  Buffers buffers_[2];
  int next_ = 0;
  std::vector<CapturedStep> captured_;  // by rows, ascending
  std::uint64_t num_graph_steps_ = 0;
};

}  // namespace fastgen
