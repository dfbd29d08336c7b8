#include "server/api_request.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <limits>

#include <fmt/format.h>

#include "base/spans.h"
#include "server/chat_messages.h"
#include "server/json_fields.h"

namespace fastgen::server {

namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

// What only makes sense when all fields are known.
struct Draft {
  ApiRequest request;
  bool has_prompt = false;    // messages or prompt
  bool chat_logprobs = false;
  std::optional<int> top_logprobs;
  bool strict = false;
  bool has_stream_options = false;
  std::optional<std::int32_t> max_completion_tokens;
};

using Reader = void (*)(const JsonField&, Draft&);

// ---- fields without effect

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '.' || c == '-';
  });
}

void note_ignored(std::string_view name, Draft& draft) {
  ApiRequest& request = draft.request;
  if (draft.strict) throw bad_field(std::string(name.substr(0, 64)), "has no effect here, and --strict refuses such fields");
  if (std::find(request.ignored.begin(), request.ignored.end(), name) != request.ignored.end()) return;
  if (is_plain_name(name) && request.ignored.size() < kMaxIgnoredNames) {
    request.ignored.emplace_back(name);
  } else {
    ++request.num_ignored_more;
  }
}

// ---- prompts

PromptInput text_prompt(const JsonField& field) { return {std::string(field.string()), {}, true}; }

PromptInput ids_prompt(const JsonField& field) {
  PromptInput prompt{{}, field.token_ids(), false};
  if (prompt.ids.empty()) field.refuse("must hold at least one token id");
  return prompt;
}

void read_prompt(const JsonField& field, Draft& draft) {
  auto& prompts = draft.request.prompts;
  prompts.clear();
  draft.has_prompt = true;
  if (field.is_string()) {
    prompts.push_back(text_prompt(field));
    return;
  }
  if (!field.is_array()) field.expected("a string, an array of strings, of token ids, or of arrays of token ids");
  const simdjson::dom::array array = field.value.get_array();
  if (array.size() == 0) field.refuse("must not be empty");
  const simdjson::dom::element first = array.at(0);
  if (!first.is_string() && !first.is_array()) {
    prompts.push_back(ids_prompt(field));
    return;
  }
  if (array.size() > kMaxPrompts) field.refuse(fmt::format("at most {} prompts in one request", kMaxPrompts));
  for (const JsonField& item : field.items())
    prompts.push_back(first.is_string() ? text_prompt(item) : ids_prompt(item));
}

// ---- what the answer looks like

void read_stop(const JsonField& field, Draft& draft) {
  auto& stop = draft.request.stop;
  stop.clear();
  auto add = [&](const JsonField& item) {
    std::string_view text = item.string();
    if (text.empty()) item.refuse("must not be empty");
    if (text.size() > kMaxStopBytes) item.refuse(fmt::format("at most {} bytes", kMaxStopBytes));
    stop.emplace_back(text);
  };
  if (field.is_string()) return add(field);
  if (!field.is_array()) field.expected("a string or an array of strings");
  for (const JsonField& item : field.items()) add(item);
  if (stop.size() > kMaxStopStrings) field.refuse(fmt::format("at most {} stop strings", kMaxStopStrings));
}

void read_stream_options(const JsonField& field, Draft& draft) {
  draft.has_stream_options = true;
  for (const auto& [key, member] : field.members()) {
    if (member.is_null()) continue;
    if (key == "include_usage") {
      draft.request.include_usage = member.boolean();
    } else if (key == "continuous_usage_stats") {
      draft.request.continuous_usage = member.boolean();
    } else if (key != "include_obfuscation" || member.boolean()) {
      note_ignored(member.path, draft);
    }
  }
}

void read_logit_bias(const JsonField& field, Draft& draft) {
  auto& biases = draft.request.sampling.logit_bias;
  biases.clear();
  if (!field.is_object()) field.expected("an object from token ids to numbers");
  for (const auto& [key, member] : field.members()) {
    TokenId id = 0;
    auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0)
      throw bad_field("logit_bias", fmt::format("\"{}\" is not a token id", key.substr(0, 64)));
    biases.push_back({id, static_cast<float>(member.number(-100, 100))});
  }
}

// ---- refusals

bool is_nothing(const JsonField& field) {
  bool flag = true;
  std::string_view text = "x";
  if (!field.value.get(flag)) return !flag;
  if (!field.value.get(text)) return text.empty();
  if (field.is_array()) return field.value.get_array().value().size() == 0;
  return field.is_object() && field.value.get_object().value().size() == 0;
}

void refuse(const JsonField& field, Draft&) {
  if (!is_nothing(field)) field.refuse("is not supported by this server");
}

// "none" asks for nothing.
void refuse_choice(const JsonField& field, Draft&) {
  if (!field.is_string() || field.string() != "none") field.refuse("only \"none\" is supported: this server calls no tools");
}

void read_response_format(const JsonField& field, Draft&) {
  for (const auto& [key, member] : field.members())
    if (key == "type") {
      if (member.string() == "text") return;
      field.refuse(fmt::format("type \"{}\" is not supported, only \"text\"", member.string().substr(0, 64)));
    }
  throw bad_field("response_format.type", "is required");
}

void read_modalities(const JsonField& field, Draft&) {
  for (const JsonField& item : field.items())
    if (item.string() != "text") item.refuse("only \"text\" is supported");
}

void read_suffix(const JsonField& field, Draft&) {
  if (!field.string().empty()) field.refuse("is not supported by this server");
}

float above_zero(const JsonField& field, double high) {
  auto number = static_cast<float>(field.number(0, high));
  if (number <= 0) field.refuse("must be greater than 0");
  return number;
}

// Nothing of an answer depends on these here, and nobody is misled by that.
void accept_string(const JsonField& field, Draft&) { static_cast<void>(field.string()); }
void accept_boolean(const JsonField& field, Draft&) { static_cast<void>(field.boolean()); }
void accept_object(const JsonField& field, Draft&) { static_cast<void>(field.members()); }

// Known, but not what this server does: the client is told.
void list_string(const JsonField& field, Draft& draft) {
  static_cast<void>(field.string());
  note_ignored(field.path, draft);
}
void list_if_true(const JsonField& field, Draft& draft) {
  if (field.boolean()) note_ignored(field.path, draft);
}

void read_service_tier(const JsonField& field, Draft&) {
  const std::string_view tier = field.string();
  if (tier != "auto" && tier != "default") field.refuse(fmt::format("\"{}\" is not offered, only \"auto\" and \"default\"", tier.substr(0, 64)));
}

// ---- the table: one line per field that we know

constexpr unsigned kChat = 1, kText = 2, kBoth = 3;  // which endpoints know the field

struct FieldRule {
  std::string_view name;
  unsigned endpoints;
  Reader read;
};

#define FG_READ(expression) [](const JsonField& field, [[maybe_unused]] Draft& draft) { expression; }
#define FG_SET(member, expression) FG_READ(draft.request.member = expression; static_cast<void>(draft))

constexpr FieldRule kRules[] = {
    {"model", kBoth, FG_SET(model, field.string())},
    {"messages", kChat, FG_READ(draft.request.messages_json = read_messages(field); draft.has_prompt = true)},
    {"prompt", kText, read_prompt},
    {"stream", kBoth, FG_SET(stream, field.boolean())},
    {"stream_options", kBoth, read_stream_options},
    {"n", kBoth, FG_SET(n, static_cast<std::int32_t>(field.integer(1, kMaxChoices)))},
    {"stop", kBoth, read_stop},
    {"max_tokens", kBoth, FG_SET(max_tokens, static_cast<std::int32_t>(field.integer(0, kMaxInt32)))},
    {"max_completion_tokens", kChat,
     FG_READ(draft.max_completion_tokens = static_cast<std::int32_t>(field.integer(1, kMaxInt32)))},
    {"seed", kBoth, FG_SET(seed, static_cast<std::uint64_t>(field.integer(INT64_MIN, INT64_MAX)))},
    {"echo", kText, FG_SET(echo, field.boolean())},
    {"suffix", kText, read_suffix},
    {"best_of", kText, FG_SET(best_of, static_cast<std::int32_t>(field.integer(1, kMaxChoices)))},
    // sampling; the ranges are OpenAI's where it has the field
    {"temperature", kBoth, FG_SET(sampling.temperature, static_cast<float>(field.number(0, 2)))},
    {"top_p", kBoth, FG_SET(sampling.top_p, above_zero(field, 1))},
    {"min_p", kBoth, FG_SET(sampling.min_p, static_cast<float>(field.number(0, 1)))},
    {"top_k", kBoth,
     FG_SET(sampling.top_k, static_cast<std::int32_t>(std::max<std::int64_t>(0, field.integer(-1, kMaxInt32))))},
    {"repetition_penalty", kBoth, FG_SET(sampling.repetition_penalty, above_zero(field, 10))},
    {"frequency_penalty", kBoth, FG_SET(sampling.frequency_penalty, static_cast<float>(field.number(-2, 2)))},
    {"presence_penalty", kBoth, FG_SET(sampling.presence_penalty, static_cast<float>(field.number(-2, 2)))},
    {"logit_bias", kBoth, read_logit_bias},
    {"min_tokens", kBoth, FG_SET(sampling.min_tokens, static_cast<std::int32_t>(field.integer(0, kMaxInt32)))},
    {"ignore_eos", kBoth, FG_SET(sampling.ignore_eos, field.boolean())},
    {"stop_token_ids", kBoth, FG_SET(sampling.stop_token_ids, field.token_ids())},
    // what is reported
    {"logprobs", kChat, FG_READ(draft.chat_logprobs = field.boolean())},
    {"top_logprobs", kChat, FG_READ(draft.top_logprobs = static_cast<int>(field.integer(0, kMaxTopLogprobs)))},
    {"logprobs", kText,
     FG_SET(sampling.num_logprobs, static_cast<std::int32_t>(field.integer(0, kMaxTopLogprobs)))},
    {"prompt_logprobs", kBoth,
     FG_SET(sampling.num_prompt_logprobs, static_cast<std::int32_t>(field.integer(0, kMaxTopLogprobs)))},
    {"include_stop_str_in_output", kBoth, FG_SET(include_stop, field.boolean())},
    {"skip_special_tokens", kBoth, FG_SET(skip_special_tokens, field.boolean())},
    {"return_token_ids", kBoth, FG_SET(return_token_ids, field.boolean())},
    {"add_special_tokens", kBoth, FG_SET(add_special_tokens, field.boolean())},
    // the template
    {"add_generation_prompt", kChat, FG_SET(add_generation_prompt, field.boolean())},
    {"documents", kChat, FG_READ(static_cast<void>(field.items()); draft.request.documents_json = field.raw())},
    {"chat_template", kChat, FG_SET(chat_template, read_chat_template(field))},
    {"chat_template_kwargs", kChat, FG_READ(static_cast<void>(field.members()); draft.request.kwargs_json = field.raw())},
    // OpenAI's that this server does not offer
    {"tools", kChat, refuse},
    {"functions", kChat, refuse},
    {"tool_choice", kChat, refuse_choice},
    {"function_call", kChat, refuse_choice},
    {"response_format", kBoth, read_response_format},
    {"modalities", kChat, read_modalities},
    {"audio", kChat, refuse},
    {"prediction", kChat, refuse},
    {"web_search_options", kChat, FG_READ(field.refuse("is not supported by this server"))},  // an empty object asks for a search too
    // vLLM's that this server does not offer
    {"echo", kChat, refuse},
    {"continue_final_message", kChat, refuse},
    {"use_beam_search", kBoth, refuse},
    {"guided_json", kBoth, refuse},
    {"guided_regex", kBoth, refuse},
    {"guided_choice", kBoth, refuse},
    {"guided_grammar", kBoth, refuse},
    {"structured_outputs", kBoth, refuse},
    {"bad_words", kBoth, refuse},
    {"allowed_token_ids", kBoth, refuse},
    {"truncate_prompt_tokens", kBoth, refuse},
    {"logits_processors", kBoth, refuse},
    {"return_tokens_as_token_ids", kBoth, refuse},
    {"prompt_embeds", kText, refuse},
    {"moderation", kBoth, refuse},
    // when, and how urgent: ours, priority as vLLM has it
    {"timeout_ms", kBoth, FG_SET(timeout_ms, field.number(1, kMaxTimeoutMs))},
    {"ttft_timeout_ms", kBoth, FG_SET(ttft_timeout_ms, field.number(1, kMaxTimeoutMs))},
    {"priority", kBoth, FG_SET(priority, static_cast<std::int32_t>(field.integer(-kMaxPriority, kMaxPriority)))},
    {"user", kBoth, accept_string},
    {"safety_identifier", kBoth, accept_string},
    {"prompt_cache_key", kBoth, accept_string},
    {"prompt_cache_retention", kBoth, accept_string},
    {"metadata", kChat, accept_object},
    {"parallel_tool_calls", kChat, accept_boolean},
    {"service_tier", kChat, read_service_tier},
    {"store", kChat, list_if_true},
    {"reasoning_effort", kChat, list_string},
    {"verbosity", kChat, list_string},
};

#undef FG_SET
#undef FG_READ

const FieldRule* find_rule(std::string_view name, unsigned endpoint) {
  for (const FieldRule& rule : kRules)
    if (rule.name == name && (rule.endpoints & endpoint) != 0) return &rule;
  return nullptr;
}

// ---- fields that depend on each other

void check_logprobs(Draft& draft) {
  ApiRequest& request = draft.request;
  if (request.endpoint == Endpoint::kChat) {
    if (draft.top_logprobs.value_or(0) > 0 && !draft.chat_logprobs)
      throw bad_field("top_logprobs", "needs \"logprobs\": true");
    if (draft.chat_logprobs) request.sampling.num_logprobs = draft.top_logprobs.value_or(0);
  }
  request.wants_logprobs = request.sampling.num_logprobs >= 0;
  if (request.sampling.num_prompt_logprobs >= 0 && request.stream)
    throw bad_field("prompt_logprobs", "is not available with \"stream\": true");
  // With echo the prompt's tokens are part of the answer, so their logprobs are too.
  if (request.echo && request.wants_logprobs)
    request.sampling.num_prompt_logprobs = std::max(request.sampling.num_prompt_logprobs, request.sampling.num_logprobs);
}

void check_lengths(Draft& draft) {
  ApiRequest& request = draft.request;
  if (draft.max_completion_tokens) request.max_tokens = draft.max_completion_tokens;
  if (request.max_tokens == 0 && !request.echo) throw bad_field("max_tokens", "must be at least 1 (0 only with echo)");
  if (request.max_tokens && request.sampling.min_tokens > *request.max_tokens)
    throw bad_field("min_tokens", fmt::format("{} is more than max_tokens {}", request.sampling.min_tokens, *request.max_tokens));
}

void check_best_of(Draft& draft) {
  ApiRequest& request = draft.request;
  if (request.best_of == 0) return;
  if (request.best_of < request.n) throw bad_field("best_of", fmt::format("{} is less than n ({})", request.best_of, request.n));
  if (request.best_of == request.n) return;
  if (request.stream) throw bad_field("best_of", "more than n is not available with \"stream\": true");
  request.sampling.num_logprobs = std::max(request.sampling.num_logprobs, 0);  // they are what the choices are ranked by
}

void check_together(Draft& draft) {
  const ApiRequest& request = draft.request;
  if (!draft.has_prompt)
    throw bad_field(request.endpoint == Endpoint::kChat ? "messages" : "prompt", "is required");
  if (draft.has_stream_options && !request.stream) throw bad_field("stream_options", "only with \"stream\": true");
  check_logprobs(draft);
  check_best_of(draft);
  check_lengths(draft);
}

}  // namespace

std::string ignored_params(const ApiRequest& request) {
  std::string text = fmt::format("{}", fmt::join(request.ignored, ", "));
  if (request.num_ignored_more > 0) text += fmt::format("{}+{}", text.empty() ? "" : ", ", request.num_ignored_more);
  return text;
}

ApiRequest parse_api_request(Endpoint endpoint, std::string_view body, const SamplingParams& defaults, bool strict) {
  const SpanScope span(SpanKind::kParse);
  simdjson::dom::parser parser;
  Draft draft;
  draft.request.endpoint = endpoint;
  draft.request.sampling = defaults;
  draft.strict = strict;
  const unsigned bit = endpoint == Endpoint::kChat ? kChat : kText;
  for (const auto& [key, field] : parse_object(parser, body)) {
    const FieldRule* rule = find_rule(key, bit);
    if (rule == nullptr) {
      note_ignored(key, draft);
    } else if (!field.is_null()) {
      rule->read(field, draft);
    }
  }
  check_together(draft);
  return std::move(draft.request);
}

}  // namespace fastgen::server
