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

// For patterns that tell cases apart: the runs of letters that a character may stand in.
enum CaseRun : std::uint8_t {
  kNoRun = 0,
  kUpperRun = 1,  // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
  kLowerRun = 2,  // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
  kBothRuns = 3,
};
CaseRun slow_case_run(char32_t code);
inline CaseRun case_run(char32_t code) {
  if (code >= 128) return slow_case_run(code);
  return code >= 'a' && code <= 'z' ? kLowerRun : code >= 'A' && code <= 'Z' ? kUpperRun : kNoRun;
}

// For patterns that tell words from symbols.
enum WordClass : std::uint8_t {
  kNoWord = 0,
  kWordPart = 1,  // [\p{L}\p{M}]
  kSymbol = 2,    // [\p{P}\p{S}]
};
WordClass slow_word_class(char32_t code);
inline WordClass word_class(char32_t code) {
  if (code >= 128) return slow_word_class(code);
  const CharClass known = kAsciiClass[code];
  return known == kLetter ? kWordPart : known == kOtherChar && code > 0x20 && code < 0x7f ? kSymbol : kNoWord;
}

inline bool is_white_space(char32_t code) { return (char_class(code) & (kSpace | kNewline)) != 0; }
bool is_punctuation(char32_t code);  // ASCII punctuation and symbols, and category P

}  // namespace fastgen
