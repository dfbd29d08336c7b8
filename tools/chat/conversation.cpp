#include "chat/conversation.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/json_writer.h"

namespace fastgen {

Conversation::Conversation(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const ChatTemplate> chat_template,
                           std::string system)
    : tokenizer_(std::move(tokenizer)), template_(std::move(chat_template)), system_(std::move(system)) {}

void Conversation::ask(std::string question) { rounds_.push_back({.question = std::move(question)}); }

void Conversation::answer(std::string text) {
  FG_CHECK(!rounds_.empty() && rounds_.back().is_open);
  rounds_.back().answer = std::move(text);
  rounds_.back().is_open = false;
}

void Conversation::go_back_to(std::size_t round) {
  FG_CHECK(round >= 1, round);
  rounds_.resize(std::min(rounds_.size(), round - 1));
}

std::vector<TokenId> Conversation::prompt_ids() const {
  if (!template_) return tokenizer_->encode(plain_text(), /*add_special=*/true, SpecialText::kAsText);
  const MarkedText prompt = template_->render({.messages_json = messages_json(),
                                               .bos_token = tokenizer_->bos_token(),
                                               .eos_token = tokenizer_->eos_token()});
  return tokenizer_->encode(prompt);
}

std::string Conversation::messages_json() const {
  std::string text;
  JsonWriter json(text);
  const auto message = [&json](const char* role, const std::string& content) {
    json.begin_object().field("role", role).field("content", content).end_object();
  };
  json.begin_array();
  if (!system_.empty()) message("system", system_);
  for (const Round& round : rounds_) {
    message("user", round.question);
    if (!round.is_open) message("assistant", round.answer);
  }
  json.end_array();
  return text;
}

std::string Conversation::plain_text() const {
  std::string text = system_;
  for (const Round& round : rounds_) text += round.question + round.answer;
  return text;
}

}  // namespace fastgen
