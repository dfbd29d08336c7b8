// config.json as validated plain data. What is not supported is an Error that names the key and the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/tensor.h"

namespace fastgen {

enum class RopeScaling : std::uint8_t { kNone, kLinear, kDynamic, kLlama3, kYarn };

// Names and meanings are those of transformers' rope_parameters; rope.h has the papers.
struct RopeConfig {
  RopeScaling scaling = RopeScaling::kNone;
  double theta = 10000;
  double factor = 1;                     // all but kNone
  double low_freq_factor = 1;            // kLlama3
  double high_freq_factor = 4;           // kLlama3
  double original_max_positions = 8192;  // kDynamic, kLlama3, kYarn: the context that the model was trained at
  double beta_fast = 32;                 // kYarn, as the rest
  double beta_slow = 1;
  bool truncate = true;
  double attention_factor = 1;           // cosines and sines are multiplied by it

  bool operator==(const RopeConfig&) const = default;
};

// How generation_config.json wants tokens drawn; what it leaves out is empty, and so is all of it where do_sample is false.
struct SamplingDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<std::int32_t> top_k;
};

struct ModelConfig {
  std::string architecture;  // one of those in config.cpp: "LlamaForCausalLM", "Qwen3ForCausalLM", ...
  std::int32_t num_layers = 0;    // L
  std::int32_t model_dim = 0;     // E
  std::int32_t num_heads = 0;     // H
  std::int32_t num_kv_heads = 0;  // K, divides H
  std::int32_t head_dim = 0;      // D, even
  std::int32_t ffn_dim = 0;       // F
  std::int32_t vocab = 0;         // V
  std::int32_t max_positions = 0;            // the context that the config promises
  std::int32_t max_positions_stretched = 0;  // what may be asked for: more than max_positions with dynamic RoPE scaling alone
  float norm_eps = 1e-5f;
  bool tied_head = false;
  bool qkv_bias = false;       // Qwen2
  bool qk_norm = false;        // Qwen3
  std::int32_t window = 0;     // tokens that a row of a windowed layer sees, itself included; 0: no layer has a window
  std::vector<bool> windowed;  // [L]; empty: all layers or, with window 0, none
  RopeConfig rope;
  DType dtype = DType::kBF16;  // of the weights on disk
  std::vector<std::int32_t> eos_ids;  // config.json and generation_config.json together
  std::int32_t bos_id = -1;
  SamplingDefaults sampling;

  // The window of one layer, 0 for none.
  std::int32_t layer_window(std::int32_t layer_idx) const {
    return windowed.empty() || windowed[static_cast<std::size_t>(layer_idx)] ? window : 0;
  }
  // Every layer has the window, so that what lies behind it is never read again.
  bool all_windowed() const;
  // Bytes of K and V that one token takes, all layers.
  std::int64_t kv_bytes_per_token(DType kv) const {
    return 2 * std::int64_t{num_layers} * num_kv_heads * head_dim * static_cast<std::int64_t>(dtype_bytes(kv));
  }
  std::int64_t num_parameters() const;
};

// Reads config.json and, where present, generation_config.json of a model folder.
// A key that is not known and asks for something is an Error, unless `ignored_keys` names it ("rope_scaling.x").
ModelConfig load_config(const std::filesystem::path& folder, std::span<const std::string> ignored_keys = {});
// The same from text; `name` stands in messages. generation_json may be empty.
ModelConfig parse_config(std::string_view config_json, std::string_view generation_json, std::string_view name,
                         std::span<const std::string> ignored_keys = {});

}  // namespace fastgen
