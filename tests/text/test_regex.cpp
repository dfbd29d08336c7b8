#include "fastgen/error.h"
#include "support/support.h"
#include "text/regex.h"

namespace fastgen {

namespace {

std::vector<std::pair<std::size_t, std::size_t>> matches(std::string_view pattern, std::string_view text) {
  Regex regex(pattern, "test");
  Regex::Search search(regex, text);
  std::vector<std::pair<std::size_t, std::size_t>> found;
  while (auto match = search.next()) found.emplace_back(match->begin, match->end);
  return found;
}

}  // namespace

TEST_CASE("regex: matches come one after another, empty ones only where none has just ended") {
  using Found = std::vector<std::pair<std::size_t, std::size_t>>;
  CHECK(matches("a+", "aabaa") == Found{{0, 2}, {3, 5}});
  CHECK(matches("a*", "baa") == Found{{0, 0}, {1, 3}});
  CHECK(matches("x*", "é") == Found{{0, 0}, {2, 2}});
  CHECK(matches("$", "a\nb") == Found{{1, 1}, {3, 3}});
  CHECK(matches("a", "").empty());
}

TEST_CASE("regex: white space is Unicode's, not PCRE2's") {
  CHECK(matches(R"(\s)", "\u180e").empty());
  CHECK(matches(R"(\S)", "\u180e").size() == 1);
  CHECK(matches(R"([^\s])", "\u0085\u2003\t").empty());
}

TEST_CASE("regex: what the dialects read differently is refused by name") {
  for (const char* pattern :
       {R"(\w+)", R"(\bx)", R"(\h)", R"([\S])", "[a[b]]", "[a&&b]", "x{1,2}+", R"(a\)", "(", "[a"}) {
    CAPTURE(pattern);
    try {
      Regex regex(pattern, "file: pre_tokenizer");
      FAIL("must be refused");
    } catch (const Error& error) {
      CHECK(std::string(error.what()).starts_with("file: pre_tokenizer: regex"));
    }
  }
  CHECK(matches("[]a]", "]").size() == 1);
  CHECK(matches("[^]a]", "b]").size() == 1);
  CHECK(matches("[[:digit:]]", "7").size() == 1);
}

}  // namespace fastgen
