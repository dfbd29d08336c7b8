#include <utf8proc.h>

#include "support/support.h"
#include "text/char_class.h"
#include "text/random_text.h"
#include "text/regex.h"
#include "text/splitters.h"

namespace fastgen {

namespace {

using test::Rng;

std::vector<std::string> words_of(WordSplitter splitter, std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    std::size_t bytes = splitter(text);
    REQUIRE(bytes > 0);
    REQUIRE(bytes <= text.size());
    words.emplace_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
  return words;
}

// Matches, and with `gaps` also what lies between them.
std::vector<std::string> words_of(const Regex& regex, std::string_view text, bool gaps = false) {
  std::vector<std::string> words;
  Regex::Search search(regex, text);
  std::size_t done = 0;
  while (auto match = search.next()) {
    if (gaps && match->begin > done) words.emplace_back(text.substr(done, match->begin - done));
    words.emplace_back(text.substr(match->begin, match->end - match->begin));
    done = match->end;
  }
  if (gaps && done < text.size()) words.emplace_back(text.substr(done));
  return words;
}

// PCRE2 10.42 knows Unicode 14, char_class 16: characters that came between have no class there.
bool same_class(char32_t code, const Regex& letter, const Regex& number) {
  std::string text;
  append_utf8(text, code);
  CharClass known = char_class(code);
  return words_of(letter, text).empty() == (known != kLetter) &&
         words_of(number, text).empty() == (known != kNumber);
}

}  // namespace

TEST_CASE("splitters: hand-written forms cut as their patterns do, on random Unicode") {
  Rng rng(test::seed());
  Regex letter(R"(\p{L})", "test"), number(R"(\p{N})", "test");
  Regex upper(R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])", "test"), lower(R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])", "test");
  const auto same_runs = [&](char32_t code) {
    std::string one;
    append_utf8(one, code);
    return words_of(upper, one).empty() == ((case_run(code) & kUpperRun) == 0) && words_of(lower, one).empty() == ((case_run(code) & kLowerRun) == 0);
  };
  Regex word(R"([\p{L}\p{M}])", "test"), symbol(R"([\p{P}\p{S}])", "test");
  const auto same_words = [&](char32_t code) {
    std::string one;
    append_utf8(one, code);
    const WordClass known = word_class(code);
    return words_of(word, one).empty() == (known != kWordPart) && words_of(symbol, one).empty() == (known != kSymbol);
  };
  for (std::string_view pattern :
       {kGpt2Pattern, kLlama3Pattern, kQwen2Pattern, kTekkenPattern, kNumbersPattern, kHanKanaPattern, kDeepSeekPattern}) {
    Regex regex(pattern, "test");
    const auto [splitter, leaves_gaps] = find_splitter(pattern);
    REQUIRE((splitter != nullptr));
    for (int round = 0; round < 20000; ++round) {
      std::string text;
      for (std::size_t i = test::below(rng, 12); i > 0; --i) {
        char32_t code = test::random_char(rng);
        if (code < 128 || (same_class(code, letter, number) && same_runs(code) && same_words(code))) append_utf8(text, code);
      }
      CAPTURE(pattern);
      CAPTURE(text);
      REQUIRE(words_of(splitter, text) == words_of(regex, text, leaves_gaps));
    }
  }
  CHECK((find_splitter("x").first_word == nullptr));
  // As DeepSeek's own file has it.
  std::string raw(kDeepSeekPattern);
  for (std::size_t at; (at = raw.find("\\r\\n")) != raw.npos;) raw.replace(at, 4, "\r\n");
  CHECK((find_splitter(raw).first_word == deepseek_word));
}

TEST_CASE("splitters: classes differ from PCRE2's only where Unicode has grown") {
  Regex letter(R"(\p{L})", "test"), number(R"(\p{N})", "test"), space(R"(\s)", "test");
  int num_differences = 0;
  for (char32_t code = 0; code < 0x30000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    std::string text;
    append_utf8(text, code);
    REQUIRE(words_of(space, text).empty() != is_white_space(code));
    num_differences += !same_class(code, letter, number);
  }
  CHECK(num_differences < 6000);  // what Unicode 15, 15.1 and 16 added
  CHECK(char_class(0x2EBF0) == kLetter);
  CHECK(char_class(0x10D40) == kNumber);
  CHECK(word_class(0x897) == kWordPart);
  CHECK(case_run(0x897) == kBothRuns);
  CHECK(word_class(0x1FAE9) == kSymbol);
}

TEST_CASE("splitters: known cuts") {
  using Words = std::vector<std::string>;
  CHECK(words_of(gpt2_word, "it's  fine\n\nnow  ") ==
        Words{"it", "'s", " ", " fine", "\n", "\n", "now", "  "});
  CHECK(words_of(llama3_word, "IT'S 12345\t\n x.\n") ==
        Words{"IT", "'S", " ", "123", "45", "\t\n", " x", ".\n"});
  CHECK(words_of(qwen2_word, "a 12") == Words{"a", " ", "1", "2"});
  CHECK(words_of(tekken_word, "getURL HTTPServer 12!//\n") == Words{"get", "URL", " HTTPServer", " ", "1", "2", "!//\n"});
  CHECK(words_of(deepseek_word, "it's  .net\u0301 \x01\x02x 1\n !?\n\n\u200b") == Words{"it", "'s", " ", " .", "net\u0301", " ", "\x01", "\x02x", " ", "1", "\n", " !?\n\n", "\u200b"});
  CHECK(words_of(numbers_word, "a 12345") == Words{"a ", "123", "45"});
  CHECK(words_of(han_kana_word, "a\u4f60\u3042b") == Words{"a", "\u4f60\u3042", "b"});
  CHECK(words_of(tekken_word, "\u4f60AB \u0301AB") == Words{"\u4f60", "AB", " \u0301", "AB"});  // marks and CJK are of both cases
}

}  // namespace fastgen
