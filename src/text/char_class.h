// The classes of characters that the splitting patterns speak of: \p{L}, \p{N}, \s, newlines.
#pragma once

#include <array>
#include <cstdint>

namespace fastgen {

enum CharClass : std::uint8_t {
  kOtherChar = 1,
  kLetter = 2,    // \p{L}
  kNumber = 4,    // \p{N}
  kSpace = 8,     // White_Space but for the two below
  kNewline = 16,  // \r and \n, which are also \s
};

CharClass slow_char_class(char32_t code);
extern const std::array<CharClass, 128> kAsciiClass;

inline CharClass char_class(char32_t code) { return code < 128 ? kAsciiClass[code] : slow_char_class(code); }

inline bool is_white_space(char32_t code) { return (char_class(code) & (kSpace | kNewline)) != 0; }
bool is_punctuation(char32_t code);  // ASCII punctuation and symbols, and category P

}  // namespace fastgen
