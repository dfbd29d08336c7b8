#include "plan/model_plan.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace fastgen::plan {

namespace {

// Data sheets; SXM where there is a choice. Rates without sparsity.
constexpr std::array kCards = {
    Card{"h200", 141e9, 4.8e12, 989e12},   Card{"h100", 80e9, 3.35e12, 989e12},   Card{"b200", 180e9, 7.7e12, 2250e12},
    Card{"a100-80gb", 80e9, 2.04e12, 312e12}, Card{"a100-40gb", 40e9, 1.555e12, 312e12}, Card{"l40s", 48e9, 0.864e12, 362e12},
    Card{"rtx4090", 24e9, 1.008e12, 165e12},
};

double bytes_of(DType dtype) { return static_cast<double>(dtype_bytes(dtype)); }

std::int64_t blocks_for(const PlanInput& input, std::int64_t length) { return (length + input.block_size - 1) / input.block_size; }

// Tokens that a row at `length` reads in layer `i`.
double visible(const ModelConfig& model, std::int32_t layer_idx, double length) {
  const std::int32_t window = model.layer_window(layer_idx);
  return window > 0 ? std::min<double>(window, length) : length;
}

// Sum over the rows of a prompt of what each reads: a triangle, cut off at the window.
double visible_sum(const ModelConfig& model, std::int32_t layer_idx, double length) {
  const double edge = visible(model, layer_idx, length);
  return edge * (edge + 1) / 2 + (length - edge) * edge;
}

// Parameters that every token is multiplied with, but for the head.
double layer_parameters(const ModelConfig& model) {
  double sum = 0;
  for (const Part& part : parts_of(model)) {
    const std::string_view name = part.name;
    if (name == "attention" || name == "ffn") sum += static_cast<double>(part.num_parameters);
  }
  return sum;
}

double head_parameters(const ModelConfig& model) { return static_cast<double>(model.vocab) * model.model_dim; }

Roofline roofline(const Card& card, double flops, double bytes) {
  const double compute_s = flops / card.flops_per_s, memory_s = bytes / card.bytes_per_s;
  return {std::max(compute_s, memory_s), memory_s > compute_s};
}

}  // namespace

std::optional<Card> find_card(std::string_view name) {
  const auto found = std::find_if(kCards.begin(), kCards.end(), [&](const Card& card) { return card.name == name; });
  return found == kCards.end() ? std::nullopt : std::optional(*found);
}

std::string card_names() {
  std::string out;
  for (const Card& card : kCards) out += (out.empty() ? "" : ", ") + std::string(card.name);
  return out;
}

std::vector<Part> parts_of(const ModelConfig& model) {
  const std::int64_t e = model.model_dim, d = model.head_dim, l = model.num_layers;
  const std::int64_t q = model.num_heads * d, qkv = q + 2 * model.num_kv_heads * d;
  const std::int64_t matrix = model.vocab * e;
  return {{"embedding", matrix},
          {"attention", l * (e * qkv + (model.qkv_bias ? qkv : 0) + q * e)},
          {"ffn", l * 3 * e * model.ffn_dim},
          {"norms", l * (2 * e + (model.qk_norm ? 2 * d : 0)) + e},
          {"head", model.tied_head ? 0 : matrix}};
}

// Activations: the forward pass's own buffers (model/transformer.h) and the logits, in the CUDA backend's dtypes: float32 residual
// and logits, the others in the model's dtype. Products' workspaces come on top; 0.5 GB stands for them and for the device's context.
MemoryPlan plan_memory(const PlanInput& input) {
  constexpr double kWorkspaces = 0.5e9;
  const ModelConfig& model = input.model;
  const double size = bytes_of(input.dtype), rows = input.max_prefill + input.max_batch;
  MemoryPlan out;
  out.weights = static_cast<double>(model.num_parameters()) * size;
  const double row = 4.0 * model.model_dim + size * (model.model_dim + (3.0 * model.num_heads + 2.0 * model.num_kv_heads) * model.head_dim + 3.0 * model.ffn_dim);
  out.activations = rows * row + 4.0 * input.max_batch * model.vocab + kWorkspaces;
  out.rope_table = 4.0 * model.max_positions * model.head_dim;
  out.kv_room = input.card.memory_bytes - out.weights - out.activations - out.rope_table;
  out.kv_per_token = static_cast<double>(model.kv_bytes_per_token(input.dtype));
  const double block_bytes = input.block_size * (out.kv_per_token + 4);  // and the token's id
  out.num_blocks = out.kv_room > 0 ? static_cast<std::int64_t>(out.kv_room / block_bytes) : 0;
  out.kv_tokens = out.num_blocks * input.block_size;
  out.num_host_blocks = static_cast<std::int64_t>(input.host_kv_gb * 1e9 / block_bytes + 1e-6);
  return out;
}

std::int64_t sequences_of(const PlanInput& input, const MemoryPlan& memory, std::int64_t length) {
  return memory.num_blocks / blocks_for(input, length);
}

double unread_share(const ModelConfig& model, std::int64_t length) {
  double read = 0;
  for (std::int32_t i = 0; i < model.num_layers; ++i) read += visible(model, i, static_cast<double>(length));
  return 1 - read / (static_cast<double>(model.num_layers) * static_cast<double>(length));
}

Roofline time_to_first_token(const PlanInput& input, std::int64_t length) {
  const ModelConfig& model = input.model;
  const auto tokens = static_cast<double>(length);
  double pairs = 0;
  for (std::int32_t i = 0; i < model.num_layers; ++i) pairs += visible_sum(model, i, tokens);
  const double attention = 4.0 * model.num_heads * model.head_dim * pairs;  // a product with K, one with V
  const double flops = 2 * layer_parameters(model) * tokens + 2 * head_parameters(model) + attention;
  const double bytes = bytes_of(input.dtype) * (layer_parameters(model) + head_parameters(model)) +
                       tokens * static_cast<double>(model.kv_bytes_per_token(input.dtype));
  return roofline(input.card, flops, bytes);
}

Roofline time_per_token(const PlanInput& input, std::int64_t batch, std::int64_t length) {
  const ModelConfig& model = input.model;
  const auto rows = static_cast<double>(batch);
  double seen = 0;
  for (std::int32_t i = 0; i < model.num_layers; ++i) seen += visible(model, i, static_cast<double>(length));
  const double kv_bytes = 2.0 * model.num_kv_heads * model.head_dim * bytes_of(input.dtype) * seen;
  const double flops = rows * (2 * (layer_parameters(model) + head_parameters(model)) + 4.0 * model.num_heads * model.head_dim * seen);
  const double bytes = bytes_of(input.dtype) * (layer_parameters(model) + head_parameters(model)) + rows * kv_bytes;
  return roofline(input.card, flops, bytes);
}

}  // namespace fastgen::plan
