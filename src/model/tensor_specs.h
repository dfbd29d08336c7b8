// Which tensors a model has on disk, by their Hugging Face names, and the shapes they must have.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace fastgen {

struct TensorSpec {
  std::string name;
  std::vector<std::int64_t> shape;

  // Gains of a norm: 1 in a model of dummy weights.
  bool is_norm() const { return name.ends_with("norm.weight"); }
};

struct LayerSpecs {
  TensorSpec attention_norm;         // [E]
  std::vector<TensorSpec> qkv;       // q [H*D, E], k [K*D, E], v [K*D, E]
  std::vector<TensorSpec> qkv_bias;  // q [H*D], k [K*D], v [K*D]; empty if the model has none
  std::vector<TensorSpec> qk_norm;   // q [D], k [D]; empty if the model has none
  TensorSpec output;                 // [E, H*D]
  TensorSpec ffn_norm;               // [E]
  std::vector<TensorSpec> gate_up;   // gate [F, E], up [F, E]
  TensorSpec down;                   // [E, F]
};

struct ModelSpecs {
  TensorSpec embedding;  // [V, E]
  std::vector<LayerSpecs> layers;
  TensorSpec final_norm;  // [E]
  TensorSpec head;        // [V, E]; the embedding's own where tied
};

ModelSpecs tensor_specs(const ModelConfig& config);

// Every tensor once.
std::vector<TensorSpec> all_tensors(const ModelSpecs& specs, bool tied_head);

// Tensors that files carry although the model does not read them: inverse frequencies of old Llama files, the copy of a tied head.
bool is_redundant(std::string_view name, bool tied_head);

}  // namespace fastgen
