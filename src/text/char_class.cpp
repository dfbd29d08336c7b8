#include "text/char_class.h"

#include <utf8proc.h>

#include <algorithm>
#include <span>

namespace fastgen {

namespace {

struct CodeRange {
  char32_t first, last;
};

// Hugging Face's regex engine knows Unicode 16; Debian's utf8proc (2.8) knows 15. These came between.
constexpr CodeRange kNewLetters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
    {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E},
    {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
    {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}};
constexpr CodeRange kNewNumbers[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9},
                                     {0x16130, 0x16139}, {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9},
                                     {0x1E5F1, 0x1E5FA}};

constexpr CodeRange kNewMarks[] = {{0x897, 0x897},     {0x10D69, 0x10D6D}, {0x10EFC, 0x10EFC}, {0x113B8, 0x113C0}, {0x113C2, 0x113C2},
                                   {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2}, {0x113E1, 0x113E2},
                                   {0x11F5A, 0x11F5A}, {0x1611E, 0x1612F}, {0x1E5EE, 0x1E5EF}};
constexpr CodeRange kNewSymbols[] = {
    {0x1B4E, 0x1B4F},   {0x1B7F, 0x1B7F},   {0x2427, 0x2429},   {0x2FFC, 0x2FFF},   {0x31E4, 0x31E5},   {0x31EF, 0x31EF},   {0x10D6E, 0x10D6E},
    {0x10D8E, 0x10D8F}, {0x113D4, 0x113D5}, {0x113D7, 0x113D8}, {0x11BE1, 0x11BE1}, {0x16D6D, 0x16D6F}, {0x1CC00, 0x1CCEF}, {0x1CD00, 0x1CEB3},
    {0x1E5FF, 0x1E5FF}, {0x1F8B2, 0x1F8BB}, {0x1F8C0, 0x1F8C1}, {0x1FA89, 0x1FA89}, {0x1FA8F, 0x1FA8F}, {0x1FABE, 0x1FABE}, {0x1FAC6, 0x1FAC6},
    {0x1FADC, 0x1FADC}, {0x1FADF, 0x1FADF}, {0x1FAE9, 0x1FAE9}, {0x1FBCB, 0x1FBEF}};

// Those of the letters above that have a case; the others are \p{Lo} or \p{Lm}.
constexpr CodeRange kNewUpper[] = {{0x1C89, 0x1C89}, {0xA7CB, 0xA7CC}, {0xA7DA, 0xA7DA}, {0xA7DC, 0xA7DC}, {0x10D50, 0x10D65}};
constexpr CodeRange kNewLower[] = {{0x1C8A, 0x1C8A}, {0xA7CD, 0xA7CD}, {0xA7DB, 0xA7DB}, {0x10D70, 0x10D85}};

bool contains(std::span<const CodeRange> ranges, char32_t code) {
  return std::ranges::any_of(ranges, [code](CodeRange r) { return code >= r.first && code <= r.last; });
}

CharClass unassigned_class(char32_t code) {
  if (contains(kNewLetters, code)) return kLetter;
  return contains(kNewNumbers, code) ? kNumber : kOtherChar;
}

constexpr std::array<CharClass, 128> make_ascii_classes() {
  std::array<CharClass, 128> classes{};
  for (int c = 0; c < 128; ++c) {
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    bool space = c == ' ' || (c >= '\t' && c <= '\r');
    bool newline = c == '\n' || c == '\r';
    classes[c] = letter                 ? kLetter
                 : c >= '0' && c <= '9' ? kNumber
                 : newline              ? kNewline
                 : space                ? kSpace
                                        : kOtherChar;
  }
  return classes;
}

}  // namespace

constexpr std::array<CharClass, 128> kAsciiClass = make_ascii_classes();

CharClass slow_char_class(char32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return kNumber;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return kSpace;
    case UTF8PROC_CATEGORY_CN:
      return unassigned_class(code);
    default:
      return code == 0x85 ? kSpace : kOtherChar;
  }
}

CaseRun slow_case_run(char32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT:
      return kUpperRun;
    case UTF8PROC_CATEGORY_LL:
      return kLowerRun;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return kBothRuns;
    case UTF8PROC_CATEGORY_CN:
      if (contains(kNewMarks, code)) return kBothRuns;
      if (!contains(kNewLetters, code)) return kNoRun;
      return contains(kNewUpper, code) ? kUpperRun : contains(kNewLower, code) ? kLowerRun : kBothRuns;
    default:
      return kNoRun;
  }
}

WordClass slow_word_class(char32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ME) return kWordPart;
  if (category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_SO) return kSymbol;
  if (category != UTF8PROC_CATEGORY_CN) return kNoWord;
  if (contains(kNewLetters, code) || contains(kNewMarks, code)) return kWordPart;
  return contains(kNewSymbols, code) ? kSymbol : kNoWord;
}

bool is_punctuation(char32_t code) {
  if (code < 128) return kAsciiClass[code] == kOtherChar && code > 0x20 && code < 0x7f;
  auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

}  // namespace fastgen
