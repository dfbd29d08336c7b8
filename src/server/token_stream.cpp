#include "server/token_stream.h"

#include <algorithm>

namespace fastgen::server {

TokenStream::TokenStream(std::shared_ptr<const Tokenizer> tokenizer, Options options)
    : text_(std::move(tokenizer), options.text),
      end_ids_(std::move(options.end_ids)),
      include_stop_(options.text.include_stop) {}

std::string TokenStream::push(TokenId id) {
  if (std::binary_search(end_ids_.begin(), end_ids_.end(), id)) {
    ended_ = true;
    return include_stop_ ? text_.push(id) : "";
  }
  std::string text = text_.push(id);
  if (ended_by_text()) ended_ = true;
  return text;
}

std::string TokenStream::finish() { return ended_by_text() ? "" : text_.finish(); }

}  // namespace fastgen::server
