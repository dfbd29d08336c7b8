#include <chrono>
#include <numeric>
#include <random>

#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"
#include "text/golden_tokens.h"
#include "text/utf8.h"

namespace fastgen {

using test::find_golden_tokenizers;
using test::read_token_cases;
using test::TokenCase;

TEST_CASE("tokenizer: every golden text encodes and decodes as Hugging Face does") {
  auto goldens = find_golden_tokenizers();
  REQUIRE(!goldens.empty());
  for (const auto& golden : goldens) {
    CAPTURE(golden.name);
    auto tokenizer = Tokenizer::load(golden.folder);
    for (const TokenCase& c : read_token_cases(golden.cases)) {
      CAPTURE(c.text);
      if (!c.only_ids) CHECK(tokenizer->encode(c.text) == c.ids);
      if (!c.only_ids) CHECK(tokenizer->encode(c.text, true) == c.ids_special);
      CHECK(tokenizer->decode(c.ids) == c.decoded);
      if (c.has_decoded_skip) CHECK(tokenizer->decode(c.ids, true) == c.decoded_skip);
    }
  }
}

}  // namespace fastgen
