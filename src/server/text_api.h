// POST /tokenize and /detokenize, in vLLM's shapes: what a prompt becomes, and back.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/api_request.h"
#include "server/prompts.h"

namespace fastgen::server {

struct TokenizeRequest {
  ApiRequest api;  // one prompt, or a chat's messages
  bool wants_strings = false;
};

// Throw ApiError 400 naming the field.
TokenizeRequest parse_tokenize(std::string_view body);
std::vector<TokenId> parse_detokenize(std::string_view body, std::int32_t vocab);

// {"count":2,"max_model_len":8192,"tokens":[1,2],"token_strs":["a","b"]}
std::string tokenize_body(const TokenizeRequest& request, const std::vector<TokenId>& ids, const Tokenizer& tokenizer, std::int32_t max_model_len);
// {"prompt":"ab"}
std::string detokenize_body(const std::vector<TokenId>& ids, const Tokenizer& tokenizer);

}  // namespace fastgen::server
