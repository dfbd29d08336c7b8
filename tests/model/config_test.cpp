#include "model/config.h"

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "fastgen/error.h"
#include "model/tiny_model.h"
#include "support/support.h"

namespace fastgen {
namespace {

// A whole Llama config; `extra` is added, the keys of the comma-separated list `without` are left out.
std::string llama(const std::string& extra = "", const std::string& without = "") {
  std::string out = "{";
  const auto add = [&](const std::string& key, const std::string& value) {
    if (("," + without + ",").find("," + key + ",") == std::string::npos) out += fmt::format("{}\"{}\": {}", out.size() > 1 ? ", " : "", key, value);
  };
  add("architectures", R"(["LlamaForCausalLM"])");
  add("model_type", R"("llama")");
  add("hidden_size", "64");
  add("intermediate_size", "172");
  add("num_hidden_layers", "5");
  add("num_attention_heads", "8");
  add("num_key_value_heads", "4");
  add("vocab_size", "512");
  add("max_position_embeddings", "1024");
  add("rms_norm_eps", "1e-05");
  add("rope_theta", "10000.0");
  add("hidden_act", R"("silu")");
  add("torch_dtype", R"("bfloat16")");
  add("bos_token_id", "1");
  add("eos_token_id", "2");
  return out + (extra.empty() ? "" : ", " + extra) + "}";
}

// The config with one key's value replaced.
std::string with(const std::string& key, const std::string& value) { return llama(fmt::format("\"{}\": {}", key, value), key); }

std::string error_of(const std::string& config, const std::string& generation = "", const std::vector<std::string>& ignored = {}) {
  try {
    parse_config(config, generation, "m", ignored);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("a Llama config becomes plain data") {
  const ModelConfig config = parse_config(llama(), "", "m");
  CHECK(config.architecture == "LlamaForCausalLM");
  CHECK(config.num_layers == 5);
  CHECK(config.model_dim == 64);
  CHECK(config.num_heads == 8);
  CHECK(config.num_kv_heads == 4);
  CHECK(config.head_dim == 8);
  CHECK(config.ffn_dim == 172);
  CHECK(config.vocab == 512);
  CHECK(config.max_positions == 1024);
  CHECK(config.norm_eps == 1e-5f);
  CHECK_FALSE(config.tied_head);
  CHECK_FALSE(config.qkv_bias);
  CHECK(config.window == 0);
  CHECK(config.rope == RopeConfig{.theta = 10000});
  CHECK(config.dtype == DType::kBF16);
  CHECK(config.bos_id == 1);
  CHECK(config.eos_ids == std::vector<std::int32_t>{2});
  CHECK(config.kv_bytes_per_token(DType::kBF16) == 2 * 5 * 4 * 8 * 2);
  // Embedding and head 512 x 64 each; a layer's q and o 64 x 64, k and v 32 x 64, gate, up and down 172 x 64, two norms.
  CHECK(config.num_parameters() == 2 * 512 * 64 + 5 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 172 * 64 + 2 * 64) + 64);
}

TEST_CASE("what is absent or null takes the default") {
  CHECK(parse_config(llama("", "num_key_value_heads"), "", "m").num_kv_heads == 8);
  CHECK(parse_config(with("num_key_value_heads", "null"), "", "m").num_kv_heads == 8);
  CHECK(parse_config(llama(R"("head_dim": 32)"), "", "m").head_dim == 32);
  CHECK(parse_config(llama(R"("head_dim": null)"), "", "m").head_dim == 8);
  CHECK(parse_config(llama("", "rope_theta"), "", "m").rope.theta == 10000);
  CHECK(parse_config(llama("", "rms_norm_eps"), "", "m").norm_eps == 1e-6f);
  CHECK(parse_config(llama(R"("tie_word_embeddings": true)"), "", "m").tied_head);
  CHECK(parse_config(llama("", "bos_token_id"), "", "m").bos_id == -1);
  CHECK(parse_config(llama("", "eos_token_id"), "", "m").eos_ids.empty());
  CHECK(parse_config(llama("", "torch_dtype"), "", "m").dtype == DType::kF32);
  CHECK(parse_config(llama(R"("dtype": "float16")", "torch_dtype"), "", "m").dtype == DType::kF16);
}

TEST_CASE("end-of-sequence ids come from both files, each once") {
  const auto ids = [](const std::string& config, const std::string& generation) {
    return parse_config(config, generation, "m").eos_ids;
  };
  using Ids = std::vector<std::int32_t>;
  CHECK(ids(with("eos_token_id", "[2, 5]"), "") == Ids{2, 5});
  CHECK(ids(llama(), R"({"eos_token_id": [7, 2, 9]})") == Ids{2, 7, 9});
  CHECK(ids(llama(), R"({"eos_token_id": 3})") == Ids{2, 3});
  CHECK(ids(with("eos_token_id", "null"), R"({"temperature": 0.6})").empty());
}

TEST_CASE("llama3 RoPE scaling reads the same in both notations") {
  const std::string scaling =
      R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128)";
  const RopeConfig expected{.scaling = RopeScaling::kLlama3, .theta = 500000, .factor = 8, .original_max_positions = 128};
  const auto rope = [](const std::string& config) { return parse_config(config, "", "m").rope; };
  const std::string theta = R"("rope_theta": 500000.0, )";
  const std::string older = theta + R"("rope_scaling": {"rope_type": "llama3", )" + scaling + "}";
  const std::string newer = R"("rope_parameters": {"rope_type": "llama3", )" + theta + scaling + "}";
  CHECK(rope(llama(older, "rope_theta")) == expected);
  CHECK(rope(llama(theta + R"("rope_scaling": {"type": "llama3", )" + scaling + "}", "rope_theta")) == expected);
  CHECK(rope(llama(newer, "rope_theta")) == expected);
  CHECK(rope(llama(older + ", " + newer, "rope_theta")) == expected);
  CHECK(rope(llama(R"("rope_parameters": {"rope_type": "default", "rope_theta": 77.0})", "rope_theta")) == RopeConfig{.theta = 77});
}

// A config of another architecture.
std::string other(const char* name, const char* model_type, const std::string& extra) {
  return llama(fmt::format(R"("architectures": ["{}"], "model_type": "{}"{}{})", name, model_type, extra.empty() ? "" : ", ", extra), "architectures,model_type");
}

TEST_CASE("Mistral has a window, Qwen2 has biases") {
  const auto mistral = [](const std::string& extra) { return parse_config(other("MistralForCausalLM", "mistral", extra), "", "m"); };
  CHECK(mistral(R"("sliding_window": 48)").window == 48);
  CHECK(mistral(R"("sliding_window": null)").window == 0);
  CHECK(mistral("").window == 4096);  // transformers' default
  CHECK_FALSE(mistral("").qkv_bias);
  const ModelConfig qwen2 = parse_config(other("Qwen2ForCausalLM", "qwen2", R"("sliding_window": 1024, "use_sliding_window": false)"), "", "m");
  CHECK(qwen2.window == 0);
  CHECK(qwen2.qkv_bias);
  CHECK(qwen2.num_parameters() == parse_config(llama(), "", "m").num_parameters() + 5 * (64 + 2 * 32));
}

TEST_CASE("windows of some layers: by layer_types, or by Qwen's max_window_layers") {
  const std::string types = R"("layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"])";
  const ModelConfig ministral = parse_config(other("MinistralForCausalLM", "ministral", R"("sliding_window": 16, )" + types), "", "m");
  const auto windows = [](const ModelConfig& config) {
    std::vector<std::int32_t> out;
    for (std::int32_t i = 0; i < config.num_layers; ++i) out.push_back(config.layer_window(i));
    return out;
  };
  CHECK(windows(ministral) == std::vector<std::int32_t>{0, 16, 16, 0, 16});
  CHECK_FALSE(ministral.all_windowed());
  const ModelConfig all = parse_config(other("MinistralForCausalLM", "ministral", R"("sliding_window": 16)"), "", "m");
  CHECK(all.all_windowed());
  const auto qwen = [&](const std::string& extra) { return windows(parse_config(other("Qwen3ForCausalLM", "qwen3", R"("sliding_window": 16, )" + extra), "", "m")); };
  CHECK(qwen(R"("use_sliding_window": true, "max_window_layers": 3)") == std::vector<std::int32_t>{0, 0, 0, 16, 16});
  CHECK(qwen(R"("use_sliding_window": true, "max_window_layers": 0)") == std::vector<std::int32_t>{16, 16, 16, 16, 16});
  CHECK(qwen(R"("use_sliding_window": true)") == std::vector<std::int32_t>{0, 0, 0, 0, 0});  // 28 by default
  CHECK(qwen(R"("use_sliding_window": false, "max_window_layers": 3)") == std::vector<std::int32_t>{0, 0, 0, 0, 0});
}

TEST_CASE("Qwen3 norms q and k, and its heads are 128 wide unless it says otherwise") {
  const ModelConfig qwen3 = parse_config(other("Qwen3ForCausalLM", "qwen3", ""), "", "m");
  CHECK(qwen3.qk_norm);
  CHECK_FALSE(qwen3.qkv_bias);
  CHECK(qwen3.head_dim == 128);
  CHECK(parse_config(other("Qwen3ForCausalLM", "qwen3", R"("head_dim": 16)"), "", "m").head_dim == 16);
}

TEST_CASE("linear, dynamic and yarn scaling") {
  const auto config = [](const std::string& rope) { return parse_config(llama(R"("rope_scaling": )" + rope), "", "m"); };
  CHECK(config(R"({"type": "linear", "factor": 2.0})").rope == RopeConfig{.scaling = RopeScaling::kLinear, .factor = 2});
  const ModelConfig dynamic = config(R"({"type": "dynamic", "factor": 4.0})");
  CHECK(dynamic.rope == RopeConfig{.scaling = RopeScaling::kDynamic, .factor = 4, .original_max_positions = 1024});
  CHECK(dynamic.max_positions == 1024);
  CHECK(dynamic.max_positions_stretched == 4096);
  const ModelConfig yarn = config(R"({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024})");
  CHECK(yarn.max_positions == 4096);
  CHECK(yarn.max_positions_stretched == 4096);
  CHECK(yarn.rope.attention_factor == doctest::Approx(0.1 * std::log(4.0) + 1).epsilon(1e-12));
  CHECK(config(R"({"type": "yarn", "factor": 4.0, "attention_factor": 0.5})").rope.attention_factor == 0.5);
  CHECK(config(R"({"type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0})").rope.attention_factor == 1);
  CHECK(config(R"({"type": "yarn", "factor": 4.0})").rope.original_max_positions == 1024);
}

TEST_CASE("generation_config's way of drawing is read, unless it does not sample") {
  const auto sampling = [](const std::string& generation) { return parse_config(llama(), generation, "m").sampling; };
  const SamplingDefaults all = sampling(R"({"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05})");
  CHECK(all.temperature == 0.7f);
  CHECK(all.top_p == 0.8f);
  CHECK(all.top_k == 20);
  CHECK(all.repetition_penalty == 1.05f);
  CHECK_FALSE(all.min_p);
  CHECK_FALSE(sampling(R"({"do_sample": false, "temperature": 0.7})").temperature);
  CHECK_FALSE(sampling(R"({"eos_token_id": 2})").temperature);
  // Older folders have no such file, and say it in config.json.
  const std::string older = llama(R"("temperature": 0.9, "top_p": 0.6)");
  CHECK(parse_config(older, "", "m").sampling.temperature == 0.9f);
  CHECK(parse_config(older, "", "m").sampling.top_p == 0.6f);
  CHECK_FALSE(parse_config(older, "{}", "m").sampling.top_p);
  CHECK(error_of(llama(), R"({"temperature": -1})") == "m/generation_config.json: temperature is -1, outside 0 to 2");
}

struct Bad {
  std::string config;
  const char* message;  // what the error must contain
};

TEST_CASE("what is wrong or not supported is named, with its file") {
  const std::string scaling = R"("low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128)";
  const Bad table[] = {
      {"", "m/config.json: not valid JSON"},
      {"{", "m/config.json: not valid JSON"},
      {"[1]", "m/config.json: not a JSON object"},
      {llama("", "architectures"), "m/config.json: architectures is missing"},
      {with("architectures", "\"LlamaForCausalLM\""), "architectures is not a list of one name"},
      {with("architectures", "[]"), "architectures is not a list of one name"},
      {with("architectures", "[7]"), "architectures is not a list of one name"},
      {with("architectures", R"(["GPT2LMHeadModel"])"), R"(architectures "GPT2LMHeadModel" is not supported)"},
      {with("model_type", "\"gemma\""), R"(model_type "gemma" does not belong to LlamaForCausalLM)"},
      {llama("", "hidden_size"), "hidden_size is missing"},
      {with("hidden_size", "\"64\""), "hidden_size is not an integer"},
      {with("hidden_size", "64.5"), "hidden_size is not an integer"},
      {with("hidden_size", "0"), "hidden_size is 0, outside 1 to"},
      {with("hidden_size", "-64"), "hidden_size is -64, outside 1 to"},
      {with("hidden_size", "9223372036854775807"), "hidden_size is 9223372036854775807, outside 1 to"},
      {with("hidden_size", "18446744073709551615"), "hidden_size is not an integer"},
      {with("hidden_size", "63"), "num_attention_heads does not divide hidden_size"},
      {with("num_hidden_layers", "1000000"), "num_hidden_layers is 1000000, outside 1 to"},
      {with("intermediate_size", "true"), "intermediate_size is not an integer"},
      {with("vocab_size", "4294967296"), "vocab_size is 4294967296, outside"},
      {with("max_position_embeddings", "0"), "max_position_embeddings is 0, outside"},
      {with("num_attention_heads", "0"), "num_attention_heads is 0, outside"},
      {with("num_key_value_heads", "3"), "num_key_value_heads does not divide num_attention_heads"},
      {with("num_key_value_heads", "16"), "num_key_value_heads does not divide num_attention_heads"},
      {llama(R"("head_dim": 7)"), "head_dim makes heads of 7, an odd number"},
      {llama(R"("head_dim": 5000)"), "head_dim is 5000, outside"},
      {with("hidden_size", "1048576"), "hidden_size makes heads of 131072, over 1024"},
      {with("rms_norm_eps", "-1e-5"), "rms_norm_eps is -1e-05, outside"},
      {with("rms_norm_eps", "\"small\""), "rms_norm_eps is not a number"},
      {with("rope_theta", "0"), "rope_theta is 0, outside"},
      {with("hidden_act", "\"gelu\""), R"(hidden_act "gelu" is not supported)"},
      {with("torch_dtype", "\"float64\""), R"(torch_dtype "float64" is not supported)"},
      {llama(R"("dtype": "int8")"), R"(dtype "int8" is not supported)"},
      {llama(R"("tie_word_embeddings": "yes")"), "tie_word_embeddings is not true or false"},
      {other("Qwen2ForCausalLM", "qwen2", R"("layer_types": ["full_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"])"),
       R"(layer_types "sliding_attention" is not supported without a window)"},
      {other("MistralForCausalLM", "mistral", R"("sliding_window": 8, "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention", "full_attention"])"),
       "layer_types contradicts sliding_window, which MistralForCausalLM has in every layer"},
      {other("MinistralForCausalLM", "ministral", R"("layer_types": ["full_attention"])"), "layer_types has 1 entries, num_hidden_layers is 5"},
      {other("MinistralForCausalLM", "ministral", R"("layer_types": ["chunked_attention"])"), R"(layer_types "chunked_attention" is not supported)"},
      {other("MistralForCausalLM", "mistral", R"("sliding_window": 0)"), "sliding_window is 0, outside 1 to"},
      {other("MistralForCausalLM", "llama", ""), R"(model_type "llama" does not belong to MistralForCausalLM)"},
      {llama(R"("attention_bias": true)"), "attention_bias is not supported"},
      {llama(R"("mlp_bias": true)"), "mlp_bias is not supported"},
      {llama(R"("quantization_config": {"bits": 4})"), "quantization_config is not supported"},
      {llama(R"("sliding_window": 4096)"), "sliding_window is not supported"},
      {llama(R"("use_sliding_window": true)"), "use_sliding_window is not supported for LlamaForCausalLM"},
      {llama(R"("use_mrope": true)"), "use_mrope is not supported"},
      {llama(R"("auto_map": {"AutoModel": "x"})"), "auto_map is not known and might change results (--ignore-config-keys auto_map goes on without it)"},
      {llama(R"("num_local_experts": 8)"), "num_local_experts is not supported"},
      {llama(R"("rope_scaling": {"type": "linear", "factor": 2, "new_way": 1})"), "rope_scaling.new_way is not known"},
      {llama(R"("final_logit_softcapping": 30.0)"), "final_logit_softcapping is not supported"},
      {llama(R"("partial_rotary_factor": 0.5)"), "partial_rotary_factor other than 1 is not supported"},
      {llama(R"("logits_scaling": 8)"), "logits_scaling other than 1 is not supported"},
      {llama(R"("layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention", "full_attention"])"),
       R"(layer_types "sliding_attention" is not supported)"},
      {llama(R"("layer_types": "full_attention")"), "layer_types is not a list"},
      {llama(R"("rope_scaling": "linear")"), "rope_scaling is not an object"},
      {llama(R"("rope_scaling": {"type": "linear"})"), "rope_scaling.factor is missing"},
      {llama(R"("rope_scaling": {"rope_type": "longrope", "factor": 2.0})"), R"(rope_scaling.rope_type "longrope" is not supported)"},
      {llama(R"("rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1, "beta_slow": 2})"), "rope_scaling.beta_fast is below beta_slow"},
      {llama(R"("rope_parameters": {"full_attention": {"rope_type": "default"}})"), "rope_parameters.full_attention is not supported"},
      {llama(R"("rope_scaling": {"factor": 2.0})"), "rope_scaling.factor without a rope_type is not supported"},
      {llama(R"("rope_parameters": {"rope_type": "dynamic"})"), "rope_parameters.factor is missing"},
      {llama(R"("rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25})"), "rope_parameters.partial_rotary_factor"},
      {llama(R"("rope_scaling": {"rope_type": "llama3", )" + scaling + "}"), "rope_scaling.factor is missing"},
      {llama(R"("rope_scaling": {"rope_type": "llama3", "factor": 0.5, )" + scaling + "}"), "rope_scaling.factor is 0.5, outside"},
      {llama(R"("rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,)"
             R"( "original_max_position_embeddings": 128})"),
       "rope_scaling.high_freq_factor is not above low_freq_factor"},
      {llama(R"("rope_scaling": {"rope_type": "llama3", "factor": 8, )" + scaling + R"(}, "rope_parameters": {"rope_type": "default"})"),
       "rope_parameters contradicts rope_scaling"},
      {with("bos_token_id", "512"), "bos_token_id is 512, outside 0 to 511"},
      {with("eos_token_id", "512"), "eos_token_id is 512, outside 0 to 511"},
      {with("eos_token_id", "[2, -1]"), "eos_token_id is -1, outside 0 to 511"},
      {with("eos_token_id", "\"</s>\""), "eos_token_id is neither an integer nor a list of them"},
  };
  for (const Bad& bad : table) {
    const std::string message = error_of(bad.config);
    CHECK_MESSAGE(message.find(bad.message) != std::string::npos, message << " should contain: " << bad.message);
    CHECK_MESSAGE(message.starts_with("m/config.json: "), message);
  }
  CHECK(error_of(llama(), R"({"eos_token_id": [1, "x"]})") ==
        "m/generation_config.json: eos_token_id is neither an integer nor a list of them");
  CHECK(error_of(llama(), "oops").starts_with("m/generation_config.json: not valid JSON"));
}

TEST_CASE("a key that nobody reads is an error, unless it asks for nothing or the caller says that it may be ignored") {
  const std::string unknown = " is not known and might change results (--ignore-config-keys ";
  CHECK(error_of(llama(R"("new_thing": 3)")) == "m/config.json: new_thing" + unknown + "new_thing goes on without it)");
  for (const char* value : {"true", "1", "1.0", "\"x\"", "[0]", R"({"a": null})", "-1"})
    CHECK_MESSAGE(error_of(llama(fmt::format(R"("new_thing": {})", value))) != "no error", value);
  for (const char* value : {"false", "0", "0.0", "\"\"", "[]", "{}", "null"})
    CHECK_MESSAGE(error_of(llama(fmt::format(R"("new_thing": {})", value))) == "no error", value);
  CHECK(error_of(llama(R"("logits_scaling": 1.0, "typical_p": 1, "num_beams": 1, "partial_rotary_factor": 1.0)")) == "no error");
  CHECK(error_of(llama(R"("num_beams": 4)")).find("num_beams is not known") != std::string::npos);
  CHECK(error_of(llama(), R"({"suppress_tokens": [5]})") == "m/generation_config.json: suppress_tokens" + unknown + "suppress_tokens goes on without it)");
  CHECK(error_of(llama(), R"({"num_beams": 1, "suppress_tokens": null, "max_new_tokens": 2048, "_from_model_config": true})") == "no error");
  const std::string rope = R"("rope_scaling": {"type": "linear", "factor": 2, "new_way": 1}, "new_thing": 3)";
  CHECK(error_of(llama(rope), R"({"penalty_alpha": 0.6})", {"new_thing", "penalty_alpha", "rope_scaling.new_way"}) == "no error");
  CHECK(error_of(llama(rope), "", {"new_thing"}).find("rope_scaling.new_way") != std::string::npos);
  CHECK(error_of(llama(R"("mlp_bias": true)"), "", {"mlp_bias"}) == "m/config.json: mlp_bias is not supported");  // known to change results
}

// The keys beside the shapes in config.json of SmolLM2-135M-Instruct, Llama-3.3-70B-Instruct's mirror by unsloth, vicuna, Yarn-Llama-2,
// and of a file that transformers 4.2x saved with every default of PretrainedConfig.
TEST_CASE("what published configs hold beside the model is no error") {
  for (const char* extra : {
           R"("is_llama_config": true, "initializer_range": 0.041666666666666664, "pad_token_id": 2, "rope_interleaved": false,)"
           R"( "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "use_cache": true, "pretraining_tp": 1)",
           R"("_name_or_path": "x", "unsloth_fixed": true, "attention_dropout": 0.1, "mlp_bias": false, "transformers_version": "4.47.0")",
           R"("max_sequence_length": 2048, "transformers_version": "4.28.1", "temperature": 0.9, "top_p": 0.6, "max_length": 4096)",
           R"("rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 4096, "type": "yarn", "finetuned": true})",
           R"("return_dict": true, "output_hidden_states": false, "pruned_heads": {}, "is_encoder_decoder": false, "chunk_size_feed_forward": 0,)"
           R"( "min_length": 0, "do_sample": false, "num_beams": 1, "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0,)"
           R"( "typical_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": null,)"
           R"( "num_return_sequences": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "tokenizer_class": null, "prefix": null)"})
    CHECK_MESSAGE(error_of(llama(extra)) == "no error", extra);
}

TEST_CASE("a folder's files are read and named") {
  test::TempDir dir;
  CHECK_THROWS_WITH_AS(load_config(dir.path()),
                       ((dir.path() / "config.json").string() + ": cannot open: No such file or directory").c_str(), Error);
  std::ofstream(dir.path() / "config.json") << llama();
  CHECK(load_config(dir.path()).eos_ids == std::vector<std::int32_t>{2});
  std::ofstream(dir.path() / "generation_config.json") << R"({"eos_token_id": [3]})";
  CHECK(load_config(dir.path()).eos_ids == std::vector<std::int32_t>{2, 3});
  // What the tests' own models write reads back.
  const ModelConfig tiny = test::tiny_config();
  CHECK(parse_config(test::config_json(tiny), "", "m").rope == tiny.rope);
}

TEST_CASE("configs of published models: both notations agree, others are refused by name") {
  for (const char* name : {"tiny-llama31", "tiny-ministral", "tiny-qwen2"}) {
    const auto folder = test::find_asset(std::string("weights/") + name);
    if (!folder) FG_SKIP("assets/weights");
    const ModelConfig a = load_config(*folder);
    const ModelConfig b = parse_config(test::read_file(*folder / "config.transformers5.json"), "", name);
    CHECK(a.rope == b.rope);
    CHECK(a.window == b.window);
    CHECK(a.head_dim == b.head_dim);
    CHECK(a.num_parameters() == b.num_parameters());
  }
  const auto llama31 = test::find_asset("models/llama-3.1-8b-instruct/config.json");
  if (!llama31) FG_SKIP("assets/models/llama-3.1-8b-instruct");
  const ModelConfig config = parse_config(test::read_file(*llama31), "", "llama");
  CHECK(config.num_parameters() == 8'030'261'248);  // as published
  CHECK(config.rope == RopeConfig{.scaling = RopeScaling::kLlama3, .theta = 500000, .factor = 8, .original_max_positions = 8192});
}

}  // namespace
}  // namespace fastgen
