// A string that knows which of its bytes the template wrote, and the UTF-8 helpers that Python's view of a
// string (a row of code points) needs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fastgen/text.h"

namespace fastgen::jinja {

// `trusted` is sorted, disjoint, merged where ranges touch, and holds no empty range. Bytes outside came
// from values (messages, tools, documents, kwargs) or were made by the interpreter (JSON's punctuation).
struct Text {
  std::string bytes;
  std::vector<ByteRange> trusted;

  Text() = default;
  explicit Text(std::string untrusted) : bytes(std::move(untrusted)) {}
  static Text from_template(std::string bytes);

  std::size_t size() const { return bytes.size(); }
  std::string_view view() const { return bytes; }
  void append(const Text& other) { append(other, 0, other.size()); }
  void append(const Text& other, std::size_t begin, std::size_t end);
  void append(std::string_view more, bool is_trusted = false);
  Text slice(std::size_t begin, std::size_t end) const;
  // All bytes of [begin, end) are the template's.
  bool is_trusted(std::size_t begin, std::size_t end) const;
};

// Reads the code point at `pos` and moves past it. A byte that begins none counts as one (U+FFFD).
char32_t next_code_point(std::string_view s, std::size_t& pos);
void append_utf8(std::string& out, char32_t code_point);
// Number of code points, and the byte at which code point `index` begins (s.size() if past the end).
std::size_t code_points(std::string_view s);
std::size_t byte_offset(std::string_view s, std::size_t index);
// Python's str.isspace for one character.
bool is_space(char32_t code_point);
// The part of s without white space at the ends, as offsets.
ByteRange stripped(std::string_view s, bool left = true, bool right = true);
// Maps each code point by Python's rules, marks kept per character.
enum class Case { kLower, kUpper, kTitle };
Text map_case(const Text& text, Case to);
void append_mapped(Text& out, const Text& text, std::size_t begin, std::size_t end, Case to);

}  // namespace fastgen::jinja
