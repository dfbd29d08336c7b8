// Template source to tokens: text between tags is one token, tags are cut into names, numbers, strings and
// operators. White space control is decided here: trim_blocks and lstrip_blocks are on, as in transformers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fastgen::jinja {

enum class TokenKind : std::uint8_t {
  kData,        // text of the template
  kBlockBegin,  // {%
  kBlockEnd,
  kOutputBegin,  // {{
  kOutputEnd,
  kName,
  kString,  // text: unescaped
  kInteger,
  kFloat,
  kOperator,  // text: the operator itself, "**" or "("
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 0;
  std::string text;
};

// A mistake in a template's source; the border adds the template's name.
struct SyntaxError {
  int line = 0;
  std::string message;
};

// The last token is kEnd. Throws SyntaxError.
std::vector<Token> lex(std::string_view source);

// How messages name a token.
std::string describe(const Token& token);

}  // namespace fastgen::jinja
