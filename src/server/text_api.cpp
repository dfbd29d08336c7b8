#include "server/text_api.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/json_writer.h"
#include "server/chat_messages.h"
#include "server/json_fields.h"

namespace fastgen::server {

namespace {

void read_chat_field(std::string_view key, const JsonField& field, ApiRequest& api) {
  if (key == "messages") {
    api.messages_json = read_messages(field);
  } else if (key == "add_generation_prompt") {
    api.add_generation_prompt = field.boolean();
  } else if (key == "chat_template") {
    api.chat_template = read_chat_template(field);
  } else if (key == "chat_template_kwargs") {
    static_cast<void>(field.members());
    api.kwargs_json = field.raw();
  } else if (key == "continue_final_message" && field.boolean()) {
    field.refuse("is not supported by this server");
  } else if (key == "tools" && !(field.is_array() && field.value.get_array().value().size() == 0)) {
    field.refuse("is not supported by this server");
  }
}

}  // namespace

TokenizeRequest parse_tokenize(std::string_view body) {
  simdjson::dom::parser parser;
  TokenizeRequest request;
  ApiRequest& api = request.api;
  for (const auto& [key, field] : parse_object(parser, body)) {
    if (field.is_null()) continue;
    if (key == "model") {
      api.model = field.string();
    } else if (key == "prompt") {
      api.prompts = {{std::string(field.string()), {}, true}};
    } else if (key == "add_special_tokens") {
      api.add_special_tokens = field.boolean();
    } else if (key == "return_token_strs") {
      request.wants_strings = field.boolean();
    } else {
      read_chat_field(key, field, api);
    }
  }
  if (api.prompts.empty() == api.messages_json.empty()) throw bad_field("prompt", "either prompt or messages is required");
  api.endpoint = api.prompts.empty() ? Endpoint::kChat : Endpoint::kCompletions;
  return request;
}

std::vector<TokenId> parse_detokenize(std::string_view body, std::int32_t vocab) {
  simdjson::dom::parser parser;
  std::vector<TokenId> ids;
  bool has_tokens = false;
  for (const auto& [key, field] : parse_object(parser, body)) {
    if (key == "model" && !field.is_null()) static_cast<void>(field.string());
    if (key != "tokens") continue;
    ids = field.token_ids();
    has_tokens = true;
    const auto bad = std::find_if(ids.begin(), ids.end(), [&](TokenId id) { return id >= vocab; });
    if (bad != ids.end()) throw bad_field("tokens", fmt::format("token id {} is not in [0, {})", *bad, vocab));
  }
  if (!has_tokens) throw bad_field("tokens", "is required");
  return ids;
}

std::string tokenize_body(const TokenizeRequest& request, const std::vector<TokenId>& ids, const Tokenizer& tokenizer, std::int32_t max_model_len) {
  std::string out;
  JsonWriter json(out);
  json.begin_object().field("count", ids.size()).field("max_model_len", max_model_len).key("tokens").begin_array();
  for (TokenId id : ids) json.value(id);
  json.end_array().key("token_strs");
  if (request.wants_strings) {
    json.begin_array();
    for (TokenId id : ids) json.value(tokenizer.token_bytes(id));
    json.end_array();
  } else {
    json.null();
  }
  json.end_object();
  return out;
}

std::string detokenize_body(const std::vector<TokenId>& ids, const Tokenizer& tokenizer) {
  std::string out;
  JsonWriter(out).begin_object().field("prompt", tokenizer.decode(ids)).end_object();
  return out;
}

}  // namespace fastgen::server
