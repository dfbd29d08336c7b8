// From a parsed request to what the engine takes: template, token ids, lengths (row 4 of a request's life).
// Everything here is const and runs on an io thread or, for long prompts, on a text thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fastgen/engine.h"
#include "fastgen/text.h"
#include "server/api_request.h"

namespace fastgen::server {

struct TextTools {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null: chat requests are refused
  bool trust_content = false;  // control tokens in messages count as such
  bool split_reasoning = false;  // thinking goes to reasoning_content
  bool trust_request_template = false;  // requests may bring templates of their own
};

struct Prompt {
  std::vector<TokenId> ids;  // not empty
  std::string text;          // only with echo
  bool opens_thinking = false;  // it ends with the template's <think>
};

// Bytes of text that will be rendered and tokenized. A template of the request's own counts as endless: it may loop.
std::size_t text_bytes(const ApiRequest& request);

// One for each prompt of the request. Throws ApiError.
std::vector<Prompt> make_prompts(const ApiRequest& request, const TextTools& tools);

// The ids of the first prompt alone, which may be none.
std::vector<TokenId> make_ids(const ApiRequest& request, const TextTools& tools);

// The engine's request for one prompt, without tag and ring. `seed` counts where the client gave none. Throws
// ApiError with code context_length_exceeded where prompt and max_tokens do not fit max_model_len.
Request make_engine_request(const ApiRequest& request, const Prompt& prompt, std::int32_t max_model_len, std::uint64_t seed);

}  // namespace fastgen::server
