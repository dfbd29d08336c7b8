// The forward pass of a dense decoder, written once over the narrow interface (Llama: Touvron et al. 2023).
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"

namespace fastgen {

struct LayerWeights {
  Tensor attention_norm;  // [E] f32, device
  Weight qkv;
  Tensor qkv_bias;        // [(H + 2K) * D] f32 or none
  Tensor q_norm, k_norm;  // [D] f32 or none
  Weight output;          // [E, H * D]
  Tensor ffn_norm;        // [E] f32
  Weight gate_up;
  Weight down;            // [E, F]
};

struct ModelWeights {
  Weight embedding;  // kHead; the same as head where tied
  std::vector<LayerWeights> layers;
  Tensor final_norm;  // [E] f32
  Weight head;        // kHead [V, E]
};

// One step's arrays, all in device memory; the engine fills them (engine/batch).
struct ForwardBatch {
  Tensor token_ids;  // [T] i32, see EmbedArgs
  Tensor positions;  // [T] i32
  Tensor slots;      // [T] i32
  AttendBatch attend;
  Tensor logit_rows;  // [R] i32: rows of the step whose next token is drawn; R may be 0
  SampleBatch sample;
  Tensor sample_ids;  // [num sample rows] i32, out
  LogprobOutput sample_logprobs;

  // Prompt logprobs: rows of the step and the ids that follow them. P may be 0.
  Tensor prompt_rows;     // [P] i32
  Tensor prompt_targets;  // [P] i32
  std::int32_t num_prompt_top = 0;
  LogprobOutput prompt_logprobs;
};

class Transformer {
 public:
  // Allocates activations for steps of up to `limits`, and has the backend reserve its own; call before Backend::seal.
  Transformer(Backend& backend, const ModelConfig& config, ModelWeights weights, std::int32_t max_model_len,
              const OpLimits& limits);

  // What the constructor allocates beside what the backend reserves.
  static std::size_t activation_bytes(const Backend& backend, const ModelConfig& config, DType dtype, std::int32_t max_model_len,
                                      const OpLimits& limits);

  // Queues one step on the compute stream: no allocation, no waiting. Prompt rows go through the head max_logit_rows at a time. Of the
  // last layer, rows that neither draw a token nor report a logprob get no more than their K and V.
  void forward(const ForwardBatch& batch, const KvArena& arena, Tensor state_tokens);

  const ModelConfig& config() const { return config_; }
  // Set to the time after each layer but the last, where given: on a CPU one step can take a minute, and its end is no news till then.
  void report_progress(std::atomic<std::uint64_t>* progress_us) { progress_us_ = progress_us; }

 private:
  // The rows of a step between the ops of a layer.
  struct Rows {
    Tensor residual, normed, attended, ffn;
  };
  Rows rows(std::int64_t count) const;

  void embed(const ForwardBatch& batch, const KvArena& arena, Tensor state_tokens);
  void store_kv(std::int32_t layer_idx, const ForwardBatch& batch, const KvArena& arena);
  void attend(std::int32_t layer_idx, const ForwardBatch& batch, const KvArena& arena);
  void finish_layer(const LayerWeights& weights, const Rows& rows);
  // From the last layer's attention on: of all rows, or of those alone that draw a token.
  void finish_all(const ForwardBatch& batch, const KvArena& arena);
  void finish_drawing(const ForwardBatch& batch, const KvArena& arena);
  Rows pick_drawing_rows(const ForwardBatch& batch);
  void sample(const ForwardBatch& batch, const KvArena& arena, Tensor x);
  void prompt_logprobs(const ForwardBatch& batch);

  Backend& backend_;
  std::atomic<std::uint64_t>* progress_us_ = nullptr;
  ModelConfig config_;
  ModelWeights weights_;
  Tensor rope_;      // [max_model_len, D] f32; none where the backend uses no weights
  Tensor residual_;  // [T, E]
  Tensor normed_;    // [T, E] product
  Tensor q_;         // [T, H, D] product
  Tensor attended_;  // [T, H * D] product
  Tensor ffn_;       // [T, F] product
  Tensor logits_in_;  // [R, E] product; rows gathered for the head
  Tensor picked_residual_;  // [R, E]; rows gathered for the last layer
};

}  // namespace fastgen
