#include "base/json_writer.h"

#include <cmath>
#include <limits>
#include <random>

#include "base/utf8.h"
#include "support/support.h"

namespace fastgen {

namespace {

std::string json_text(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

}  // namespace

TEST_CASE("strings are escaped, and valid UTF-8 stays as it is") {
  CHECK(json_text("plain") == "\"plain\"");
  CHECK(json_text("a\"b\\c\n\r\t") == R"("a\"b\\c\n\r\t")");
  CHECK(json_text(std::string_view("\0\x1f\x7f", 3)) == R"("\u0000\u001f\u007f")");
  CHECK(json_text("h\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80") == "\"h\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\"");
}

TEST_CASE("invalid UTF-8 never comes out") {
  const std::string bad = "\xEF\xBF\xBD";
  CHECK(json_text("\xFF") == "\"" + bad + "\"");
  CHECK(json_text("a\xC3") == "\"a" + bad + "\"");                    // cut short
  CHECK(json_text("\xC0\xAF") == "\"" + bad + bad + "\"");            // overlong
  CHECK(json_text("\xED\xA0\x80") == "\"" + bad + bad + bad + "\"");  // a surrogate
  CHECK(json_text("\xF4\x90\x80\x80") == "\"" + bad + bad + bad + bad + "\"");  // above U+10FFFF
}

TEST_CASE("random bytes always give valid UTF-8 without raw control characters") {
  std::mt19937_64 random(test::seed());
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 40, '\0');
    for (char& c : text) c = static_cast<char>(random() % 4 == 0 ? random() : 0x80 + random() % 0x80);
    const std::string out = json_text(text);
    CHECK(is_utf8(out));
    for (char c : out) CHECK((static_cast<unsigned char>(c) >= 0x20 && c != 0x7F));
  }
}

TEST_CASE("objects and arrays get their commas") {
  std::string out;
  JsonWriter json(out);
  json.begin_object().field("a", 1).key("b").begin_array().value(2).value("x").null().begin_object().end_object().end_array();
  json.field("c", true).key("d").begin_object().field("e", -5).end_object().key("f").raw("[1]").end_object();
  CHECK(out == R"({"a":1,"b":[2,"x",null,{}],"c":true,"d":{"e":-5},"f":[1]})");
}

TEST_CASE("numbers read back exactly, and what JSON lacks is null") {
  auto text = [](auto number) {
    std::string out;
    JsonWriter(out).value(number);
    return out;
  };
  CHECK(text(0.1f) == "0.1");
  CHECK(text(-1.5) == "-1.5");
  CHECK(text(std::numeric_limits<std::uint64_t>::max()) == "18446744073709551615");
  CHECK(text(std::numeric_limits<std::int64_t>::min()) == "-9223372036854775808");
  CHECK(text(NAN) == "null");
  CHECK(text(-INFINITY) == "null");
  std::mt19937_64 random(test::seed());
  for (int i = 0; i < 1000; ++i) {
    const float number = std::ldexp(static_cast<float>(random() % 1000000) - 5e5f, static_cast<int>(random() % 60) - 30);
    CHECK(std::stof(text(number)) == number);
  }
}

}  // namespace fastgen
