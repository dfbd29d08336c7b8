// The shapes of a model, and the work that its steps cannot avoid: what figures are held against.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/tensor.h"

namespace fastgen::bench {

struct ModelShape {
  std::int32_t num_layers = 0;    // L
  std::int32_t model_dim = 0;     // E
  std::int32_t num_heads = 0;     // H
  std::int32_t num_kv_heads = 0;  // K
  std::int32_t head_dim = 0;      // D
  std::int32_t ffn_dim = 0;       // F
  std::int32_t vocab = 0;         // V
  std::int32_t window = 0;        // 0: none

  std::int64_t q_dim() const { return std::int64_t{num_heads} * head_dim; }
  std::int64_t kv_dim() const { return std::int64_t{num_kv_heads} * head_dim; }
  // Elements of the matrices that every token of a step goes through, all layers.
  std::int64_t layer_weights() const;
  std::int64_t head_weights() const { return std::int64_t{vocab} * model_dim; }
};

// Of a model's folder, or of its name in the local Hugging Face cache; empty: the default model. Only config.json is read.
ModelShape load_shape(const std::string& model, const std::string& revision, const std::vector<std::string>& ignore_config_keys = {});

// Work: arithmetic and memory traffic that no implementation can do without.
struct Work {
  double flops = 0;
  double bytes = 0;
  Work& operator+=(const Work& other) {
    flops += other.flops;
    bytes += other.bytes;
    return *this;
  }
};

// Tokens of K and V that the rows of one sequence see: positions first .. first + count - 1, each itself included.
double seen_tokens(const ModelShape& shape, std::int64_t first, std::int64_t count);

// The matrices' part of a step: `num_tokens` through all layers but for what follows attention in the last, which is wanted of
// `num_logit_rows` alone, as is the head. Weights are read once.
Work product_work(const ModelShape& shape, std::int64_t num_tokens, std::int64_t num_logit_rows, DType weights);
// Attention of all layers over `seen` (sum of seen_tokens), reading `kv_tokens` tokens of K and V once.
Work attention_work(const ModelShape& shape, double seen, double kv_tokens, DType kv);

}  // namespace fastgen::bench
