#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/clock.h"
#include "model/rope.h"
#include "model/uploader.h"

namespace fastgen {

namespace {

// A tensor that is absent has no rows.
std::int64_t num_rows(const Tensor& tensor) { return tensor ? tensor.rows() : 0; }

Tensor slice_if_there(const Tensor& tensor, std::int64_t first, std::int64_t count) {
  return tensor ? tensor.slice(first, count) : Tensor();
}

}  // namespace

Transformer::Transformer(Backend& backend, const ModelConfig& config, ModelWeights weights, std::int32_t max_model_len,
                         const OpLimits& limits)
    : backend_(backend), config_(config), weights_(std::move(weights)) {
  FG_CHECK(weights_.layers.size() == static_cast<std::size_t>(config.num_layers), weights_.layers.size(), config.num_layers);
  FG_CHECK(limits.max_tokens > 0 && limits.max_logit_rows > 0, limits.max_tokens, limits.max_logit_rows);
  backend.reserve(limits);
  const ActivationTypes types = backend.activation_types(weights_.embedding.dtype);
  const std::int64_t t = limits.max_tokens, e = config.model_dim, h = config.num_heads, d = config.head_dim;
  if (backend.uses_weights()) rope_ = make_rope_table(backend, config.rope, config.head_dim, max_model_len);
  residual_ = device_tensor(backend, types.residual, {t, e});
  normed_ = device_tensor(backend, types.product, {t, e});
  q_ = device_tensor(backend, types.product, {t, h, d});
  attended_ = device_tensor(backend, types.product, {t, h * d});
  ffn_ = device_tensor(backend, types.product, {t, config.ffn_dim});
  logits_in_ = device_tensor(backend, types.product, {limits.max_logit_rows, e});
}

std::size_t Transformer::activation_bytes(const Backend& backend, const ModelConfig& config, DType dtype, std::int32_t max_model_len,
                                          const OpLimits& limits) {
  const ActivationTypes types = backend.activation_types(dtype);
  const std::int64_t t = limits.max_tokens, e = config.model_dim, h = config.num_heads, d = config.head_dim;
  const std::int64_t product = t * (e + 2 * h * d + config.ffn_dim) + limits.max_logit_rows * e;
  const std::int64_t rope = backend.uses_weights() ? std::int64_t{max_model_len} * d : 0;
  return static_cast<std::size_t>(product) * dtype_bytes(types.product) + static_cast<std::size_t>(t * e) * dtype_bytes(types.residual) +
         static_cast<std::size_t>(rope) * sizeof(float);
}

void Transformer::forward(const ForwardBatch& batch, const KvArena& arena, Tensor state_tokens) {
  const std::int64_t num_tokens = batch.token_ids.rows();
  const Tensor residual = residual_.slice(0, num_tokens), normed = normed_.slice(0, num_tokens);
  backend_.embed(Stream::kCompute, {.token_ids = batch.token_ids,
                                    .state_tokens = state_tokens,
                                    .slots = batch.slots,
                                    .table = weights_.embedding,
                                    .arena = arena,
                                    .out = residual});
  for (std::int32_t i = 0; i < config_.num_layers; ++i) {
    layer(i, batch, arena);
    if (progress_us_ != nullptr) progress_us_->store(now_us(), std::memory_order_relaxed);
  }
  if (num_rows(batch.logit_rows) == 0 && num_rows(batch.prompt_rows) == 0) return;
  backend_.add_rms_norm(Stream::kCompute, residual, {}, weights_.final_norm, config_.norm_eps, normed);
  prompt_logprobs(batch);
  sample(batch, arena);
}

void Transformer::layer(std::int32_t layer_idx, const ForwardBatch& batch, const KvArena& arena) {
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer_idx)];
  const std::int64_t num_tokens = batch.token_ids.rows();
  const Tensor residual = residual_.slice(0, num_tokens), normed = normed_.slice(0, num_tokens);
  const Tensor q = q_.slice(0, num_tokens), attended = attended_.slice(0, num_tokens), ffn = ffn_.slice(0, num_tokens);

  backend_.add_rms_norm(Stream::kCompute, residual, {}, weights.attention_norm, config_.norm_eps, normed);
  backend_.qkv_rope_store(Stream::kCompute, {.x = normed,
                                             .weight = weights.qkv,
                                             .bias = weights.qkv_bias,
                                             .q_norm = weights.q_norm,
                                             .k_norm = weights.k_norm,
                                             .norm_eps = config_.norm_eps,
                                             .rope = rope_,
                                             .positions = batch.positions,
                                             .slots = batch.slots,
                                             .layer = layer_idx,
                                             .arena = arena,
                                             .q_out = q});
  backend_.attend(Stream::kCompute, {.q = q,
                                     .batch = batch.attend,
                                     .arena = arena,
                                     .layer = layer_idx,
                                     .window = config_.layer_window(layer_idx),
                                     .scale = 1 / std::sqrt(static_cast<float>(config_.head_dim)),
                                     .out = attended});
  backend_.linear_add(Stream::kCompute, attended, weights.output, {}, residual);

  backend_.add_rms_norm(Stream::kCompute, residual, {}, weights.ffn_norm, config_.norm_eps, normed);
  backend_.gate_up_silu(Stream::kCompute, normed, weights.gate_up, ffn);
  backend_.linear_add(Stream::kCompute, ffn, weights.down, {}, residual);
}

void Transformer::sample(const ForwardBatch& batch, const KvArena& arena) {
  const std::int64_t count = num_rows(batch.logit_rows);
  if (count == 0) return;
  const Tensor x = logits_in_.slice(0, count);
  backend_.gather_rows(Stream::kCompute, normed_.slice(0, batch.token_ids.rows()), batch.logit_rows, x);
  backend_.logits_sample(Stream::kCompute, x, weights_.head, batch.sample, arena, batch.sample_ids, batch.sample_logprobs);
}

// As many rows at a time as logits_in_ holds: a long prompt has more rows than any step draws tokens.
void Transformer::prompt_logprobs(const ForwardBatch& batch) {
  const std::int64_t total = num_rows(batch.prompt_rows);
  const LogprobOutput& all = batch.prompt_logprobs;
  for (std::int64_t first = 0; first < total; first += logits_in_.rows()) {
    const std::int64_t count = std::min(logits_in_.rows(), total - first);
    const Tensor x = logits_in_.slice(0, count);
    backend_.gather_rows(Stream::kCompute, normed_.slice(0, batch.token_ids.rows()), batch.prompt_rows.slice(first, count), x);
    const LogprobOutput out{all.logprobs.slice(first, count), slice_if_there(all.top_ids, first, count),
                            slice_if_there(all.top_logprobs, first, count)};
    backend_.token_logprobs(Stream::kCompute, x, weights_.head, batch.prompt_targets.slice(first, count), batch.num_prompt_top, out);
  }
}

}  // namespace fastgen
