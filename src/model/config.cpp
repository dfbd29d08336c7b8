#include "model/config.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include <fmt/format.h>

#include "base/mapped_file.h"
#include "model/config_keys.h"
#include "model/config_rope.h"
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

enum class WindowRule : std::uint8_t {
  kNone,     // no key may ask for a window
  kAll,      // sliding_window holds for every layer; transformers does not read layer_types, so one that differs is an error
  kByLayer,  // it holds for the layers of layer_types or, without it, for all
  kQwen,     // the same, if use_sliding_window says so; without layer_types from max_window_layers on
};

// To add a model: one line here if a flag below tells it from Llama, a tiny model of it in scripts/golden_models.py, and a row in
// the README's table. What the forward pass cannot do yet goes through model/tensor_specs, model/loader and model/transformer,
// with an op of backend/backend.h where no present one computes it.
struct Architecture {
  std::string_view name;
  std::string_view model_type;
  bool qkv_bias = false;  // always there, no key asks for it
  bool qk_norm = false;   // RMS norm of each head's q and k before RoPE
  WindowRule window = WindowRule::kNone;
  std::int32_t default_head_dim = 0;  // 0: hidden_size / num_attention_heads
};
constexpr std::array kArchitectures = {
    Architecture{.name = "LlamaForCausalLM", .model_type = "llama"},
    Architecture{.name = "MistralForCausalLM", .model_type = "mistral", .window = WindowRule::kAll},
    Architecture{.name = "MinistralForCausalLM", .model_type = "ministral", .window = WindowRule::kByLayer},
    Architecture{.name = "Qwen2ForCausalLM", .model_type = "qwen2", .qkv_bias = true, .window = WindowRule::kQwen},
    Architecture{.name = "Qwen3ForCausalLM", .model_type = "qwen3", .qk_norm = true, .window = WindowRule::kQwen, .default_head_dim = 128},
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

// Known keys that would change results and are not here yet; config_keys.h refuses those that nobody knows.
void refuse_unsupported(const JsonFields& config, const Architecture& architecture) {
  for (const char* key : {"attention_bias", "mlp_bias", "attention_out_bias", "qkv_bias", "use_qk_norm", "quantization_config",
                          "compression_config", "attention_chunk_size", "no_rope_layers", "attn_logit_softcapping",
                          "final_logit_softcapping", "num_local_experts", "num_experts", "n_routed_experts", "use_mrope",
                          "clip_qkv", "alibi", "qk_layernorm", "parallel_attn", "use_parallel_residual", "rope_interleaved",
                          "dual_chunk_attention_config", "attention_sinks", "sliding_window_pattern", "rope_local_base_freq",
                          "no_rope_layer_interval", "per_layer_config", "dynamic_ntk_alpha"}) {
    if (config.has(key) && !asks_for_nothing(config.at(key))) config.fail(key, "is not supported");
  }
  for (const char* key : {"partial_rotary_factor", "embedding_multiplier", "residual_multiplier", "attention_multiplier",
                          "logits_scaling", "logit_scale", "query_pre_attn_scalar"}) {
    if (config.number_or(key, 1, -1e30, 1e30) != 1) config.fail(key, "other than 1 is not supported");
  }
  if (config.boolean_or("use_sliding_window", false) && architecture.window != WindowRule::kQwen) {
    config.fail("use_sliding_window", fmt::format("is not supported for {}", architecture.name));
  }
  if (const std::string act = config.text_or("hidden_act", "silu"); act != "silu" && act != "swish") {
    config.fail("hidden_act", fmt::format("\"{}\" is not supported", act));
  }
}

// Which layers layer_types gives the window; empty if it is absent.
std::vector<bool> read_layer_types(const JsonFields& config, std::int32_t num_layers) {
  constexpr const char* kKey = "layer_types";
  std::vector<bool> windowed;
  if (!config.has(kKey)) return windowed;
  simdjson::dom::array types;
  if (config.at(kKey).get(types) != simdjson::SUCCESS) config.fail(kKey, "is not a list");
  for (simdjson::dom::element type : types) {
    std::string_view name;
    if (type.get(name) != simdjson::SUCCESS) config.fail(kKey, "holds something other than a string");
    if (name != "full_attention" && name != "sliding_attention") config.fail(kKey, fmt::format("\"{}\" is not supported", name));
    windowed.push_back(name == "sliding_attention");
  }
  if (windowed.size() != static_cast<std::size_t>(num_layers)) {
    config.fail(kKey, fmt::format("has {} entries, num_hidden_layers is {}", windowed.size(), num_layers));
  }
  return windowed;
}

// The number that sliding_window asks for, 0 where it asks for nothing: transformers takes 4096 where a config says nothing, and no
// window where it says null. Qwen's name one that only use_sliding_window switches on.
std::int32_t read_window_size(const JsonFields& config, WindowRule rule) {
  constexpr const char* kKey = "sliding_window";
  if (rule == WindowRule::kNone && config.has(kKey)) config.fail(kKey, "is not supported");
  if (rule == WindowRule::kNone || config.is_null(kKey)) return 0;
  if (rule == WindowRule::kQwen && !config.boolean_or("use_sliding_window", false)) return 0;
  return static_cast<std::int32_t>(config.integer_or(kKey, 4096, 1, kMaxPositions));
}

void read_window(const JsonFields& config, const Architecture& architecture, ModelConfig& out) {
  const WindowRule rule = architecture.window;
  out.window = read_window_size(config, rule);
  std::vector<bool> windowed = read_layer_types(config, out.num_layers);
  if (windowed.empty() && rule == WindowRule::kQwen) {
    const std::int64_t first = config.integer_or("max_window_layers", 28, 0, kMaxLayers);
    for (std::int32_t i = 0; i < out.num_layers; ++i) windowed.push_back(out.window > 0 && i >= first);
  }
  if (windowed.empty()) return;
  const auto num_windowed = std::count(windowed.begin(), windowed.end(), true);
  if (out.window == 0 && num_windowed > 0) config.fail("layer_types", "\"sliding_attention\" is not supported without a window");
  if (rule == WindowRule::kAll && out.window > 0 && num_windowed < out.num_layers) {
    config.fail("layer_types", fmt::format("contradicts sliding_window, which {} has in every layer", architecture.name));
  }
  if (num_windowed == 0) out.window = 0;
  if (num_windowed > 0 && num_windowed < out.num_layers) out.windowed = std::move(windowed);
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
void read_shape(const JsonFields& config, const Architecture& architecture, ModelConfig& out) {
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
  const bool derived = !config.has("head_dim") && architecture.default_head_dim == 0;
  if (derived && out.model_dim % out.num_heads != 0) {
    config.fail("num_attention_heads", "does not divide hidden_size, and there is no head_dim");
  }
  const std::int32_t otherwise = derived ? out.model_dim / out.num_heads : architecture.default_head_dim;
  out.head_dim = config.has("head_dim") ? read("head_dim", kMaxHeadDim) : otherwise;
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

// Ranges as the server's.
SamplingDefaults read_sampling(const JsonFields& fields) {
  SamplingDefaults out;
  if (!fields.boolean_or("do_sample", true)) return out;
  const auto read = [&](const char* key, double min, double max, std::optional<float>& to) {
    if (fields.has(key)) to = static_cast<float>(fields.number(key, min, max));
  };
  read("temperature", 0, 2, out.temperature);
  read("top_p", 1e-6, 1, out.top_p);
  read("min_p", 0, 1, out.min_p);
  read("repetition_penalty", 1e-6, 10, out.repetition_penalty);
  if (fields.has("top_k")) out.top_k = static_cast<std::int32_t>(fields.integer("top_k", 0, std::int64_t{1} << 30));
  return out;
}

// Yarn promises factor times the trained context, whatever max_position_embeddings says (Qwen's says the trained one).
void set_reach(ModelConfig& out) {
  const RopeConfig& rope = out.rope;
  const double stretched = std::min(rope.factor * rope.original_max_positions, static_cast<double>(kMaxPositions));
  const bool yarn = rope.scaling == RopeScaling::kYarn, dynamic = rope.scaling == RopeScaling::kDynamic;
  if (yarn) out.max_positions = std::max(out.max_positions, static_cast<std::int32_t>(stretched));
  out.max_positions_stretched = dynamic ? std::max(out.max_positions, static_cast<std::int32_t>(stretched)) : out.max_positions;
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

bool ModelConfig::all_windowed() const { return window > 0 && windowed.empty(); }

std::int64_t ModelConfig::num_parameters() const {
  const std::int64_t e = model_dim, qkv = std::int64_t{num_heads + 2 * num_kv_heads} * head_dim;
  const std::int64_t attention = e * qkv + (qkv_bias ? qkv : 0) + std::int64_t{num_heads} * head_dim * e;
  const std::int64_t norms = qk_norm ? 2 * head_dim : 0;
  const std::int64_t layer = attention + norms + 3 * e * ffn_dim + 2 * e;
  return (tied_head ? 1 : 2) * std::int64_t{vocab} * e + num_layers * layer + e;
}

ModelConfig parse_config(std::string_view config_json, std::string_view generation_json, std::string_view name,
                         std::span<const std::string> ignored_keys) {
  simdjson::dom::parser parser;
  const std::string where = fmt::format("{}/config.json", name);
  const JsonFields config(parse_json_object(parser, config_json, where), where);
  ModelConfig out;
  const Architecture& architecture = read_architecture(config);
  out.architecture = architecture.name;
  refuse_unsupported(config, architecture);
  check_config_keys(config, ignored_keys);
  out.qkv_bias = architecture.qkv_bias;
  out.qk_norm = architecture.qk_norm;
  read_shape(config, architecture, out);
  read_window(config, architecture, out);
  out.norm_eps = static_cast<float>(config.number_or("rms_norm_eps", 1e-6, 0, 1));
  out.tied_head = config.boolean_or("tie_word_embeddings", false);
  out.rope = read_rope(config, out.max_positions, ignored_keys);
  set_reach(out);
  out.dtype = read_dtype(config);
  out.bos_id = static_cast<std::int32_t>(config.integer_or("bos_token_id", -1, 0, out.vocab - 1));
  add_eos_ids(config, out.vocab, out.eos_ids);
  if (generation_json.empty()) {
    out.sampling = read_sampling(config);  // where it stood before there was a generation_config.json
    return out;
  }
  simdjson::dom::parser generation_parser;
  const std::string generation_where = fmt::format("{}/generation_config.json", name);
  const JsonFields generation(parse_json_object(generation_parser, generation_json, generation_where), generation_where);
  check_generation_keys(generation, ignored_keys);
  add_eos_ids(generation, out.vocab, out.eos_ids);
  out.sampling = read_sampling(generation);
  return out;
}

ModelConfig load_config(const std::filesystem::path& folder, std::span<const std::string> ignored_keys) {
  const MappedFile config(folder / "config.json");
  const auto generation_path = folder / "generation_config.json";
  const MappedFile generation = std::filesystem::exists(generation_path) ? MappedFile(generation_path) : MappedFile();
  return parse_config(text_of(config), text_of(generation), folder.string(), ignored_keys);
}

}  // namespace fastgen
