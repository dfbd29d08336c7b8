// Steps over the narrow interface with the dims of echo, as the engine and the transformer make them:
// staging, three streams, fences. For the tests of echo and late.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "backend/backend.h"
#include "backend/echo/echo_backend.h"
#include "fastgen/types.h"

namespace fastgen::test {

// The new tokens of one sequence in one step; a token is drawn after the last.
struct EchoSeq {
  std::vector<std::int32_t> tokens;  // an id < 0: see EmbedArgs
  std::int32_t start = 0;            // position of the first
  std::vector<std::int32_t> table;   // blocks
  SampleRow sample;                  // logits_row, table_row and history_len are filled in
  bool padding = false;
  std::vector<LogitBias> bias = {};
};

struct EchoDrawn {
  std::int32_t id = 0;
  float logprob = 0;
  std::vector<TopLogprob> top;
  bool operator==(const EchoDrawn& other) const {
    auto same = [](const TopLogprob& a, const TopLogprob& b) {
      return a.id == b.id && a.logprob == b.logprob;
    };
    return id == other.id && logprob == other.logprob &&
           std::equal(top.begin(), top.end(), other.top.begin(), other.top.end(), same);
  }
};

// What a test may leave out or do wrong.
struct EchoFaults {
  bool compute_skips_upload = false;    // no wait between copy-in and compute
  bool download_skips_compute = false;  // no wait between compute and copy-out
  bool host_skips_download = false;     // results are read without a wait
  bool staging_cleared_early = false;   // the staging buffer is used again right after the upload was queued
};

class EchoMachine {
 public:
  static constexpr std::int32_t kMaxTokens = 512, kMaxSeqs = 16, kMaxBlocksPerSeq = 16, kNumStates = 16,
                                kMaxBias = 64;
  static constexpr std::int32_t kNumBlocks = 32, kBlockSize = 8;

  EchoMachine(Backend& backend, std::int32_t vocab) : backend_(backend) {
    backend.reserve({.max_tokens = kMaxTokens,
                     .max_seqs = kMaxSeqs,
                     .max_logit_rows = kMaxSeqs,
                     .max_sample_rows = kMaxSeqs,
                     .max_blocks_per_seq = kMaxBlocksPerSeq,
                     .model_dim = EchoShape::kModelDim,
                     .num_heads = 1,
                     .num_kv_heads = 1,
                     .head_dim = EchoShape::kHeadDim,
                     .ffn_dim = EchoShape::kFfnDim,
                     .vocab = vocab});
    arena.layout = {EchoShape::kNumLayers, EchoShape::kNumKvHeads, kBlockSize, EchoShape::kHeadDim};
    arena.dtype = DType::kF32;
    arena.num_blocks = kNumBlocks;
    arena.data = device(static_cast<std::size_t>(arena.layout.block_elements() * kNumBlocks) * 4);
    arena.token_ids = i32(device(kNumBlocks * kBlockSize * 4), {kNumBlocks * kBlockSize});
    residual_ = f32({kMaxTokens, EchoShape::kModelDim});
    normed_ = f32({kMaxTokens, EchoShape::kModelDim});
    q_ = f32({kMaxTokens, 1, EchoShape::kHeadDim});
    attended_ = f32({kMaxTokens, EchoShape::kHeadDim});
    ffn_ = f32({kMaxTokens, EchoShape::kFfnDim});
    gathered_ = f32({kMaxSeqs, EchoShape::kModelDim});
    state_tokens = i32(device(kNumStates * 4), {kNumStates});
    in_ = static_cast<char*>(device(sizeof(Inputs)));
    out_ = static_cast<char*>(device(sizeof(Outputs)));
    staging_ = static_cast<Inputs*>(backend.allocate(MemoryKind::kPinned, sizeof(Inputs)));
    results_ = static_cast<Outputs*>(backend.allocate(MemoryKind::kPinned, sizeof(Outputs)));
    backend.seal();
  }

  // One step: pack, upload, run, download, wait.
  std::vector<EchoDrawn> step(const std::vector<EchoSeq>& seqs, std::int32_t num_decode_seqs = 0) {
    const Shape shape = pack(seqs, num_decode_seqs);
    return run(seqs, [&] { forward(shape); });
  }
  GraphId capture(const std::vector<EchoSeq>& seqs, std::int32_t num_decode_seqs) {
    const Shape shape = pack(seqs, num_decode_seqs);
    std::memset(static_cast<void*>(staging_), 0xEE, sizeof(Inputs));  // nothing of this step may be baked in
    backend_.begin_capture();
    forward(shape);
    return backend_.end_capture();
  }
  std::vector<EchoDrawn> replay(GraphId graph, const std::vector<EchoSeq>& seqs,
                                std::int32_t num_decode_seqs) {
    pack(seqs, num_decode_seqs);
    return run(seqs, [&] { backend_.replay(graph); });
  }
  void copy_block(std::int32_t from, std::int32_t to) {
    const std::int32_t pair[2] = {from, to};
    std::memcpy(staging_->pairs, pair, sizeof(pair));
    backend_.upload(Stream::kCompute, in_ + offsetof(Inputs, pairs), staging_->pairs, sizeof(pair));
    backend_.copy_blocks(Stream::kCompute, arena, i32(in_ + offsetof(Inputs, pairs), {1, 2}));
    backend_.host_wait(backend_.record(Stream::kCompute));
  }

  KvArena arena;
  Tensor state_tokens;
  EchoFaults faults;

 private:
  struct Inputs {
    std::int32_t token_ids[kMaxTokens], positions[kMaxTokens], slots[kMaxTokens];
    std::int32_t query_start[kMaxSeqs + 1], context_len[kMaxSeqs], logit_rows[kMaxSeqs];
    std::int32_t block_table[kMaxSeqs][kMaxBlocksPerSeq];
    std::int32_t bias_ids[kMaxBias];
    float bias_values[kMaxBias];
    std::int32_t pairs[2];
    alignas(8) SampleRow rows[kMaxSeqs];
  };
  struct Outputs {
    std::int32_t ids[kMaxSeqs];
    float logprobs[kMaxSeqs];
    std::int32_t top_ids[kMaxSeqs][kSampleTop];
    float top_logprobs[kMaxSeqs][kSampleTop];
  };
  struct Shape {
    std::int64_t num_tokens, num_seqs;
    std::int32_t num_decode_seqs;
  };

  void* device(std::size_t bytes) { return backend_.allocate(MemoryKind::kDevice, bytes); }
  Tensor f32(std::initializer_list<std::int64_t> dims) {
    Tensor tensor(nullptr, DType::kF32, dims);
    tensor.data = device(tensor.bytes());
    return tensor;
  }
  static Tensor i32(void* data, std::initializer_list<std::int64_t> dims) {
    return {data, DType::kI32, dims};
  }

  Shape pack(const std::vector<EchoSeq>& seqs, std::int32_t num_decode_seqs) {
    Inputs& in = *staging_;
    in = Inputs{};
    std::int32_t t = 0, num_bias = 0;
    for (std::size_t b = 0; b < seqs.size(); ++b) {
      const EchoSeq& seq = seqs[b];
      in.query_start[b] = t;
      const std::int32_t length = seq.start + static_cast<std::int32_t>(seq.tokens.size());
      in.context_len[b] = seq.padding ? 0 : length;
      for (std::size_t m = 0; m < kMaxBlocksPerSeq; ++m)
        in.block_table[b][m] = m < seq.table.size() ? seq.table[m] : -1;
      for (std::size_t i = 0; i < seq.tokens.size(); ++i, ++t) {
        const std::int32_t position = seq.start + static_cast<std::int32_t>(i);
        in.token_ids[t] = seq.tokens[i];
        in.positions[t] = position;
        in.slots[t] = seq.padding ? -1
                                  : seq.table[static_cast<std::size_t>(position / kBlockSize)] * kBlockSize +
                                        position % kBlockSize;
      }
      in.logit_rows[b] = seq.padding ? -1 : t - 1;
      SampleRow& row = in.rows[b] = seq.sample;
      row.logits_row = row.table_row = static_cast<std::int32_t>(b);
      row.history_len = length;
      if (seq.padding) row.state_slot = -1;
      row.bias_start = num_bias;
      row.bias_count = static_cast<std::int32_t>(seq.bias.size());
      for (const LogitBias& bias : seq.bias) {
        in.bias_ids[num_bias] = bias.id;
        in.bias_values[num_bias++] = bias.bias;
      }
    }
    in.query_start[seqs.size()] = t;
    return {t, static_cast<std::int64_t>(seqs.size()), num_decode_seqs};
  }

  template <typename Forward>
  std::vector<EchoDrawn> run(const std::vector<EchoSeq>& seqs, const Forward& run_forward) {
    backend_.upload(Stream::kCopyIn, in_, staging_, sizeof(Inputs));
    const FenceId uploaded = backend_.record(Stream::kCopyIn);
    if (faults.staging_cleared_early) {
      for (SampleRow& row : staging_->rows) row.seed ^= 1;
    }
    if (!faults.compute_skips_upload) backend_.wait(Stream::kCompute, uploaded);
    run_forward();
    const FenceId computed = backend_.record(Stream::kCompute);
    if (!faults.download_skips_compute) backend_.wait(Stream::kCopyOut, computed);
    backend_.download(Stream::kCopyOut, results_, out_, sizeof(Outputs));
    const FenceId downloaded = backend_.record(Stream::kCopyOut);
    if (!faults.host_skips_download) backend_.host_wait(downloaded);
    std::vector<EchoDrawn> drawn;
    for (std::size_t b = 0; b < seqs.size(); ++b) {
      EchoDrawn& one = drawn.emplace_back();
      if (seqs[b].padding) continue;
      one.id = results_->ids[b];
      if (seqs[b].sample.num_top >= 0) one.logprob = results_->logprobs[b];
      for (int j = 0; j < seqs[b].sample.num_top; ++j) {
        one.top.push_back({results_->top_ids[b][j], results_->top_logprobs[b][j]});
      }
    }
    // Whatever was left out, the next step starts from rest.
    for (FenceId fence : {computed, downloaded, uploaded}) backend_.host_wait(fence);
    return drawn;
  }

  void forward(const Shape& shape) {
    const std::int64_t t = shape.num_tokens, b = shape.num_seqs;
    const Stream s = Stream::kCompute;
    const auto input = [&](std::size_t offset, std::initializer_list<std::int64_t> dims) {
      return i32(in_ + offset, dims);
    };
    const Tensor residual = residual_.slice(0, t), normed = normed_.slice(0, t), q = q_.slice(0, t);
    const Tensor attended = attended_.slice(0, t), ffn = ffn_.slice(0, t), gathered = gathered_.slice(0, b);
    const Tensor slots = input(offsetof(Inputs, slots), {t});
    const Tensor table = input(offsetof(Inputs, block_table), {b, kMaxBlocksPerSeq});
    backend_.embed(s, {.token_ids = input(offsetof(Inputs, token_ids), {t}),
                       .state_tokens = state_tokens,
                       .slots = slots,
                       .table = {},
                       .arena = arena,
                       .out = residual});
    backend_.add_rms_norm(s, residual, {}, {}, 0, normed);
    backend_.qkv_rope_store(s, {.x = normed,
                                .positions = input(offsetof(Inputs, positions), {t}),
                                .slots = slots,
                                .layer = 0,
                                .arena = arena,
                                .q_out = q});
    backend_.attend(s, {.q = q,
                        .batch = {.query_start = input(offsetof(Inputs, query_start), {b + 1}),
                                  .context_len = input(offsetof(Inputs, context_len), {b}),
                                  .block_table = table,
                                  .num_decode_seqs = shape.num_decode_seqs,
                                  .num_query = 1},
                        .arena = arena,
                        .layer = 0,
                        .out = attended});
    backend_.linear_add(s, attended, {}, {}, residual);
    backend_.add_rms_norm(s, residual, {}, {}, 0, normed);
    backend_.gate_up_silu(s, normed, {}, ffn);
    backend_.linear_add(s, ffn, {}, {}, residual);
    backend_.add_rms_norm(s, residual, {}, {}, 0, normed);
    backend_.gather_rows(s, normed, input(offsetof(Inputs, logit_rows), {b}), gathered);
    const SampleBatch sample{Tensor(in_ + offsetof(Inputs, rows), DType::kU8, {b, sizeof(SampleRow)}),
                             input(offsetof(Inputs, bias_ids), {kMaxBias}),
                             Tensor(in_ + offsetof(Inputs, bias_values), DType::kF32, {kMaxBias}), table,
                             state_tokens};
    const LogprobOutput logprobs{
        Tensor(out_ + offsetof(Outputs, logprobs), DType::kF32, {b}),
        i32(out_ + offsetof(Outputs, top_ids), {b, kSampleTop}),
        Tensor(out_ + offsetof(Outputs, top_logprobs), DType::kF32, {b, kSampleTop})};
    backend_.logits_sample(s, gathered, {}, sample, arena, i32(out_ + offsetof(Outputs, ids), {b}), logprobs);
  }

  Backend& backend_;
  Tensor residual_, normed_, q_, attended_, ffn_, gathered_;
  char* in_ = nullptr;
  char* out_ = nullptr;
  Inputs* staging_ = nullptr;
  Outputs* results_ = nullptr;
};

}  // namespace fastgen::test
