#include "support/support.h"
#include "text/random_text.h"
#include "text/utf8.h"

namespace fastgen {

TEST_CASE("utf8: ill-formed bytes are replaced as Python does it") {
  const std::string r(kReplacementChar);
  CHECK(to_valid_utf8("a\xc3\xa9\xf0\x9f\x98\x80") == "a\xc3\xa9\xf0\x9f\x98\x80");
  CHECK(to_valid_utf8("\x80") == r);
  CHECK(to_valid_utf8("\xc0\xaf") == r + r);                  // overlong
  CHECK(to_valid_utf8("\xe0\x9f\x80") == r + r + r);          // overlong
  CHECK(to_valid_utf8("\xed\xa0\x80") == r + r + r);          // surrogate
  CHECK(to_valid_utf8("\xf4\x90\x80\x80") == r + r + r + r);  // over U+10FFFF
  CHECK(to_valid_utf8("\xf0\x9f\x98x") == r + "x");           // one for the maximal subpart
  CHECK(to_valid_utf8("\xe2\x82") == r);
  CHECK(to_valid_utf8("\xf5") == r);
}

TEST_CASE("utf8: what is appended decodes to itself, and every prefix is incomplete") {
  for (char32_t code = 0; code < 0x110000; code += code < 0x3000 ? 1 : 37) {
    if (code >= 0xd800 && code < 0xe000) continue;
    std::string text;
    append_utf8(text, code);
    REQUIRE(is_utf8(text));
    REQUIRE(decode_utf8(text.data()).code == code);
    REQUIRE(decode_utf8(text.data()).bytes == text.size());
    REQUIRE(next_utf8(text).kind == Utf8Step::Kind::kChar);
    for (std::size_t n = 1; n < text.size(); ++n) {
      REQUIRE(next_utf8(text.substr(0, n)).kind == Utf8Step::Kind::kIncomplete);
    }
  }
}

TEST_CASE("utf8: random bytes become valid, valid text stays") {
  test::Rng rng(test::seed());
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    for (std::size_t i = test::below(rng, 12); i > 0; --i)
      bytes += static_cast<char>(test::below(rng, 256) | 0x80 * (i % 2));
    std::string valid = to_valid_utf8(bytes);
    REQUIRE(is_utf8(valid));
    REQUIRE(to_valid_utf8(valid) == valid);
    REQUIRE(is_utf8(bytes) == (valid == bytes));
  }
}

}  // namespace fastgen
