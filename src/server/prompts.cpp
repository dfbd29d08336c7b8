#include "server/prompts.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "server/reasoning.h"

#include "base/spans.h"

namespace fastgen::server {

namespace {

constexpr std::int32_t kCompletionTokens = 16;  // OpenAI's default of /v1/completions

bool is_template_text(std::string_view text) { return text.find("{{") != text.npos || text.find("{%") != text.npos; }

std::shared_ptr<const ChatTemplate> parse_own(const std::string& source) {
  try {
    return ChatTemplate::parse(source, "line");
  } catch (const Error& error) {
    throw bad_field("chat_template", error.what());
  }
}

// What renders the request: the model's template, or the one that the request brings.
std::shared_ptr<const ChatTemplate> template_of(const ApiRequest& request, const TextTools& tools, RenderInput& input) {
  if (request.chat_template.empty()) {
    if (tools.chat_template) return tools.chat_template;
    throw ApiError(400, "the model has no chat template; start the server with --chat-template FILE or use /v1/completions",
                   "messages", "no_chat_template");
  }
  const std::vector<std::string> names = tools.chat_template ? tools.chat_template->names() : std::vector<std::string>();
  if (std::find(names.begin(), names.end(), request.chat_template) != names.end()) {
    input.template_name = request.chat_template;
    return tools.chat_template;
  }
  if (!is_template_text(request.chat_template))
    throw bad_field("chat_template", fmt::format("\"{}\" is none of the model's templates ({})", request.chat_template.substr(0, 64),
                                                 names.empty() ? "they have no names" : fmt::format("{}", fmt::join(names, ", "))));
  if (!tools.trust_request_template)
    throw bad_field("chat_template", "templates in requests are refused; the server's --trust-request-chat-template allows them");
  return parse_own(request.chat_template);
}

Prompt make_chat_prompt(const ApiRequest& request, const TextTools& tools) {
  RenderInput input;
  const std::shared_ptr<const ChatTemplate> chat_template = template_of(request, tools, input);
  input.messages_json = request.messages_json;
  input.documents_json = request.documents_json;
  input.kwargs_json = request.kwargs_json;
  input.add_generation_prompt = request.add_generation_prompt;
  input.bos_token = tools.tokenizer->bos_token();
  input.eos_token = tools.tokenizer->eos_token();
  MarkedText text;
  try {
    text = chat_template->render(input);
  } catch (const Error& error) {
    if (chat_template != tools.chat_template) throw bad_field("chat_template", error.what());
    throw bad_field("messages", fmt::format("the chat template refuses them: {}", error.what()));
  }
  // A message that ends so opens nothing: the template must have written the tag.
  const bool opens_thinking = ends_thinking_open(text.text) && !text.trusted.empty() && text.trusted.back().end == text.text.size();
  return {tools.tokenizer->encode(text, request.add_special_tokens.value_or(false), tools.trust_content), {}, opens_thinking};
}

Prompt make_completion_prompt(const ApiRequest& request, const PromptInput& input, const TextTools& tools) {
  Prompt prompt{input.ids, {}};
  if (input.is_text) prompt.ids = tools.tokenizer->encode(input.text, request.add_special_tokens.value_or(true));
  if (request.echo) prompt.text = input.is_text ? input.text : tools.tokenizer->decode(input.ids, request.skip_special_tokens);
  return prompt;
}

std::int32_t resolve_max_tokens(const ApiRequest& request, std::size_t prompt_tokens, std::int32_t max_model_len) {
  const auto room = static_cast<std::int64_t>(max_model_len) - static_cast<std::int64_t>(prompt_tokens);
  const char* field = request.endpoint == Endpoint::kChat ? "messages" : "prompt";
  auto refuse = [&](const std::string& asked) {
    throw ApiError(400,
                   fmt::format("{}: this model's context is {} tokens, but the prompt has {}{}", field, max_model_len,
                               prompt_tokens, asked),
                   field, "context_length_exceeded");
  };
  if (room < 1) refuse(" and leaves no room for an answer");
  if (!request.max_tokens) {
    const std::int64_t wanted = request.endpoint == Endpoint::kChat ? room : kCompletionTokens;
    return static_cast<std::int32_t>(std::min(room, std::max<std::int64_t>(wanted, request.sampling.min_tokens)));
  }
  if (*request.max_tokens > room) refuse(fmt::format(" and max_tokens asks for {}", *request.max_tokens));
  return std::max(1, *request.max_tokens);  // 0 (with echo): the engine draws one, which is dropped
}

}  // namespace

std::size_t text_bytes(const ApiRequest& request) {
  if (is_template_text(request.chat_template)) return std::numeric_limits<std::size_t>::max();
  std::size_t bytes = request.messages_json.size() + request.documents_json.size() + request.kwargs_json.size();
  for (const PromptInput& prompt : request.prompts) bytes += prompt.text.size();
  return bytes;
}

std::vector<Prompt> make_prompts(const ApiRequest& request, const TextTools& tools) {
  const SpanScope span(SpanKind::kTokenize);
  std::vector<Prompt> prompts;
  if (request.endpoint == Endpoint::kChat) {
    prompts.push_back(make_chat_prompt(request, tools));
  } else {
    for (const PromptInput& input : request.prompts) prompts.push_back(make_completion_prompt(request, input, tools));
  }
  for (const Prompt& prompt : prompts)
    if (prompt.ids.empty())
      throw bad_field(request.endpoint == Endpoint::kChat ? "messages" : "prompt", "has no tokens; at least one is needed");
  return prompts;
}

std::vector<TokenId> make_ids(const ApiRequest& request, const TextTools& tools) {
  if (request.endpoint == Endpoint::kChat) return make_chat_prompt(request, tools).ids;
  return make_completion_prompt(request, request.prompts.front(), tools).ids;
}

Request make_engine_request(const ApiRequest& request, const Prompt& prompt, std::int32_t max_model_len, std::uint64_t seed) {
  Request out;
  out.sampling = request.sampling;
  out.sampling.max_tokens = resolve_max_tokens(request, prompt.ids.size(), max_model_len);
  if (out.sampling.min_tokens > out.sampling.max_tokens)
    throw bad_field("min_tokens", fmt::format("{} is more than the {} tokens that the context leaves",
                                              out.sampling.min_tokens, out.sampling.max_tokens));
  out.sampling.seed = request.seed.value_or(seed);
  out.prompt = prompt.ids;
  out.n = request.num_drawn();
  out.priority = request.priority;
  return out;
}

}  // namespace fastgen::server
