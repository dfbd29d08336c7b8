// OpenAI's answer objects as JSON text: chunks of a stream and whole bodies (row 12). Shapes as in
// OpenAI's API reference; token_ids, prompt_token_ids and prompt_logprobs as vLLM adds them. Const after making.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_writer.h"
#include "fastgen/text.h"
#include "server/api_request.h"
#include "server/token_stream.h"

namespace fastgen::server {

struct TokenUsage {
  std::int64_t prompt_tokens = 0;
  std::int64_t completion_tokens = 0;
  std::int64_t cached_tokens = 0;
};

// A part of a choice (a chunk's), or all of it.
struct ChoicePart {
  std::int32_t idx = 0;
  std::string_view text;
  std::string_view reasoning;             // chat only: what was thought before the answer
  std::span<const TokenRecord> echoed;    // the prompt's tokens, when they are part of the answer
  std::span<const TokenRecord> tokens;    // what `text` was made of, and tokens that showed no text
  std::size_t text_offset = 0;            // code points of the choice before this part
  const char* finish_reason = nullptr;
  bool timed_out = false;                 // its request's time was over; says so beside the reason "length"
  bool first = false;                     // of its choice: brings the role, the prompt's ids
  std::span<const TokenId> prompt_ids;    // for return_token_ids, on the first part
  std::span<const TokenRecord> prompt_logprobs;  // asked for by that name; whole bodies only
};

class AnswerWriter {
 public:
  // `created`: seconds since 1970.
  AnswerWriter(const ApiRequest& request, std::shared_ptr<const Tokenizer> tokenizer, std::string id,
               std::string model, std::int64_t created);

  // The frame of a part that is text alone: the constant parts of a chunk stand ready, so that a token costs little more than
  // copying it. Only where is_plain().
  void append_text_chunk(std::string& out, std::int32_t choice_idx, std::string_view text) const;
  bool is_plain() const { return !wants_logprobs_ && !wants_ids_; }
  // An SSE frame. `usage` null: none, or "usage": null where the client asked for a last chunk with it.
  void append_chunk(std::string& out, const ChoicePart& part, const TokenUsage* usage) const;
  // The last chunk of include_usage: no choices.
  void append_usage_chunk(std::string& out, const TokenUsage& usage) const;
  std::string body(std::span<const ChoicePart> choices, const TokenUsage& usage) const;

  // Code points that these tokens add to the text.
  std::size_t text_length(std::span<const TokenRecord> tokens) const;

 private:
  bool chat() const { return endpoint_ == Endpoint::kChat; }
  bool hidden(TokenId id) const { return skip_special_ && tokenizer_->is_special(id); }
  std::string token_name(TokenId id) const;
  std::string completion_token_name(TokenId id) const;
  void write_head(JsonWriter& json, bool chunk) const;
  void write_choice(JsonWriter& json, const ChoicePart& part, bool chunk) const;
  void write_chat_logprobs(JsonWriter& json, const ChoicePart& part) const;
  void write_chat_token(JsonWriter& json, TokenId id, float logprob) const;
  void write_completion_logprobs(JsonWriter& json, const ChoicePart& part) const;
  void write_completion_top(JsonWriter& json, const TokenRecord& token) const;
  void write_prompt_logprobs(JsonWriter& json, std::span<const TokenRecord> tokens) const;
  static void write_usage(JsonWriter& json, const TokenUsage& usage);

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string id_, model_;
  std::string frame_head_, frame_middle_, frame_tail_;  // around choice index and text; see append_text_chunk
  std::int64_t created_ = 0;
  Endpoint endpoint_ = Endpoint::kChat;
  bool wants_logprobs_ = false, wants_ids_ = false, wants_usage_ = false, skip_special_ = true;
  int num_top_ = 0;
};

}  // namespace fastgen::server
