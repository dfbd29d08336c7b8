// UTF-8: decoding valid text, and finding what is not valid in foreign bytes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/utf8.h"

namespace fastgen {

inline constexpr std::string_view kReplacementChar = "\xef\xbf\xbd";  // U+FFFD

// What stands at the beginning of some bytes.
struct Utf8Step {
  enum class Kind { kChar, kInvalid, kIncomplete };
  Kind kind = Kind::kInvalid;
  // kChar: length of the character. kInvalid: length of the maximal subpart of an ill-formed sequence, which
  // one U+FFFD replaces (The Unicode Standard 15, 3.9). kIncomplete: all the bytes given, a prefix of a
  // character.
  std::size_t bytes = 0;
};
// `rest` is not empty.
Utf8Step next_utf8(std::string_view rest);

// Each ill-formed sequence becomes U+FFFD, as Python's errors="replace" does.
std::string to_valid_utf8(std::string_view text);

void append_utf8(std::string& out, char32_t code);

struct Utf8Char {
  char32_t code = 0;
  std::size_t bytes = 1;
};

// The character at `p`, which must be the beginning of one in valid UTF-8.
inline Utf8Char decode_utf8(const char* p) {
  auto byte = [p](int i) { return static_cast<char32_t>(static_cast<unsigned char>(p[i])); };
  char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xe0) return {(lead & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  if (lead < 0xf0) return {(lead & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f), 4};
}

inline bool is_utf8_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

}  // namespace fastgen
