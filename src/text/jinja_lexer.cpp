#include "text/jinja_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "text/jinja_limits.h"
#include "text/jinja_text.h"

namespace fastgen::jinja {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool is_name_char(char c) { return is_name_start(c) || is_digit(c); }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

// All line ends become \n, and one at the very end goes, as Jinja2 does.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    bool cr = source[i] == '\r';
    if (cr && i + 1 < source.size() && source[i + 1] == '\n') ++i;
    out += cr ? '\n' : source[i];
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)), src_(source_) {}

  std::vector<Token> run() {
    while (pos_ < src_.size()) lex_data();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void error(const std::string& message) const { throw SyntaxError{line_, message}; }
  bool at(std::string_view what) const { return src_.substr(pos_, what.size()) == what; }
  char peek(std::size_t ahead = 0) const { return pos_ + ahead < src_.size() ? src_[pos_ + ahead] : '\0'; }
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  void move_to(std::size_t pos) {
    line_ += static_cast<int>(std::count(src_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                         src_.begin() + static_cast<std::ptrdiff_t>(pos), '\n'));
    pos_ = pos;
  }
  void skip_space() { move_to(pos_ + stripped(src_.substr(pos_), true, false).begin); }

  // The next "{{", "{%" or "{#" at or after the position.
  std::size_t find_tag() const {
    for (std::size_t at = src_.find('{', pos_); at != src_.npos; at = src_.find('{', at + 1)) {
      char next = at + 1 < src_.size() ? src_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return src_.npos;
  }

  // What stays of the text before a tag: "-" takes all white space, lstrip_blocks the indentation of
  // its line, "+" nothing.
  std::string_view before_tag(std::string_view text, char sign, bool is_output) const {
    if (sign == '-') return text.substr(0, stripped(text, false, true).end);
    if (sign == '+' || is_output) return text;
    std::size_t line = text.rfind('\n') + 1;
    if (line == 0 && !line_starting_) return text;
    return stripped(text.substr(line)).begin + line == text.size() ? text.substr(0, line) : text;
  }

  // The end of a block or comment of `size` bytes was read: "-" takes the white space behind it,
  // trim_blocks the newline.
  void after_tag(std::size_t size, char sign) {
    move_to(pos_ + size);
    if (sign == '-')
      skip_space();
    else if (sign != '+' && peek() == '\n')
      move_to(pos_ + 1);
    line_starting_ = pos_ > 0 && src_[pos_ - 1] == '\n';
  }

  void add_data(std::string_view text) {
    if (!text.empty()) add(TokenKind::kData, std::string(text));
  }

  void lex_data() {
    std::size_t tag = find_tag();
    if (tag == src_.npos) {
      add_data(src_.substr(pos_));
      return move_to(src_.size());
    }
    char kind = src_[tag + 1];
    char sign = tag + 2 < src_.size() ? src_[tag + 2] : '\0';
    bool has_sign = sign == '-' || sign == '+';
    add_data(before_tag(src_.substr(pos_, tag - pos_), sign, kind == '{'));
    move_to(tag + 2 + has_sign);
    if (kind == '#') return skip_comment();
    if (kind == '%' && lex_raw()) return;
    lex_tag(kind == '{');
  }

  void skip_comment() {
    std::size_t end = src_.find("#}", pos_);
    if (end == src_.npos) error("Missing end of comment tag");
    char sign = end > pos_ ? src_[end - 1] : '\0';
    move_to(end);
    after_tag(2, sign);
  }

  // At "{%": reads "raw %}...{% endraw %}" if that is what stands here.
  bool lex_raw() {
    std::size_t at = pos_ + stripped(src_.substr(pos_), true, false).begin;
    if (src_.substr(at, 3) != "raw") return false;
    at += 3;
    at += stripped(src_.substr(at), true, false).begin;
    bool strip = at < src_.size() && src_[at] == '-';
    if (src_.substr(at + strip, 2) != "%}") return false;
    move_to(at + strip + 2);
    line_starting_ = pos_ > 0 && src_[pos_ - 1] == '\n';
    if (strip) skip_space();
    lex_raw_text();
    return true;
  }

  void lex_raw_text() {
    for (std::size_t tag = src_.find("{%", pos_); tag != src_.npos; tag = src_.find("{%", tag + 2)) {
      std::size_t at = tag + 2;
      char sign = at < src_.size() ? src_[at] : '\0';
      if (sign == '-' || sign == '+') ++at;
      at += stripped(src_.substr(at), true, false).begin;
      if (src_.substr(at, 6) != "endraw") continue;
      at += 6;
      at += stripped(src_.substr(at), true, false).begin;
      char end_sign = at < src_.size() ? src_[at] : '\0';
      if (end_sign == '-' || end_sign == '+') ++at;
      if (src_.substr(at, 2) != "%}") continue;
      add_data(before_tag(src_.substr(pos_, tag - pos_), sign, false));
      move_to(at);
      return after_tag(2, end_sign);
    }
    error("Missing end of raw directive");
  }

  void lex_tag(bool is_output) {
    add(is_output ? TokenKind::kOutputBegin : TokenKind::kBlockBegin, is_output ? "{{" : "{%");
    std::string_view close = is_output ? "}}" : "%}";
    brackets_.clear();
    for (;;) {
      skip_space();
      if (pos_ >= src_.size())
        return;  // the parser sees the end of the template where it wants the end of the tag
      if (brackets_.empty() && lex_tag_end(close, is_output)) return;
      lex_token();
    }
  }

  bool lex_tag_end(std::string_view close, bool is_output) {
    char sign = peek();
    bool has_sign = sign == '-' || (sign == '+' && !is_output);
    if (src_.substr(pos_ + has_sign, 2) != close) return false;
    add(is_output ? TokenKind::kOutputEnd : TokenKind::kBlockEnd, std::string(close));
    move_to(pos_ + has_sign);
    after_tag(2, is_output && !has_sign ? '+' : sign);  // trim_blocks leaves the newline behind {{ }}
    return true;
  }

  void lex_token() {
    char c = peek();
    if (is_digit(c)) return lex_number();
    if (is_name_start(c)) return lex_name();
    if (c == '\'' || c == '"') return lex_string(c);
    lex_operator();
  }

  void lex_name() {
    std::size_t end = pos_;
    while (end < src_.size() && is_name_char(src_[end])) ++end;
    add(TokenKind::kName, std::string(src_.substr(pos_, end - pos_)));
    move_to(end);
  }

  // Digits with single underscores between them.
  std::size_t digits_end(std::size_t at, bool (*is_one)(char)) const {
    while (at < src_.size() &&
           (is_one(src_[at]) || (src_[at] == '_' && at + 1 < src_.size() && is_one(src_[at + 1]))))
      ++at;
    return at;
  }

  void lex_number() {
    char base = peek() == '0' ? static_cast<char>(peek(1) | 0x20) : '\0';
    bool (*is_one)(char) = base == 'x'   ? is_hex
                           : base == 'o' ? +[](char c) { return c >= '0' && c <= '7'; }
                           : base == 'b' ? +[](char c) { return c == '0' || c == '1'; }
                                         : nullptr;
    if (is_one && digits_end(pos_ + 2, is_one) > pos_ + 2)
      return add_number(TokenKind::kInteger, digits_end(pos_ + 2, is_one));
    std::size_t end = digits_end(pos_, is_digit);
    TokenKind kind = TokenKind::kInteger;
    if (end + 1 < src_.size() && src_[end] == '.' && is_digit(src_[end + 1])) {
      kind = TokenKind::kFloat;
      end = digits_end(end + 1, is_digit);
    }
    if (end < src_.size() && (src_[end] | 0x20) == 'e') {
      std::size_t exponent = end + 1;
      if (exponent < src_.size() && (src_[exponent] == '+' || src_[exponent] == '-')) ++exponent;
      if (exponent < src_.size() && is_digit(src_[exponent])) {
        kind = TokenKind::kFloat;
        end = digits_end(exponent, is_digit);
      }
    }
    add_number(kind, end);
  }

  void add_number(TokenKind kind, std::size_t end) {
    std::string digits(src_.substr(pos_, end - pos_));
    std::erase(digits, '_');
    add(kind, std::move(digits));
    move_to(end);
  }

  void lex_string(char quote) {
    std::size_t end = pos_ + 1;
    while (end < src_.size() && src_[end] != quote) end += src_[end] == '\\' ? 2 : 1;
    if (end >= src_.size())
      error(fmt::format("unexpected char {} at {}", quote == '"' ? "'\"'" : "\"'\"", pos_));
    add(TokenKind::kString, unescape(src_.substr(pos_ + 1, end - pos_ - 1)));
    move_to(end + 1);
  }

  // Python's escapes; an unknown one stays as it is, backslash included.
  std::string unescape(std::string_view s) const {
    static constexpr std::string_view kFrom = "\\'\"abfnrtv";
    static constexpr std::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
    std::string out;
    for (std::size_t i = 0; i < s.size(); ++i) {
      if (s[i] != '\\' || i + 1 == s.size()) {
        out += s[i];
        continue;
      }
      char c = s[++i];
      if (std::size_t known = kFrom.find(c); known != kFrom.npos)
        out += kTo[known];
      else if (c == 'x' || c == 'u' || c == 'U')
        append_utf8(out, hex_escape(s, i));
      else if (c >= '0' && c <= '7')
        append_utf8(out, octal_escape(s, i));
      else if (c != '\n')
        (out += '\\') += c;
    }
    return out;
  }

  char32_t hex_escape(std::string_view s, std::size_t& i) const {
    std::size_t digits = s[i] == 'x' ? 2 : s[i] == 'u' ? 4 : 8;
    std::string_view hex = s.substr(i + 1, digits);
    if (hex.size() < digits || !std::all_of(hex.begin(), hex.end(), is_hex))
      error("truncated escape in a string");
    i += digits;
    auto code = static_cast<char32_t>(std::stoul(std::string(hex), nullptr, 16));
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) error("illegal Unicode character in a string");
    return code;
  }

  static char32_t octal_escape(std::string_view s, std::size_t& i) {
    char32_t code = 0;
    std::size_t end = std::min(i + 3, s.size());
    std::size_t at = i;
    for (; at < end && s[at] >= '0' && s[at] <= '7'; ++at)
      code = code * 8 + static_cast<char32_t>(s[at] - '0');
    i = at - 1;
    return code;
  }

  void lex_operator() {
    static constexpr std::array<std::string_view, 27> kOperators = {
        "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "<", ">",
        "=",  "(",  ")",  "[",  "]",  "{",  "}", ",", ".", ":", "|", ";", "!"};
    auto it = std::find_if(kOperators.begin(), kOperators.end(), [&](std::string_view op) { return at(op); });
    if (it == kOperators.end() || *it == "!") error(fmt::format("unexpected char '{}' at {}", peek(), pos_));
    balance((*it)[0]);
    add(TokenKind::kOperator, std::string(*it));
    move_to(pos_ + it->size());
  }

  // Inside of brackets, "}}" and "%}" do not end the tag.
  void balance(char c) {
    if (c == '(') brackets_ += ')';
    if (c == '[') brackets_ += ']';
    if (c == '{') brackets_ += '}';
    if (c != ')' && c != ']' && c != '}') return;
    if (brackets_.empty()) error(fmt::format("unexpected '{}'", c));
    if (brackets_.back() != c) error(fmt::format("unexpected '{}', expected '{}'", c, brackets_.back()));
    brackets_.pop_back();
  }

  std::string source_;
  std::string_view src_;
  std::size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the text before the next tag begins a line
  std::string brackets_;       // closing ones that are due
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(std::string_view source) {
  if (source.size() > kMaxSource) throw SyntaxError{1, "the template is longer than 1 MiB"};
  if (!is_utf8(source)) throw SyntaxError{1, "the template is not valid UTF-8"};
  return Lexer(source).run();
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "end of template";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kOutputEnd:
      return "end of print statement";
    case TokenKind::kData:
      return "template data / text";
    default:
      return token.text;
  }
}

}  // namespace fastgen::jinja
