#include "text/splitters.h"

#include <string>

#include "text/char_class.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

constexpr int kAnySpace = kSpace | kNewline;

struct Peek {
  int cls = 0;  // 0 at the end of the text
  std::size_t bytes = 0;
};

Peek peek(std::string_view text, std::size_t at) {
  if (at >= text.size()) return {};
  Utf8Char c = decode_utf8(text.data() + at);
  return {char_class(c.code), c.bytes};
}

// First place from `at` on whose character is in none of `classes`.
std::size_t skip(std::string_view text, std::size_t at, int classes) {
  for (Peek next = peek(text, at); (next.cls & classes) != 0; next = peek(text, at)) at += next.bytes;
  return at;
}

// 's 't 're 've 'm 'll 'd: its length at the beginning of `text`, or 0.
std::size_t contraction(std::string_view text, bool any_case) {
  static constexpr std::string_view kLongS = "'\xc5\xbf";  // folds to 's
  if (text[0] != '\'' || text.size() < 2) return 0;
  auto letter = [&](std::size_t i) {
    char c = i < text.size() ? text[i] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  switch (letter(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return letter(2) == 'e' ? 3 : 0;
    case 'l':
      return letter(2) == 'l' ? 3 : 0;
    default:
      return any_case && text.starts_with(kLongS) ? kLongS.size() : 0;
  }
}

// \s+(?!\S)|\s+ for text that begins with white space: a run before other text leaves its last character to
// that.
std::size_t space_word(std::string_view text) {
  std::size_t at = 0, last = 0;
  for (Peek next = peek(text, 0); (next.cls & kAnySpace) != 0; next = peek(text, at))
    last = at, at += next.bytes;
  return at == text.size() || last == 0 ? at : last;
}

// \s*[\r\n]+ for text that begins with white space: up to the run's last newline; 0 without one.
std::size_t newline_word(std::string_view text) {
  std::size_t at = 0, end = 0;
  for (Peek next = peek(text, 0); (next.cls & kAnySpace) != 0; next = peek(text, at)) {
    at += next.bytes;
    if (next.cls == kNewline) end = at;
  }
  return end;
}

std::size_t number_word(std::string_view text, int num_digits_max) {
  std::size_t at = 0;
  for (int i = 0; i < num_digits_max; ++i) {
    Peek next = peek(text, at);
    if (next.cls != kNumber) break;
    at += next.bytes;
  }
  return at;
}

template <int kNumDigits>
std::size_t llama_word(std::string_view text) {
  if (std::size_t bytes = contraction(text, true)) return bytes;
  Peek first = peek(text, 0);
  if (first.cls == kLetter) return skip(text, first.bytes, kLetter);
  if (first.cls == kNumber) return number_word(text, kNumDigits);
  if (first.cls != kNewline && peek(text, first.bytes).cls == kLetter)
    return skip(text, first.bytes, kLetter);
  std::size_t symbols = text[0] == ' ' ? 1 : 0;
  if (std::size_t end = skip(text, symbols, kOtherChar); end > symbols) return skip(text, end, kNewline);
  if (std::size_t bytes = newline_word(text)) return bytes;
  return space_word(text);
}

struct RunPeek {
  int run = kNoRun;
  std::size_t bytes = 0;
};

RunPeek peek_run(std::string_view text, std::size_t at) {
  if (at >= text.size()) return {};
  const Utf8Char c = decode_utf8(text.data() + at);
  return {case_run(c.code), c.bytes};
}

std::size_t skip_run(std::string_view text, std::size_t at, CaseRun run) {
  for (RunPeek next = peek_run(text, at); (next.run & run) != 0; next = peek_run(text, at)) at += next.bytes;
  return at;
}

// Upper* Lower+ from `at`: its end, or 0. Where nothing but upper letters follows, the engine gives back characters of Upper* until one
// of them can be Lower+: the last that is of both runs, and then only that one.
std::size_t mixed_letters(std::string_view text, std::size_t at) {
  std::size_t last_both_end = 0;
  RunPeek next = peek_run(text, at);
  for (; (next.run & kUpperRun) != 0; next = peek_run(text, at)) {
    at += next.bytes;
    if (next.run == kBothRuns) last_both_end = at;
  }
  return next.run == kLowerRun ? skip_run(text, at, kLowerRun) : last_both_end;
}

// [^\s\p{L}\p{N}]+[\r\n/]* behind an optional space: its end, or 0.
std::size_t tekken_symbols(std::string_view text) {
  const std::size_t start = text[0] == ' ' ? 1 : 0;
  std::size_t end = skip(text, start, kOtherChar);
  if (end == start) return 0;
  while (end < text.size() && (text[end] == '\r' || text[end] == '\n' || text[end] == '/')) ++end;
  return end;
}

bool is_han_or_kana(char32_t code) { return (code >= 0x4e00 && code <= 0x9fa5) || (code >= 0x3040 && code <= 0x30ff); }

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

WordClass word_class_at(std::string_view text, std::size_t at) {
  return at < text.size() ? word_class(decode_utf8(text.data() + at).code) : kNoWord;
}

std::size_t skip_words(std::string_view text, std::size_t at, WordClass wanted) {
  while (word_class_at(text, at) == wanted) at += decode_utf8(text.data() + at).bytes;
  return at;
}

// The match of DeepSeek's last pattern where `text` begins; 0 if there is none.
std::size_t deepseek_match(std::string_view text) {
  const Utf8Char c = decode_utf8(text.data());
  const WordClass first = word_class(c.code);
  if (c.code < 128 && first == kSymbol && text.size() > 1 && is_ascii_letter(text[1])) {
    std::size_t end = 2;
    while (end < text.size() && is_ascii_letter(text[end])) ++end;
    return end;
  }
  if (first == kWordPart) return skip_words(text, c.bytes, kWordPart);
  if (first == kNoWord && c.code != '\r' && c.code != '\n' && word_class_at(text, c.bytes) == kWordPart) return skip_words(text, c.bytes, kWordPart);
  const std::size_t symbols = text[0] == ' ' ? 1 : 0;
  if (const std::size_t end = skip_words(text, symbols, kSymbol); end > symbols) return skip(text, end, kNewline);
  if (const std::size_t bytes = newline_word(text)) return bytes;
  return is_white_space(c.code) ? space_word(text) : 0;
}

}  // namespace

std::size_t tekken_word(std::string_view text) {
  const Peek first = peek(text, 0);
  const bool may_lead = (first.cls & (kSpace | kOtherChar)) != 0;  // [^\r\n\p{L}\p{N}]
  if (may_lead) {
    if (const std::size_t end = mixed_letters(text, first.bytes)) return end;
  }
  if (const std::size_t end = mixed_letters(text, 0)) return end;
  // All that is left for the second alternative: upper letters alone.
  const std::size_t start = may_lead ? first.bytes : 0;
  if (const std::size_t end = skip_run(text, start, kUpperRun); end > start) return end;
  if (first.cls == kNumber) return first.bytes;
  if (const std::size_t bytes = tekken_symbols(text)) return bytes;
  if (const std::size_t bytes = newline_word(text)) return bytes;
  return space_word(text);
}

std::size_t gpt2_word(std::string_view text) {
  if (std::size_t bytes = contraction(text, false)) return bytes;
  std::size_t start = text[0] == ' ' ? 1 : 0;
  Peek first = peek(text, start);
  if ((first.cls & (kLetter | kNumber | kOtherChar)) != 0) return skip(text, start + first.bytes, first.cls);
  return space_word(text);
}

std::size_t llama3_word(std::string_view text) { return llama_word<3>(text); }
std::size_t qwen2_word(std::string_view text) { return llama_word<1>(text); }

std::size_t numbers_word(std::string_view text) {
  if (const std::size_t bytes = number_word(text, 3)) return bytes;
  return skip(text, 0, kOtherChar | kLetter | kSpace | kNewline);
}

std::size_t han_kana_word(std::string_view text) {
  std::size_t at = 0;
  const bool inside = is_han_or_kana(decode_utf8(text.data()).code);
  while (at < text.size()) {
    const Utf8Char c = decode_utf8(text.data() + at);
    if (is_han_or_kana(c.code) != inside) break;
    at += c.bytes;
  }
  return at;
}

std::size_t deepseek_word(std::string_view text) {
  if (const std::size_t bytes = deepseek_match(text)) return bytes;
  // Where nothing matches is known from two characters, so looking for the next match takes time in proportion to the text.
  std::size_t at = decode_utf8(text.data()).bytes;
  while (at < text.size() && deepseek_match(text.substr(at)) == 0) at += decode_utf8(text.data() + at).bytes;
  return at;
}

HandWritten find_splitter(std::string_view pattern) {
  std::string escaped;
  for (char c : pattern) c == '\r' ? escaped += "\\r" : c == '\n' ? escaped += "\\n" : escaped += c;
  if (escaped == kGpt2Pattern) return {gpt2_word};
  if (escaped == kLlama3Pattern) return {llama3_word};
  if (escaped == kQwen2Pattern) return {qwen2_word};
  if (escaped == kTekkenPattern) return {tekken_word};
  if (escaped == kNumbersPattern) return {numbers_word, true};
  if (escaped == kHanKanaPattern) return {han_kana_word, true};
  if (escaped == kDeepSeekPattern) return {deepseek_word, true};
  return {};
}

}  // namespace fastgen
