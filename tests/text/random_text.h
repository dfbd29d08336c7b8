// Random text and ids for property tests.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "fastgen/types.h"
#include "text/utf8.h"

namespace fastgen::test {

using Rng = std::mt19937_64;

inline std::size_t below(Rng& rng, std::size_t bound) { return rng() % bound; }

// A character from anywhere, often from where the splitting patterns turn.
inline char32_t random_char(Rng& rng) {
  static constexpr std::u32string_view kTurns =
      U"\x01\u200b\u3042$€'stmdrevlSTLſ/ǅʰ  \t\r\n\v\f\u0085\u00a0\u180e\u2003\u2028\u3000aZ09½٣_-.,!é́\u0e31你ⅷ";
  if (below(rng, 4) != 0) return kTurns[below(rng, kTurns.size())];
  char32_t code = below(rng, 2) != 0 ? below(rng, 0x3000) : below(rng, 0x110000);
  return code >= 0xd800 && code < 0xe000 ? U'x' : code;
}

inline std::string random_text(Rng& rng, std::size_t num_chars_max) {
  std::string text;
  for (std::size_t i = below(rng, num_chars_max + 1); i > 0; --i) append_utf8(text, random_char(rng));
  return text;
}

inline std::vector<TokenId> random_ids(Rng& rng, std::int32_t vocab_size, std::size_t count_max) {
  std::vector<TokenId> ids(below(rng, count_max + 1));
  for (TokenId& id : ids) id = static_cast<TokenId>(below(rng, vocab_size));
  return ids;
}

}  // namespace fastgen::test
