#include "model/config.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include <fmt/format.h>

#include "base/mapped_file.h"
#include "model/json_fields.h"

namespace fastgen {

namespace {

// Far above every known model, and small enough that no product below overflows 64 bits.
constexpr std::int64_t kMaxLayers = 1 << 10;
constexpr std::int64_t kMaxDim = 1 << 20;      // E and F
constexpr std::int64_t kMaxHeads = 1 << 12;
constexpr std::int64_t kMaxHeadDim = 1 << 10;
constexpr std::int64_t kMaxVocab = 1 << 24;
constexpr std::int64_t kMaxPositions = 1 << 28;

struct Architecture {
  std::string_view name;
  std::string_view model_type;
  bool qkv_bias = false;  // always there, no key asks for it
  bool window = false;    // sliding_window holds for every layer
};
constexpr std::array kArchitectures = {
    Architecture{.name = "LlamaForCausalLM", .model_type = "llama"},
    Architecture{.name = "MistralForCausalLM", .model_type = "mistral", .window = true},
    Architecture{.name = "Qwen2ForCausalLM", .model_type = "qwen2", .qkv_bias = true},
};

const Architecture& read_architecture(const JsonFields& config) {
  simdjson::dom::array names;
  if (config.at("architectures").get(names) != simdjson::SUCCESS || names.size() != 1) {
    config.fail("architectures", "is not a list of one name");
  }
  std::string_view name;
  if (names.at(0).get(name) != simdjson::SUCCESS) config.fail("architectures", "is not a list of one name");
  const auto found = std::find_if(kArchitectures.begin(), kArchitectures.end(), [&](const auto& a) { return a.name == name; });
  if (found == kArchitectures.end()) config.fail("architectures", fmt::format("\"{}\" is not supported", name));
  const std::string model_type = config.text_or("model_type", found->model_type);
  if (model_type != found->model_type) {
    config.fail("model_type", fmt::format("\"{}\" does not belong to {}", model_type, name));
  }
  return *found;
}

// What would change results and is not here yet. A key that is absent, null or false asks for nothing.
void refuse_unsupported(const JsonFields& config) {
  for (const char* key : {"attention_bias", "mlp_bias", "attention_out_bias", "qkv_bias", "use_qk_norm", "quantization_config",
                          "compression_config", "use_sliding_window", "attention_chunk_size", "no_rope_layers",
                          "attn_logit_softcapping", "final_logit_softcapping", "num_local_experts", "num_experts", "auto_map"}) {
    if (!config.has(key)) continue;
    bool value = true;
    if (config.at(key).get(value) == simdjson::SUCCESS && !value) continue;
    config.fail(key, "is not supported");
  }
  for (const char* key : {"partial_rotary_factor", "embedding_multiplier", "residual_multiplier", "attention_multiplier",
                          "logits_scaling", "logit_scale", "query_pre_attn_scalar"}) {
    if (config.number_or(key, 1, -1e30, 1e30) != 1) config.fail(key, "other than 1 is not supported");
  }
  if (const std::string act = config.text_or("hidden_act", "silu"); act != "silu") {
    config.fail("hidden_act", fmt::format("\"{}\" is not supported", act));
  }
}

// transformers takes 4096 where a Mistral config says nothing, and no window where it says null. Qwen2 configs name a window that
// use_sliding_window, refused above, would switch on.
std::int32_t read_window(const JsonFields& config, const Architecture& architecture) {
  constexpr const char* kKey = "sliding_window";
  if (architecture.model_type == "qwen2" || config.is_null(kKey)) return 0;
  if (architecture.window) return static_cast<std::int32_t>(config.integer_or(kKey, 4096, 1, kMaxPositions));
  if (config.has(kKey)) config.fail(kKey, "is not supported");
  return 0;
}

void refuse_mixed_layers(const JsonFields& config) {
  if (!config.has("layer_types")) return;
  simdjson::dom::array types;
  if (config.at("layer_types").get(types) != simdjson::SUCCESS) config.fail("layer_types", "is not a list");
  for (simdjson::dom::element type : types) {
    std::string_view name;
    if (type.get(name) != simdjson::SUCCESS) config.fail("layer_types", "holds something other than a string");
    if (name != "full_attention") config.fail("layer_types", fmt::format("\"{}\" is not supported", name));
  }
}

void read_llama3(const JsonFields& fields, RopeConfig& rope) {
  rope.scaling = RopeScaling::kLlama3;
  rope.factor = fields.number("factor", 1, 1e6);
  rope.low_freq_factor = fields.number("low_freq_factor", 1e-6, 1e6);
  rope.high_freq_factor = fields.number("high_freq_factor", 1e-6, 1e6);
  if (rope.high_freq_factor <= rope.low_freq_factor) fields.fail("high_freq_factor", "is not above low_freq_factor");
  rope.original_max_positions =
      static_cast<double>(fields.integer("original_max_position_embeddings", 1, kMaxPositions));
}

constexpr double kMinTheta = 1, kMaxTheta = 1e15;

// `fields` is what stands under rope_scaling (older files) or rope_parameters (transformers 5, which moved rope_theta in).
RopeConfig read_rope_object(const JsonFields& fields, double theta) {
  RopeConfig rope;
  rope.theta = fields.number_or("rope_theta", theta, kMinTheta, kMaxTheta);
  const char* key = fields.has("rope_type") ? "rope_type" : "type";  // "type" is the oldest notation
  const std::string type = fields.text_or(key, "default");
  if (type == "llama3") {
    read_llama3(fields, rope);
  } else if (type != "default") {
    fields.fail(key, fmt::format("\"{}\" is not supported", type));
  } else if (fields.number_or("factor", 1, -1e30, 1e30) != 1) {
    fields.fail("factor", "without a rope_type is not supported");
  }
  if (fields.number_or("partial_rotary_factor", 1, -1e30, 1e30) != 1) {
    fields.fail("partial_rotary_factor", "other than 1 is not supported");
  }
  return rope;
}

RopeConfig read_rope(const JsonFields& config) {
  const double theta = config.number_or("rope_theta", 10000, kMinTheta, kMaxTheta);
  RopeConfig rope;
  rope.theta = theta;
  if (config.has("rope_scaling")) rope = read_rope_object(config.object("rope_scaling"), theta);
  if (!config.has("rope_parameters")) return rope;
  const RopeConfig parameters = read_rope_object(config.object("rope_parameters"), theta);
  if (config.has("rope_scaling") && !(parameters == rope)) config.fail("rope_parameters", "contradicts rope_scaling");
  return parameters;
}

DType read_dtype(const JsonFields& config) {
  const char* key = config.has("dtype") ? "dtype" : "torch_dtype";  // transformers 5 and before
  const std::string name = config.text_or(key, "float32");          // transformers' own default
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  config.fail(key, fmt::format("\"{}\" is not supported", name));
}

// Defaults are transformers' own for Llama; the other architectures' differ, so that theirs must be written out.
void read_shape(const JsonFields& config, ModelConfig& out) {
  const auto read = [&](const char* key, std::int64_t max) { return static_cast<std::int32_t>(config.integer(key, 1, max)); };
  out.num_layers = read("num_hidden_layers", kMaxLayers);
  out.model_dim = read("hidden_size", kMaxDim);
  out.ffn_dim = read("intermediate_size", kMaxDim);
  out.vocab = read("vocab_size", kMaxVocab);
  out.max_positions = read("max_position_embeddings", kMaxPositions);
  out.num_heads = read("num_attention_heads", kMaxHeads);
  const bool kv_heads_given = config.has("num_key_value_heads") || out.architecture != "LlamaForCausalLM";
  out.num_kv_heads = kv_heads_given ? read("num_key_value_heads", kMaxHeads) : out.num_heads;
  if (out.num_heads % out.num_kv_heads != 0) config.fail("num_key_value_heads", "does not divide num_attention_heads");
  if (!config.has("head_dim") && out.model_dim % out.num_heads != 0) {
    config.fail("num_attention_heads", "does not divide hidden_size, and there is no head_dim");
  }
  out.head_dim = config.has("head_dim") ? read("head_dim", kMaxHeadDim) : out.model_dim / out.num_heads;
  const char* key = config.has("head_dim") ? "head_dim" : "hidden_size";
  if (out.head_dim % 2 != 0) config.fail(key, fmt::format("makes heads of {}, an odd number", out.head_dim));
  if (out.head_dim > kMaxHeadDim) config.fail(key, fmt::format("makes heads of {}, over {}", out.head_dim, kMaxHeadDim));
}

void add_eos_ids(const JsonFields& fields, std::int32_t vocab, std::vector<std::int32_t>& ids) {
  constexpr const char* kKey = "eos_token_id";
  if (!fields.has(kKey)) return;
  const auto add = [&](simdjson::dom::element element) {
    std::int64_t id = 0;
    if (element.get(id) != simdjson::SUCCESS) fields.fail(kKey, "is neither an integer nor a list of them");
    if (id < 0 || id >= vocab) fields.fail(kKey, fmt::format("is {}, outside 0 to {}", id, vocab - 1));
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(static_cast<std::int32_t>(id));
  };
  simdjson::dom::array list;
  if (fields.at(kKey).get(list) != simdjson::SUCCESS) return add(fields.at(kKey));
  for (simdjson::dom::element element : list) add(element);
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

std::int64_t ModelConfig::num_parameters() const {
  const std::int64_t e = model_dim, qkv = std::int64_t{num_heads + 2 * num_kv_heads} * head_dim;
  const std::int64_t attention = e * qkv + (qkv_bias ? qkv : 0) + std::int64_t{num_heads} * head_dim * e;
  const std::int64_t layer = attention + 3 * e * ffn_dim + 2 * e;
  return (tied_head ? 1 : 2) * std::int64_t{vocab} * e + num_layers * layer + e;
}

ModelConfig parse_config(std::string_view config_json, std::string_view generation_json, std::string_view name) {
  simdjson::dom::parser parser;
  const std::string where = fmt::format("{}/config.json", name);
  const JsonFields config(parse_json_object(parser, config_json, where), where);
  ModelConfig out;
  const Architecture& architecture = read_architecture(config);
  out.architecture = architecture.name;
  refuse_unsupported(config);
  refuse_mixed_layers(config);
  out.qkv_bias = architecture.qkv_bias;
  out.window = read_window(config, architecture);
  read_shape(config, out);
  out.norm_eps = static_cast<float>(config.number_or("rms_norm_eps", 1e-6, 0, 1));
  out.tied_head = config.boolean_or("tie_word_embeddings", false);
  out.rope = read_rope(config);
  out.dtype = read_dtype(config);
  out.bos_id = static_cast<std::int32_t>(config.integer_or("bos_token_id", -1, 0, out.vocab - 1));
  add_eos_ids(config, out.vocab, out.eos_ids);
  if (generation_json.empty()) return out;
  simdjson::dom::parser generation_parser;
  const std::string generation_where = fmt::format("{}/generation_config.json", name);
  add_eos_ids(JsonFields(parse_json_object(generation_parser, generation_json, generation_where), generation_where),
              out.vocab, out.eos_ids);
  return out;
}

ModelConfig load_config(const std::filesystem::path& folder) {
  const MappedFile config(folder / "config.json");
  const auto generation_path = folder / "generation_config.json";
  const MappedFile generation = std::filesystem::exists(generation_path) ? MappedFile(generation_path) : MappedFile();
  return parse_config(text_of(config), text_of(generation), folder.string());
}

}  // namespace fastgen
