// config.json as validated plain data. What is not supported is an Error that names the key and the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "backend/tensor.h"

namespace fastgen {

enum class RopeScaling : std::uint8_t { kNone, kLlama3 };

struct RopeConfig {
  RopeScaling scaling = RopeScaling::kNone;
  double theta = 10000;
  double factor = 1;            // kLlama3, as the four below
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_positions = 8192;

  bool operator==(const RopeConfig&) const = default;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM", "MistralForCausalLM" or "Qwen2ForCausalLM"
  std::int32_t num_layers = 0;    // L
  std::int32_t model_dim = 0;     // E
  std::int32_t num_heads = 0;     // H
  std::int32_t num_kv_heads = 0;  // K, divides H
  std::int32_t head_dim = 0;      // D, even
  std::int32_t ffn_dim = 0;       // F
  std::int32_t vocab = 0;         // V
  std::int32_t max_positions = 0;
  float norm_eps = 1e-5f;
  bool tied_head = false;
  bool qkv_bias = false;       // Qwen2
  std::int32_t window = 0;     // tokens that a row sees, itself included; 0: all (Mistral)
  RopeConfig rope;
  DType dtype = DType::kBF16;  // of the weights on disk
  std::vector<std::int32_t> eos_ids;  // config.json and generation_config.json together
  std::int32_t bos_id = -1;

  // Bytes of K and V that one token takes, all layers.
  std::int64_t kv_bytes_per_token(DType kv) const {
    return 2 * std::int64_t{num_layers} * num_kv_heads * head_dim * static_cast<std::int64_t>(dtype_bytes(kv));
  }
  std::int64_t num_parameters() const;
};

// Reads config.json and, where present, generation_config.json of a model folder.
ModelConfig load_config(const std::filesystem::path& folder);
// The same from text; `name` stands in messages. generation_json may be empty.
ModelConfig parse_config(std::string_view config_json, std::string_view generation_json, std::string_view name);

}  // namespace fastgen
