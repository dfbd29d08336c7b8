// The added tokens of tokenizer.json ("<|im_end|>"): found in the text before anything is cut or merged.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fastgen/types.h"
#include "text/marked_piece.h"

namespace fastgen {

struct AddedToken {
  TokenId id = 0;
  std::string content;       // as it is in the file
  std::string match;         // what is looked for: content, put through the normalizer if `normalized`
  bool special = false;      // left out by skip_special
  bool normalized = false;   // looked for in normalized text, after the others
  bool single_word = false;  // not within a longer word
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it

  // Control tokens match only in trusted text. Runs of white space that a tokenizer added for brevity control
  // nothing.
  bool is_control() const;
};

// Finds one set of tokens by a trie: leftmost, then longest. Const after construction and safe to share.
class AddedTokenFinder {
 public:
  // `tokens` must outlive the finder; those with the given `normalized` and a match that is not empty are
  // looked for.
  AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized);

  struct Segment {
    MarkedPiece piece;
    TokenId id = -1;  // -1: text between tokens
  };
  // Appends the segments of `piece` (valid UTF-8) to `out`, none empty.
  void split(const MarkedPiece& piece, std::vector<Segment>& out) const;

 private:
  struct Node {
    unsigned char byte = 0;
    std::int32_t child = -1, sibling = -1;
    std::int32_t token_idx = -1;  // of the token that ends here
  };
  void insert(std::string_view text, std::int32_t token_idx);
  std::int32_t child_of(std::int32_t node, unsigned char byte) const;
  const AddedToken* longest_at(const MarkedPiece& piece, std::size_t at) const;

  const std::vector<AddedToken>& tokens_;
  std::vector<Node> nodes_;
  std::array<std::int32_t, 256> roots_;  // node of each first byte, or -1
  bool empty_ = true;
};

}  // namespace fastgen
