#include "model/tensor_specs.h"

#include <fmt/format.h>

namespace fastgen {

namespace {

constexpr const char* kHeadName = "lm_head.weight";

LayerSpecs layer_specs(const ModelConfig& config, std::int32_t layer_idx) {
  const std::int64_t e = config.model_dim, f = config.ffn_dim;
  const std::int64_t q_rows = std::int64_t{config.num_heads} * config.head_dim;
  const std::int64_t kv_rows = std::int64_t{config.num_kv_heads} * config.head_dim;
  const auto name = [&](const char* part) { return fmt::format("model.layers.{}.{}", layer_idx, part); };
  LayerSpecs out;
  out.attention_norm = {name("input_layernorm.weight"), {e}};
  out.qkv = {{name("self_attn.q_proj.weight"), {q_rows, e}},
             {name("self_attn.k_proj.weight"), {kv_rows, e}},
             {name("self_attn.v_proj.weight"), {kv_rows, e}}};
  if (config.qkv_bias) {
    out.qkv_bias = {{name("self_attn.q_proj.bias"), {q_rows}},
                    {name("self_attn.k_proj.bias"), {kv_rows}},
                    {name("self_attn.v_proj.bias"), {kv_rows}}};
  }
  if (config.qk_norm) {
    out.qk_norm = {{name("self_attn.q_norm.weight"), {config.head_dim}}, {name("self_attn.k_norm.weight"), {config.head_dim}}};
  }
  out.output = {name("self_attn.o_proj.weight"), {e, q_rows}};
  out.ffn_norm = {name("post_attention_layernorm.weight"), {e}};
  out.gate_up = {{name("mlp.gate_proj.weight"), {f, e}}, {name("mlp.up_proj.weight"), {f, e}}};
  out.down = {name("mlp.down_proj.weight"), {e, f}};
  return out;
}

}  // namespace

ModelSpecs tensor_specs(const ModelConfig& config) {
  ModelSpecs out;
  out.embedding = {"model.embed_tokens.weight", {config.vocab, config.model_dim}};
  for (std::int32_t i = 0; i < config.num_layers; ++i) out.layers.push_back(layer_specs(config, i));
  out.final_norm = {"model.norm.weight", {config.model_dim}};
  out.head = config.tied_head ? out.embedding : TensorSpec{kHeadName, {config.vocab, config.model_dim}};
  return out;
}

std::vector<TensorSpec> all_tensors(const ModelSpecs& specs, bool tied_head) {
  std::vector<TensorSpec> out = {specs.embedding, specs.final_norm};
  if (!tied_head) out.push_back(specs.head);
  for (const LayerSpecs& layer : specs.layers) {
    out.insert(out.end(), {layer.attention_norm, layer.output, layer.ffn_norm, layer.down});
    for (const auto* parts : {&layer.qkv, &layer.qkv_bias, &layer.qk_norm, &layer.gate_up}) out.insert(out.end(), parts->begin(), parts->end());
  }
  return out;
}

bool is_redundant(std::string_view name, bool tied_head) {
  return name.ends_with(".rotary_emb.inv_freq") || (tied_head && name == kHeadName);
}

}  // namespace fastgen
