// The rounds of a chat, and the prompt that they make.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "fastgen/text.h"

namespace fastgen {

// A round is what the user said and what was answered. The open round, the last, has no answer yet.
class Conversation {
 public:
  // Without a template (a base model) the texts just follow each other, as one text to go on with.
  Conversation(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const ChatTemplate> chat_template,
               std::string system);

  std::size_t next_round() const { return rounds_.size() + 1; }  // counted from 1
  void ask(std::string question);                                // opens a round
  void answer(std::string text);                                 // ends the open round
  void go_back_to(std::size_t round);                            // forgets it and all after it; 1 <= round

  // The prompt for the open round. Throws Error if the template refuses.
  std::vector<TokenId> prompt_ids() const;

 private:
  struct Round {
    std::string question;
    std::string answer;
    bool is_open = true;
  };
  std::string messages_json() const;
  std::string plain_text() const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const ChatTemplate> template_;  // may be null
  std::string system_;
  std::vector<Round> rounds_;
};

}  // namespace fastgen
