// One choice's tokens on their way to text: what is shown, what is reported, where it ends (row 11).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fastgen/text.h"
#include "fastgen/types.h"

namespace fastgen::server {

struct TokenRecord {
  TokenId id = 0;
  float logprob = 0;
  std::vector<TopLogprob> top;
};

// Not thread-safe. Tokens after the end (the engine runs ahead) are ignored by the caller asking ended().
class TokenStream {
 public:
  struct Options {
    TextStream::Options text;
    std::vector<TokenId> end_ids;  // sorted; they end the choice and their text is hidden unless text.include_stop
  };
  TokenStream(std::shared_ptr<const Tokenizer> tokenizer, Options options);

  // Text that is now certain. Not after ended().
  std::string push(TokenId id);
  // What was held back; once.
  std::string finish();
  // A stop string or an end id came.
  bool ended() const { return ended_; }
  // A stop string ended it: the engine does not know yet.
  bool ended_by_text() const { return text_.stop_idx().has_value(); }

 private:
  TextStream text_;
  std::vector<TokenId> end_ids_;
  bool include_stop_ = false;
  bool ended_ = false;
};

}  // namespace fastgen::server
