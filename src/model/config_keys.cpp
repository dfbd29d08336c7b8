#include "model/config_keys.h"

#include <algorithm>
#include <array>
#include <string_view>

#include <fmt/format.h>

#include "base/log.h"

namespace fastgen {

namespace {

using namespace std::string_view_literals;
using Names = std::span<const std::string_view>;

// Read by config.cpp, for some architectures at least; transformers takes none of them for the others.
constexpr std::array kConfigRead = {
    "architectures"sv, "model_type"sv, "hidden_size"sv, "intermediate_size"sv, "num_hidden_layers"sv, "num_attention_heads"sv,
    "num_key_value_heads"sv, "head_dim"sv, "vocab_size"sv, "max_position_embeddings"sv, "rms_norm_eps"sv, "rope_theta"sv,
    "rope_scaling"sv, "rope_parameters"sv, "hidden_act"sv, "tie_word_embeddings"sv, "torch_dtype"sv, "dtype"sv,
    "bos_token_id"sv, "eos_token_id"sv, "layer_types"sv, "sliding_window"sv, "use_sliding_window"sv, "max_window_layers"sv,
    "do_sample"sv, "temperature"sv, "top_p"sv, "top_k"sv, "min_p"sv, "repetition_penalty"sv};

// Of transformers' PretrainedConfig and its older versions, of training (dropout, initialization, losses), of other programs
// (unsloth, transformers.js), and of what serves a model. None of them changes what the forward pass computes.
constexpr std::array kConfigHarmless = {
    "_name_or_path"sv, "_commit_hash"sv, "_attn_implementation"sv, "_attn_implementation_autoset"sv,
    "_flash_attn_2_enabled"sv, "_experts_implementation"sv, "attn_implementation"sv, "transformers_version"sv,
    "transformers.js_config"sv, "unsloth_version"sv, "unsloth_fixed"sv, "is_llama_config"sv, "initializer_range"sv,
    "attention_dropout"sv, "hidden_dropout"sv, "hidden_dropout_prob"sv, "attention_probs_dropout_prob"sv,
    "residual_dropout"sv, "resid_pdrop"sv, "embd_pdrop"sv, "attn_pdrop"sv, "classifier_dropout"sv, "pretraining_tp"sv,
    "use_cache"sv, "gradient_checkpointing"sv, "neftune_noise_alpha"sv, "use_bfloat16"sv, "torchscript"sv, "tf_legacy_loss"sv,
    "return_dict"sv, "output_attentions"sv, "output_hidden_states"sv, "chunk_size_feed_forward"sv, "is_decoder"sv,
    "pad_token_id"sv, "sep_token_id"sv, "unk_token_id"sv, "cls_token_id"sv, "mask_token_id"sv, "decoder_start_token_id"sv,
    "tokenizer_class"sv, "model_max_length"sv, "max_sequence_length"sv, "seq_length"sv, "prefix"sv, "problem_type"sv,
    "id2label"sv, "label2id"sv, "num_labels"sv, "finetuning_task"sv, "task_specific_params"sv, "num_return_sequences"sv,
    "max_length"sv, "max_new_tokens"sv, "early_stopping"sv, "length_penalty"sv, "renormalize_logits"sv,
    "remove_invalid_values"sv, "output_scores"sv, "return_dict_in_generate"sv, "output_router_logits"sv,
    "router_aux_loss_coef"sv};

constexpr std::array kRopeRead = {
    "rope_type"sv, "type"sv, "rope_theta"sv, "factor"sv, "low_freq_factor"sv, "high_freq_factor"sv,
    "original_max_position_embeddings"sv, "beta_fast"sv, "beta_slow"sv, "truncate"sv, "attention_factor"sv, "mscale"sv,
    "mscale_all_dim"sv, "partial_rotary_factor"sv};
constexpr std::array kRopeHarmless = {"finetuned"sv};  // Yarn-Llama-2's: tells what its authors did

constexpr std::array kGenerationRead = {
    "eos_token_id"sv, "do_sample"sv, "temperature"sv, "top_p"sv, "top_k"sv, "min_p"sv, "repetition_penalty"sv};
// Lengths are each request's affair. The rest is about how generate() of transformers goes on and what it returns.
constexpr std::array kGenerationHarmless = {
    "_from_model_config"sv, "transformers_version"sv, "bos_token_id"sv, "pad_token_id"sv, "decoder_start_token_id"sv,
    "user_token_id"sv, "assistant_token_id"sv, "max_length"sv, "max_new_tokens"sv, "max_time"sv, "max_window_size"sv,
    "chat_format"sv, "trust_remote_code"sv, "use_cache"sv, "cache_implementation"sv, "cache_config"sv,
    "return_legacy_cache"sv, "low_memory"sv, "early_stopping"sv, "length_penalty"sv, "num_return_sequences"sv,
    "output_attentions"sv, "output_hidden_states"sv, "output_scores"sv, "output_logits"sv, "return_dict_in_generate"sv,
    "remove_invalid_values"sv, "renormalize_logits"sv, "disable_compile"sv, "is_assistant"sv, "num_assistant_tokens"sv,
    "num_assistant_tokens_schedule"sv, "assistant_confidence_threshold"sv};
// Factors and counts that ask for something only where they are not 1: of beam search, of ways of sampling, of other models.
constexpr std::array kNeutralAtOne = {
    "num_beams"sv, "num_beam_groups"sv, "typical_p"sv, "guidance_scale"sv, "encoder_repetition_penalty"sv,
    "partial_rotary_factor"sv, "embedding_multiplier"sv, "residual_multiplier"sv, "attention_multiplier"sv, "logits_scaling"sv,
    "logit_scale"sv, "query_pre_attn_scalar"sv};

bool has(Names names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); }

bool is_one(simdjson::dom::element value) {
  double number = 0;
  return value.get(number) == simdjson::SUCCESS && number == 1;
}

void check_keys(const JsonFields& fields, Names read, Names harmless, std::span<const std::string> ignored) {
  fields.for_each([&](std::string_view key, simdjson::dom::element value) {
    if (has(read, key) || has(harmless, key) || asks_for_nothing(value)) return;
    if (has(kNeutralAtOne, key) && is_one(value)) return;
    const std::string name = fields.full_name(key);
    if (std::find(ignored.begin(), ignored.end(), name) != ignored.end()) return log_warn("config key {} is ignored, as --ignore-config-keys says", name);
    fields.fail(key, fmt::format("is not known and might change results (--ignore-config-keys {} goes on without it)", name));
  });
}

}  // namespace

bool asks_for_nothing(simdjson::dom::element value) {
  bool boolean = false;
  double number = 0;
  std::string_view text;
  simdjson::dom::array array;
  simdjson::dom::object object;
  if (value.is_null()) return true;
  if (value.get(boolean) == simdjson::SUCCESS) return !boolean;
  if (value.get(number) == simdjson::SUCCESS) return number == 0;
  if (value.get(text) == simdjson::SUCCESS) return text.empty();
  if (value.get(array) == simdjson::SUCCESS) return array.size() == 0;
  return value.get(object) == simdjson::SUCCESS && object.size() == 0;
}

void check_config_keys(const JsonFields& config, std::span<const std::string> ignored) {
  check_keys(config, kConfigRead, kConfigHarmless, ignored);
}
void check_rope_keys(const JsonFields& rope, std::span<const std::string> ignored) { check_keys(rope, kRopeRead, kRopeHarmless, ignored); }
void check_generation_keys(const JsonFields& generation, std::span<const std::string> ignored) {
  check_keys(generation, kGenerationRead, kGenerationHarmless, ignored);
}

}  // namespace fastgen
