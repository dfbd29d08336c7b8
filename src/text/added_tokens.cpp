#include "text/added_tokens.h"

#include <algorithm>

#include "text/char_class.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

std::size_t last_char(std::string_view text, std::size_t end) {
  do --end;
  while (is_utf8_continuation(text[end]));
  return end;
}

// Letters, digits, marks and connectors, nearly \w.
bool is_word_char(char32_t code) {
  return (char_class(code) & (kLetter | kNumber)) != 0 || code == '_' ||
         (code >= 128 && char_class(code) == kOtherChar && !is_punctuation(code));
}

std::size_t spaces_before(std::string_view text, std::size_t begin, std::size_t limit) {
  while (begin > limit) {
    std::size_t last = last_char(text, begin);
    if (!is_white_space(decode_utf8(&text[last]).code)) break;
    begin = last;
  }
  return begin;
}

std::size_t spaces_after(std::string_view text, std::size_t end) {
  while (end < text.size()) {
    Utf8Char c = decode_utf8(&text[end]);
    if (!is_white_space(c.code)) break;
    end += c.bytes;
  }
  return end;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  bool left = begin == 0 || !is_word_char(decode_utf8(&text[last_char(text, begin)]).code);
  return left && (end == text.size() || !is_word_char(decode_utf8(&text[end]).code));
}

}  // namespace

bool AddedToken::is_control() const {
  if (special) return true;
  for (std::size_t at = 0; at < content.size();) {
    Utf8Char c = decode_utf8(&content[at]);
    if (!is_white_space(c.code)) return true;
    at += c.bytes;
  }
  return false;
}

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized) : tokens_(tokens) {
  roots_.fill(-1);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].normalized != normalized || tokens[i].match.empty()) continue;
    insert(tokens[i].match, static_cast<std::int32_t>(i));
    empty_ = false;
  }
}

void AddedTokenFinder::insert(std::string_view text, std::int32_t token_idx) {
  std::int32_t node = -1;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    std::int32_t next = node < 0 ? roots_[byte] : child_of(node, byte);
    if (next < 0) {
      next = static_cast<std::int32_t>(nodes_.size());
      nodes_.push_back({.byte = byte, .sibling = node < 0 ? -1 : nodes_[node].child});
      (node < 0 ? roots_[byte] : nodes_[node].child) = next;
    }
    node = next;
  }
  if (nodes_[node].token_idx < 0) nodes_[node].token_idx = token_idx;  // of equal texts the first counts
}

std::int32_t AddedTokenFinder::child_of(std::int32_t node, unsigned char byte) const {
  std::int32_t child = nodes_[node].child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
  return child;
}

const AddedToken* AddedTokenFinder::longest_at(const MarkedPiece& piece, std::size_t at) const {
  const AddedToken* longest = nullptr;
  bool trusted = true;
  std::int32_t node = roots_[static_cast<unsigned char>(piece.text[at])];
  for (std::size_t i = at; node >= 0; node = child_of(node, static_cast<unsigned char>(piece.text[i]))) {
    trusted = trusted && piece.trusted(i++);
    std::int32_t found = nodes_[node].token_idx;
    if (found >= 0 && (trusted || !tokens_[found].is_control())) longest = &tokens_[found];
    if (i == piece.text.size()) break;
  }
  return longest;
}

void AddedTokenFinder::split(const MarkedPiece& piece, std::vector<Segment>& out) const {
  std::string_view text = piece.text;
  std::size_t done = 0;
  for (std::size_t at = 0; !empty_ && at < text.size();) {
    const AddedToken* token = longest_at(piece, at);
    if (!token) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + token->match.size();
    at = end;
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (token->lstrip) begin = spaces_before(text, begin, done);
    if (token->rstrip) end = spaces_after(text, end);
    begin = std::max(begin, done);
    if (begin >= end) continue;
    if (done < begin) out.push_back({piece.sub(done, begin), -1});
    out.push_back({piece.sub(begin, end), token->id});
    done = end;
  }
  if (done < text.size()) out.push_back({piece.sub(done, text.size()), -1});
}

}  // namespace fastgen
