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
  picked_residual_ = device_tensor(backend, types.residual, {limits.max_logit_rows, e});
}

std::size_t Transformer::activation_bytes(const Backend& backend, const ModelConfig& config, DType dtype, std::int32_t max_model_len,
                                          const OpLimits& limits) {
  const ActivationTypes types = backend.activation_types(dtype);
  const std::int64_t t = limits.max_tokens, e = config.model_dim, h = config.num_heads, d = config.head_dim;
  const std::int64_t product = t * (e + 2 * h * d + config.ffn_dim) + limits.max_logit_rows * e;
  const std::int64_t rope = backend.uses_weights() ? std::int64_t{max_model_len} * d : 0;
  const std::int64_t residual = (t + limits.max_logit_rows) * e;
  return static_cast<std::size_t>(product) * dtype_bytes(types.product) + static_cast<std::size_t>(residual) * dtype_bytes(types.residual) +
         static_cast<std::size_t>(rope) * sizeof(float);
}

void Transformer::forward(const ForwardBatch& batch, const KvArena& arena, Tensor state_tokens) {
  const std::int64_t num_tokens = batch.token_ids.rows();
  const std::int32_t last = config_.num_layers - 1;
  embed(batch, arena, state_tokens);
  for (std::int32_t i = 0; i < last; ++i) {
    store_kv(i, batch, arena);
    attend(i, batch, arena);
    finish_layer(weights_.layers[static_cast<std::size_t>(i)], rows(num_tokens));
    if (progress_us_ != nullptr) progress_us_->store(now_us(), std::memory_order_relaxed);
  }
  store_kv(last, batch, arena);
  const bool all_are_read = num_rows(batch.prompt_rows) > 0 || num_rows(batch.logit_rows) == num_tokens;
  all_are_read ? finish_all(batch, arena) : finish_drawing(batch, arena);
}

void Transformer::finish_all(const ForwardBatch& batch, const KvArena& arena) {
  const Rows all = rows(batch.token_ids.rows());
  attend(config_.num_layers - 1, batch, arena);
  finish_layer(weights_.layers.back(), all);
  backend_.add_rms_norm(Stream::kCompute, all.residual, {}, weights_.final_norm, config_.norm_eps, all.normed);
  prompt_logprobs(batch);
  if (num_rows(batch.logit_rows) == 0) return;
  const Tensor x = logits_in_.slice(0, batch.logit_rows.rows());
  backend_.gather_rows(Stream::kCompute, all.normed, batch.logit_rows, x);
  sample(batch, arena, x);
}

// The last layer's results of a row are read by its logits alone, so a chunk of a prompt saves nearly a whole layer.
void Transformer::finish_drawing(const ForwardBatch& batch, const KvArena& arena) {
  if (num_rows(batch.logit_rows) == 0) return;
  attend(config_.num_layers - 1, batch, arena);
  const Rows picked = pick_drawing_rows(batch);
  finish_layer(weights_.layers.back(), picked);
  backend_.add_rms_norm(Stream::kCompute, picked.residual, {}, weights_.final_norm, config_.norm_eps, picked.normed);
  sample(batch, arena, picked.normed);
}

Transformer::Rows Transformer::rows(std::int64_t count) const {
  return {residual_.slice(0, count), normed_.slice(0, count), attended_.slice(0, count), ffn_.slice(0, count)};
}

void Transformer::embed(const ForwardBatch& batch, const KvArena& arena, Tensor state_tokens) {
  backend_.embed(Stream::kCompute, {.token_ids = batch.token_ids,
                                    .state_tokens = state_tokens,
                                    .slots = batch.slots,
                                    .table = weights_.embedding,
                                    .arena = arena,
                                    .out = residual_.slice(0, batch.token_ids.rows())});
}

void Transformer::store_kv(std::int32_t layer_idx, const ForwardBatch& batch, const KvArena& arena) {
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer_idx)];
  const std::int64_t num_tokens = batch.token_ids.rows();
  const Tensor normed = normed_.slice(0, num_tokens);
  backend_.add_rms_norm(Stream::kCompute, residual_.slice(0, num_tokens), {}, weights.attention_norm, config_.norm_eps, normed);
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
                                             .q_out = q_.slice(0, num_tokens)});
}

void Transformer::attend(std::int32_t layer_idx, const ForwardBatch& batch, const KvArena& arena) {
  const std::int64_t num_tokens = batch.token_ids.rows();
  backend_.attend(Stream::kCompute, {.q = q_.slice(0, num_tokens),
                                     .batch = batch.attend,
                                     .arena = arena,
                                     .layer = layer_idx,
                                     .window = config_.layer_window(layer_idx),
                                     .scale = 1 / std::sqrt(static_cast<float>(config_.head_dim)),
                                     .out = attended_.slice(0, num_tokens)});
}

void Transformer::finish_layer(const LayerWeights& weights, const Rows& rows) {
  backend_.linear_add(Stream::kCompute, rows.attended, weights.output, {}, rows.residual);
  backend_.add_rms_norm(Stream::kCompute, rows.residual, {}, weights.ffn_norm, config_.norm_eps, rows.normed);
  backend_.gate_up_silu(Stream::kCompute, rows.normed, weights.gate_up, rows.ffn);
  backend_.linear_add(Stream::kCompute, rows.ffn, weights.down, {}, rows.residual);
}

// After the attention of the last layer: its output goes to the place of q, which nobody reads any more.
Transformer::Rows Transformer::pick_drawing_rows(const ForwardBatch& batch) {
  const std::int64_t num_tokens = batch.token_ids.rows(), count = batch.logit_rows.rows();
  Rows picked = rows(count);
  picked.residual = picked_residual_.slice(0, count);
  picked.attended = Tensor(q_.data, q_.dtype, {count, attended_.row_elements()});
  backend_.gather_rows(Stream::kCompute, residual_.slice(0, num_tokens), batch.logit_rows, picked.residual);
  backend_.gather_rows(Stream::kCompute, attended_.slice(0, num_tokens), batch.logit_rows, picked.attended);
  return picked;
}

void Transformer::sample(const ForwardBatch& batch, const KvArena& arena, Tensor x) {
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
