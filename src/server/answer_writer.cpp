#include "server/answer_writer.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>

#include "base/utf8.h"
#include "server/sse.h"

namespace fastgen::server {

namespace {

// JSON has no infinity; OpenAI writes -9999 for a token that cannot be. Not a number (a prompt's first token,
// which nothing predicts) becomes null.
float json_logprob(float logprob) { return logprob == -INFINITY ? -9999.0f : logprob; }

void write_ids(JsonWriter& json, std::string_view name, std::span<const TokenId> ids) {
  json.key(name).begin_array();
  for (TokenId id : ids) json.value(id);
  json.end_array();
}

}  // namespace

AnswerWriter::AnswerWriter(const ApiRequest& request, std::shared_ptr<const Tokenizer> tokenizer, std::string id,
                           std::string model, std::int64_t created)
    : tokenizer_(std::move(tokenizer)),
      id_(std::move(id)),
      model_(std::move(model)),
      created_(created),
      endpoint_(request.endpoint),
      wants_logprobs_(request.wants_logprobs),
      wants_ids_(request.return_token_ids),
      wants_usage_(request.include_usage),
      skip_special_(request.skip_special_tokens),
      num_top_(request.sampling.num_logprobs) {
  frame_head_ = "data: ";
  JsonWriter json(frame_head_);
  json.begin_object();
  write_head(json, true);
  json.key("choices").begin_array().begin_object().key("index");
  frame_middle_ = chat() ? R"(,"delta":{"content":)" : R"(,"text":)";
  frame_tail_ = chat() ? "}" : "";
  frame_tail_ += R"(,"logprobs":null,"finish_reason":null}])";
  frame_tail_ += wants_usage_ ? ",\"usage\":null}\n\n" : "}\n\n";
}

void AnswerWriter::append_text_chunk(std::string& out, std::int32_t choice_idx, std::string_view text) const {
  out += frame_head_;
  fmt::format_to(std::back_inserter(out), "{}", choice_idx);
  out += frame_middle_;
  append_json_string(out, text);
  out += frame_tail_;
}

std::string AnswerWriter::token_name(TokenId id) const {
  return id < tokenizer_->vocab_size() ? tokenizer_->token_bytes(id) : "";
}

// As OpenAI's completions: a token that is no text by itself is written as its bytes.
std::string AnswerWriter::completion_token_name(TokenId id) const {
  std::string bytes = token_name(id);
  if (is_utf8(bytes)) return bytes;
  std::string name = "bytes:";
  for (char c : bytes) name += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return name;
}

std::size_t AnswerWriter::text_length(std::span<const TokenRecord> tokens) const {
  std::size_t length = 0;
  for (const TokenRecord& token : tokens) {
    if (hidden(token.id)) continue;
    const std::string bytes = token_name(token.id);
    // Each character is counted at its first byte, so halves add up.
    length += static_cast<std::size_t>(std::count_if(bytes.begin(), bytes.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  }
  return length;
}

void AnswerWriter::write_head(JsonWriter& json, bool chunk) const {
  json.field("id", id_);
  json.field("object", chat() ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion");
  json.field("created", created_).field("model", model_);
}

void AnswerWriter::append_chunk(std::string& out, const ChoicePart& part, const TokenUsage* usage) const {
  std::string text;
  JsonWriter json(text);
  json.begin_object();
  write_head(json, true);
  if (wants_ids_ && chat() && part.first) write_ids(json, "prompt_token_ids", part.prompt_ids);
  json.key("choices").begin_array();
  write_choice(json, part, true);
  json.end_array();
  if (usage != nullptr) {
    write_usage(json, *usage);
  } else if (wants_usage_) {
    json.key("usage").null();
  }
  json.end_object();
  append_frame(out, text);
}

void AnswerWriter::append_usage_chunk(std::string& out, const TokenUsage& usage) const {
  std::string text;
  JsonWriter json(text);
  json.begin_object();
  write_head(json, true);
  json.key("choices").begin_array().end_array();
  write_usage(json, usage);
  json.end_object();
  append_frame(out, text);
}

std::string AnswerWriter::body(std::span<const ChoicePart> choices, const TokenUsage& usage) const {
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  write_head(json, false);
  json.key("choices").begin_array();
  for (const ChoicePart& part : choices) write_choice(json, part, false);
  json.end_array();
  write_usage(json, usage);
  if (chat()) {
    if (wants_ids_) write_ids(json, "prompt_token_ids", choices[0].prompt_ids);
    if (!choices[0].prompt_logprobs.empty()) write_prompt_logprobs(json, choices[0].prompt_logprobs);
  }
  json.end_object();
  return out;
}

void AnswerWriter::write_choice(JsonWriter& json, const ChoicePart& part, bool chunk) const {
  json.begin_object().field("index", part.idx);
  if (!chat()) {
    json.field("text", part.text);
  } else if (chunk) {
    json.key("delta").begin_object();
    if (part.first) json.field("role", "assistant");
    if (!part.reasoning.empty()) json.field("reasoning_content", part.reasoning);
    const bool says_something = !part.text.empty() || (!part.tokens.empty() && part.reasoning.empty());
    if (part.first || says_something) json.field("content", part.text);
    json.end_object();
  } else {
    json.key("message").begin_object().field("role", "assistant");
    if (!part.reasoning.empty()) json.field("reasoning_content", part.reasoning);
    json.field("content", part.text);
    json.key("refusal").null().end_object();
  }
  json.key("logprobs");
  if (!wants_logprobs_ || (chunk && part.tokens.empty() && part.echoed.empty())) {
    json.null();
  } else if (chat()) {
    write_chat_logprobs(json, part);
  } else {
    write_completion_logprobs(json, part);
  }
  json.key("finish_reason");
  part.finish_reason != nullptr ? json.value(part.finish_reason) : json.null();
  if (part.timed_out) json.field("stop_reason", "timeout");
  if (wants_ids_) {
    json.key("token_ids").begin_array();
    for (const TokenRecord& token : part.tokens) json.value(token.id);
    json.end_array();
    if (!chat() && part.first) write_ids(json, "prompt_token_ids", part.prompt_ids);
  }
  if (!chat() && !part.prompt_logprobs.empty()) write_prompt_logprobs(json, part.prompt_logprobs);
  json.end_object();
}

// ---- logprobs

void AnswerWriter::write_chat_token(JsonWriter& json, TokenId id, float logprob) const {
  const std::string bytes = token_name(id);
  json.field("token", bytes).field("logprob", json_logprob(logprob)).key("bytes");
  if (hidden(id)) {  // no bytes of the text are its own
    json.null();
    return;
  }
  json.begin_array();
  for (char c : bytes) json.value(static_cast<int>(static_cast<unsigned char>(c)));
  json.end_array();
}

void AnswerWriter::write_chat_logprobs(JsonWriter& json, const ChoicePart& part) const {
  json.begin_object().key("content").begin_array();
  for (const TokenRecord& token : part.tokens) {
    json.begin_object();
    write_chat_token(json, token.id, token.logprob);
    json.key("top_logprobs").begin_array();
    for (const TopLogprob& top : token.top) {
      json.begin_object();
      write_chat_token(json, top.id, top.logprob);
      json.end_object();
    }
    json.end_array().end_object();
  }
  json.end_array().key("refusal").null().end_object();
}

// The most likely tokens, and the token itself where it is not one of them.
void AnswerWriter::write_completion_top(JsonWriter& json, const TokenRecord& token) const {
  if (std::isnan(token.logprob)) {
    json.null();
    return;
  }
  std::vector<std::pair<std::string, float>> entries;
  auto add = [&](TokenId id, float logprob) {
    std::string name = completion_token_name(id);
    for (const auto& entry : entries)
      if (entry.first == name) return;  // keys of one object differ, so the more likely token keeps the name
    entries.emplace_back(std::move(name), logprob);
  };
  // The echoed prompt may carry more alternatives than the answer asked for (prompt_logprobs).
  for (const TopLogprob& top : std::span(token.top).first(std::min<std::size_t>(token.top.size(), static_cast<std::size_t>(num_top_))))
    add(top.id, top.logprob);
  add(token.id, token.logprob);
  json.begin_object();
  for (const auto& [name, logprob] : entries) json.field(name, json_logprob(logprob));
  json.end_object();
}

void AnswerWriter::write_completion_logprobs(JsonWriter& json, const ChoicePart& part) const {
  auto each = [&](std::string_view name, auto&& write) {
    json.key(name).begin_array();
    for (const TokenRecord& token : part.echoed) write(token);
    for (const TokenRecord& token : part.tokens) write(token);
    json.end_array();
  };
  json.begin_object();
  each("tokens", [&](const TokenRecord& token) { json.value(completion_token_name(token.id)); });
  each("token_logprobs", [&](const TokenRecord& token) { json.value(json_logprob(token.logprob)); });
  each("top_logprobs", [&](const TokenRecord& token) { write_completion_top(json, token); });
  std::size_t offset = part.text_offset;
  each("text_offset", [&](const TokenRecord& token) {
    json.value(offset);
    offset += text_length({&token, 1});
  });
  json.end_object();
}

// vLLM's: for each token an object from ids to logprob, rank and text; the first is null.
void AnswerWriter::write_prompt_logprobs(JsonWriter& json, std::span<const TokenRecord> tokens) const {
  json.key("prompt_logprobs").begin_array();
  for (const TokenRecord& token : tokens) {
    if (std::isnan(token.logprob)) {
      json.null();
      continue;
    }
    json.begin_object();
    auto add = [&](TokenId id, float logprob, std::size_t rank) {
      json.key(fmt::format("{}", id)).begin_object().field("logprob", json_logprob(logprob));
      json.key("rank");
      rank > 0 ? json.value(rank) : json.null();
      json.field("decoded_token", token_name(id)).end_object();
    };
    bool listed = false;
    for (std::size_t i = 0; i < token.top.size(); ++i) {
      listed |= token.top[i].id == token.id;
      add(token.top[i].id, token.top[i].logprob, i + 1);
    }
    if (!listed) add(token.id, token.logprob, 0);
    json.end_object();
  }
  json.end_array();
}

void AnswerWriter::write_usage(JsonWriter& json, const TokenUsage& usage) {
  json.key("usage").begin_object();
  json.field("prompt_tokens", usage.prompt_tokens).field("completion_tokens", usage.completion_tokens);
  json.field("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  json.key("prompt_tokens_details").begin_object().field("cached_tokens", usage.cached_tokens).end_object();
  json.end_object();
}

}  // namespace fastgen::server
