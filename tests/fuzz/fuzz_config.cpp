// Any bytes as config.json and, behind the first zero byte, generation_config.json: they are refused with an Error, or make a config
// whose every number is in its range.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "fastgen/error.h"
#include "model/config.h"
#include "model/tensor_specs.h"

namespace fastgen {
namespace {

void check_rope(const RopeConfig& rope) {
  for (double value : {rope.theta, rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_max_positions, rope.beta_fast,
                       rope.beta_slow, rope.attention_factor})
    FG_CHECK(std::isfinite(value) && value > 0, value);
  FG_CHECK(rope.factor >= 1 && rope.theta >= 1, rope.factor, rope.theta);
}

void check(const ModelConfig& config) {
  for (std::int32_t value : {config.num_layers, config.model_dim, config.num_heads, config.num_kv_heads, config.head_dim, config.ffn_dim,
                             config.vocab, config.max_positions})
    FG_CHECK(value > 0, value);
  FG_CHECK(config.num_heads % config.num_kv_heads == 0 && config.head_dim % 2 == 0, config.num_heads, config.num_kv_heads, config.head_dim);
  FG_CHECK(config.max_positions_stretched >= config.max_positions, config.max_positions, config.max_positions_stretched);
  FG_CHECK(config.windowed.empty() || config.windowed.size() == static_cast<std::size_t>(config.num_layers), config.windowed.size());
  for (std::int32_t i = 0; i < config.num_layers; ++i) FG_CHECK(config.layer_window(i) >= 0, i);
  FG_CHECK(config.num_parameters() > 0 && config.kv_bytes_per_token(DType::kF32) > 0, config.num_parameters());
  for (std::int32_t id : config.eos_ids) FG_CHECK(id >= 0 && id < config.vocab, id);
  check_rope(config.rope);
  if (config.num_layers < 100) FG_CHECK(!all_tensors(tensor_specs(config), config.tied_head).empty());
}

}  // namespace
}  // namespace fastgen

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t end = bytes.find('\0');
  try {
    fastgen::check(fastgen::parse_config(bytes.substr(0, end), end == bytes.npos ? "" : bytes.substr(end + 1), "fuzz"));
  } catch (const fastgen::Error&) {
  }
  return 0;
}
