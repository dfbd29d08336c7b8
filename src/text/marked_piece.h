// Text on its way through the tokenizer: a view that may carry which of its bytes are trusted.
#pragma once

#include <deque>
#include <string>
#include <string_view>

namespace fastgen {

// Owns rewritten text while one encode call runs; its strings never move.
using TextArena = std::deque<std::string>;

struct MarkedPiece {
  std::string_view text;
  std::string_view trust;  // empty: every byte is trusted; else as long as text, '\1' where trusted
  bool at_start = false;   // begins where the whole input begins

  bool trusted(std::size_t at) const { return trust.empty() || trust[at] != '\0'; }
  MarkedPiece sub(std::size_t begin, std::size_t end) const {
    return {text.substr(begin, end - begin), trust.empty() ? trust : trust.substr(begin, end - begin),
            at_start && begin == 0};
  }
};

// Builds the rewritten form of a piece from left to right. What replaces bytes is trusted where all of them
// were.
class PieceRewriter {
 public:
  explicit PieceRewriter(const MarkedPiece& in) : in_(in) { text_.reserve(in.text.size() + 16); }

  void keep(std::size_t begin, std::size_t end) {
    text_ += in_.text.substr(begin, end - begin);
    if (!in_.trust.empty()) trust_ += in_.trust.substr(begin, end - begin);
  }
  // `text` stands for bytes [begin, end); an insertion (begin == end) is nobody's and not trusted.
  void put(std::size_t begin, std::size_t end, std::string_view text) {
    text_ += text;
    if (in_.trust.empty()) return;
    bool trusted = begin < end && in_.trust.substr(begin, end - begin).find('\0') == std::string_view::npos;
    trust_.append(text.size(), trusted ? '\1' : '\0');
  }
  MarkedPiece finish(TextArena& arena) {
    std::string_view text = arena.emplace_back(std::move(text_));
    // An empty mask would read as all trusted, which is right for a text without bytes.
    std::string_view trust = in_.trust.empty() ? std::string_view() : arena.emplace_back(std::move(trust_));
    return {text, trust, in_.at_start};
  }

 private:
  const MarkedPiece& in_;
  std::string text_, trust_;
};

}  // namespace fastgen
