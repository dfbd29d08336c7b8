#include "text/jinja_cutting.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace fastgen::jinja {

namespace {

bool is_one_of(std::string_view chars, char32_t c) {
  for (std::size_t pos = 0; pos < chars.size();)
    if (next_code_point(chars, pos) == c) return true;
  return false;
}

ByteRange stripped_of(std::string_view s, std::string_view chars, bool left, bool right) {
  std::size_t begin = 0;
  std::size_t end = s.size();
  auto is_chars = [&](std::size_t pos) {
    charge_steps(1 + chars.size() / 64);
    return is_one_of(chars, next_code_point(s, pos));
  };
  auto last_begin = [&] {
    std::size_t at = end - 1;
    while (at > begin && (static_cast<unsigned char>(s[at]) & 0xC0) == 0x80) --at;
    return at;
  };
  while (left && begin < end && is_chars(begin)) next_code_point(s, begin);
  while (right && begin < end && is_chars(last_begin())) end = last_begin();
  return {begin, end};
}

Value strip_sides(const Value& self, Args& args, const char* name, bool left, bool right) {
  auto bound = bind(args, name, {"chars"});
  charge_steps(self.str().size() / 256);
  bool of_space = !bound[0] || bound[0]->is_none();
  ByteRange kept = of_space
                       ? stripped(self.str(), left, right)
                       : stripped_of(self.str(), text_argument(*bound[0], "strip arg").bytes, left, right);
  return Value::string(self.text().slice(kept.begin, kept.end));
}

using Pieces = std::vector<ByteRange>;

Pieces split_at(std::string_view s, std::string_view separator, std::int64_t max) {
  Pieces pieces;
  std::size_t begin = 0;
  while (max-- != 0) {
    std::size_t at = s.find(separator, begin);
    if (at == s.npos) break;
    charge_steps(1);
    pieces.push_back({begin, at});
    begin = at + separator.size();
  }
  pieces.push_back({begin, s.size()});
  return pieces;
}

Pieces rsplit_at(std::string_view s, std::string_view separator, std::int64_t max) {
  Pieces pieces;
  std::size_t end = s.size();
  while (max-- != 0 && end >= separator.size()) {
    std::size_t at = s.rfind(separator, end - separator.size());
    if (at == s.npos) break;
    charge_steps(1);
    pieces.push_back({at + separator.size(), end});
    end = at;
  }
  pieces.push_back({0, end});
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

// Words between white space; after `max` of them the rest stays whole.
Pieces split_words(std::string_view s, std::int64_t max) {
  Pieces pieces;
  std::size_t pos = stripped(s, true, false).begin;
  while (pos < s.size()) {
    if (max-- == 0) {
      pieces.push_back({pos, s.size()});
      break;
    }
    std::size_t end = pos;
    for (std::size_t at = pos; at < s.size() && !is_space(next_code_point(s, at));) end = at;
    charge_steps(1);
    pieces.push_back({pos, end});
    pos = end + stripped(s.substr(end), true, false).begin;
  }
  return pieces;
}

// The same from the right: the last `max` words, and before them the rest, its leading white space kept.
Pieces rsplit_words(std::string_view s, std::int64_t max) {
  Pieces words = split_words(s, -1);
  if (max < 0 || words.size() <= static_cast<std::size_t>(max)) return words;
  auto first_kept = words.end() - static_cast<std::ptrdiff_t>(max);
  ByteRange rest{0, (first_kept - 1)->end};
  words.erase(words.begin(), first_kept);
  words.insert(words.begin(), rest);
  return words;
}

Value pieces_of(const Text& text, const Pieces& pieces) {
  std::vector<Value> out;
  out.reserve(pieces.size());
  for (const ByteRange& piece : pieces) out.push_back(Value::string(text.slice(piece.begin, piece.end)));
  return Value::list(std::move(out));
}

Value split_by(const Value& self, Args& args, const char* name, bool from_right) {
  auto bound = bind(args, name, {"sep", "maxsplit"});
  std::int64_t max = int_argument(bound[1], -1);
  const std::string& s = self.str();
  charge_steps(s.size() / 64);
  if (!bound[0] || bound[0]->is_none())
    return pieces_of(self.text(), from_right ? rsplit_words(s, max) : split_words(s, max));
  const std::string& separator = text_argument(*bound[0], "the separator").bytes;
  if (separator.empty()) fail("ValueError", "empty separator");
  return pieces_of(self.text(), from_right ? rsplit_at(s, separator, max) : split_at(s, separator, max));
}

Value partition_at(const Value& self, Args& args, const char* name, bool from_right) {
  auto bound = bind(args, name, {"sep"});
  if (!bound[0]) fail("TypeError", fmt::format("{}() takes exactly one argument (0 given)", name));
  const Text& separator = text_argument(*bound[0], "the separator");
  if (separator.size() == 0) fail("ValueError", "empty separator");
  const Text& text = self.text();
  std::size_t at = from_right ? text.bytes.rfind(separator.bytes) : text.bytes.find(separator.bytes);
  Value none = Value::string(Text());
  if (at == std::string::npos)
    return Value::list(from_right ? std::vector{none, none, self} : std::vector{self, none, none},
                       ListKind::kTuple);
  std::size_t end = at + separator.size();
  return Value::list({Value::string(text.slice(0, at)), Value::string(text.slice(at, end)),
                      Value::string(text.slice(end, text.size()))},
                     ListKind::kTuple);
}

bool is_line_end(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

}  // namespace

Value strip(const Value& self, Args& args) { return strip_sides(self, args, "strip", true, true); }

Value lstrip(const Value& self, Args& args) { return strip_sides(self, args, "lstrip", true, false); }

Value rstrip(const Value& self, Args& args) { return strip_sides(self, args, "rstrip", false, true); }

Value removeprefix(const Value& self, Args& args) {
  auto bound = bind(args, "removeprefix", {"prefix"});
  if (!bound[0]) fail("TypeError", "removeprefix() takes exactly one argument (0 given)");
  const Text& prefix = text_argument(*bound[0], "removeprefix() argument");
  if (!self.str().starts_with(prefix.bytes)) return self;
  return Value::string(self.text().slice(prefix.size(), self.str().size()));
}

Value removesuffix(const Value& self, Args& args) {
  auto bound = bind(args, "removesuffix", {"suffix"});
  if (!bound[0]) fail("TypeError", "removesuffix() takes exactly one argument (0 given)");
  const Text& suffix = text_argument(*bound[0], "removesuffix() argument");
  if (!self.str().ends_with(suffix.bytes)) return self;
  return Value::string(self.text().slice(0, self.str().size() - suffix.size()));
}

Value split(const Value& self, Args& args) { return split_by(self, args, "split", false); }

Value rsplit(const Value& self, Args& args) { return split_by(self, args, "rsplit", true); }

Value partition(const Value& self, Args& args) { return partition_at(self, args, "partition", false); }

Value rpartition(const Value& self, Args& args) { return partition_at(self, args, "rpartition", true); }

Value splitlines(const Value& self, Args& args) {
  auto bound = bind(args, "splitlines", {"keepends"});
  bool keep = bool_argument(bound[0], false);
  std::string_view s = self.str();
  charge_steps(s.size() / 64);
  Pieces pieces;
  std::size_t begin = 0;
  for (std::size_t pos = 0; pos < s.size();) {
    std::size_t at = pos;
    char32_t c = next_code_point(s, pos);
    if (!is_line_end(c)) continue;
    if (c == '\r' && pos < s.size() && s[pos] == '\n') ++pos;
    pieces.push_back({begin, keep ? pos : at});
    begin = pos;
  }
  if (begin < s.size()) pieces.push_back({begin, s.size()});
  return pieces_of(self.text(), pieces);
}

}  // namespace fastgen::jinja
