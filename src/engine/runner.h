// Everything on the device: backend, transformer, KV arena, the arrays of a step, captured decode steps.
//
// Two steps may be in flight, so what host and device share per step exists twice (pinned staging and results); device
// arrays exist once, since the compute stream orders uploads, steps and downloads. Engine thread only.
//
// A step of decode rows alone is the replay of a graph for the next of a few batch sizes (graph_rows). The largest is captured at
// start; the engine has the others captured one at a time, between steps or when it is at rest.
//
// The host tier is pinned memory of whole blocks. With step N - 1 running, what a plan pages goes like this:
//
//   compute   | step N-1          w(out) [a] | step N              w(in) | step N+1      [f]: a fence, w(f): waits for it
//   copy-out  | page out [out]                               w(in)               blocks of victims, collected before: at once
//   copy-in                             w(a) | page in [in]                      over blocks that step N-1 may have written
//
// so that copies shorter than a step hide behind one.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "engine/batch.h"
#include "kv/kv_cache.h"
#include "model/transformer.h"

namespace fastgen {

// The largest step.
struct RunnerLimits {
  std::int32_t max_batch = 0;       // state slots, and samples of a step
  std::int64_t max_tokens = 0;      // of a step
  std::int64_t max_seq_blocks = 0;  // M: blocks of the longest sequence
  std::int64_t max_biases = 0;      // of a step
  std::int32_t num_graphs = 0;      // batch sizes to capture; 0: none
};

// The batch sizes to capture, ascending: powers of two and the largest, then whatever halves the widest gap, so that
// padding stays small. At most `num_graphs`, 1 .. max_batch.
std::vector<std::int64_t> graph_rows(std::int64_t max_batch, std::int32_t num_graphs);

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
  // Allocates all but the arena. Then measure_graphs, if the arena's size depends on it, and start.
  Runner(std::unique_ptr<Backend> backend, std::unique_ptr<Transformer> transformer, const RunnerLimits& limits);
  // What the constructor takes of the device's memory.
  static std::size_t device_bytes(const RunnerLimits& limits);

  // Runs the largest decode step with nothing but padding in it, and waits: so that what is loaded or planned at first use is there
  // before memory is measured, anything is captured or a request comes. `arena` as for measure_graphs.
  void warm_up(const KvArena& arena);
  // What one captured step takes of the device's memory. `arena` stands for the one to come: nothing is read or written.
  std::size_t measure_graphs(const KvArena& arena);
  // Of one block, in the arena or the host tier: K, V and token ids.
  static std::int64_t block_bytes(const KvLayout& layout, DType dtype);
  // Before start, if there is to be one. Blocks as `arena` has them.
  void allocate_host_tier(const KvArena& arena, std::int32_t num_blocks);
  // Seals the backend and captures the largest decode step.
  void start(const KvArena& arena);

  Backend& backend() { return *backend_; }
  void report_progress(std::atomic<std::uint64_t>* progress_us) { transformer_->report_progress(progress_us); }
  const KvArena& arena() const { return arena_; }

  // Rounds a step of decode rows alone up to a captured one, where it can be; `shape` then counts padding too.
  BatchShape fit(BatchShape shape);
  // Where the arrays of the next launch are written: BatchWriter(staging(), fit(shape)).
  void* staging() const { return buffers_[next_].staging; }

  // Queues the copies between arena and host tier that a plan asks for, before its step is launched; of every plan, also one without:
  // its step comes after the page-ins of the plan before.
  void page(const std::vector<BlockCopy>& outs, const std::vector<BlockCopy>& ins);

  struct Wanted {
    bool top = false;                // some sample wants alternatives
    std::int32_t num_prompt_top = 0;
  };
  // Queues the step written in staging: upload, copies, forward, download. No waiting. The fence passes when its result is there.
  FenceId launch(const BatchShape& shape, const Wanted& wanted);
  // Of the step launched last.
  StepResult result() const { return buffers_[1 - next_].result; }

  // Captures the batch size that the last fit() had to do without; does nothing if it had what it wanted.
  void capture_missing();
  // Captures one that is still missing; false if none is.
  bool capture_next();
  bool lacks_graphs() const;
  std::uint64_t num_graph_steps() const { return num_graph_steps_; }

 private:
  struct Buffers {
    void* staging = nullptr;
    void* results = nullptr;
    StepResult result;
  };
  struct CapturedStep {
    BatchShape shape;
    GraphId graph = -1;  // < 0: not captured yet
    bool is_captured() const { return graph >= 0; }
  };

  void queue_step(const BatchShape& shape, std::int32_t num_prompt_top);
  void capture(CapturedStep& step);
  const CapturedStep* find_captured(const BatchShape& shape) const;
  // K and V, or token ids, of blocks that are neighbours: in the arena and in the host tier.
  struct BlockPart {
    char* arena = nullptr;
    char* host = nullptr;
    std::size_t bytes = 0;
  };
  std::array<BlockPart, 2> parts_of(BlockId arena_block, BlockId host_block, std::int32_t count) const;

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> transformer_;
  KvArena arena_;
  RunnerLimits limits_;
  char* host_tier_ = nullptr;  // pinned: K and V of all its blocks, then their token ids
  std::int32_t num_host_blocks_ = 0;
  FenceId paged_in_ = 0;       // what the next step has to wait for
  void* area_ = nullptr;     // device; see batch.h
  void* results_ = nullptr;  // device
  Tensor block_table_;       // [max_batch, M] i32
  Tensor state_tokens_;      // [max_batch] i32
  Buffers buffers_[2];
  int next_ = 0;
  std::vector<CapturedStep> graphs_;  // by rows, ascending
  CapturedStep* missing_ = nullptr;   // of graphs_: what the last fit() had to do without
  std::uint64_t num_graph_steps_ = 0;
};

}  // namespace fastgen
