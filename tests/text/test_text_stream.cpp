#include <algorithm>

#include "fastgen/text.h"
#include "support/support.h"
#include "text/golden_tokens.h"
#include "text/random_text.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

using test::below;
using test::Rng;

struct Streamed {
  std::string text;
  std::optional<std::size_t> stop_idx;
  std::size_t num_pushed = 0;
};

// Pushes until a stop string or the end, checking what must hold for every piece.
Streamed stream(std::shared_ptr<const Tokenizer> tokenizer, const std::vector<TokenId>& ids,
                TextStream::Options options) {
  TextStream stream(std::move(tokenizer), std::move(options));
  Streamed result;
  for (TokenId id : ids) {
    std::string piece = stream.push(id);
    REQUIRE(is_utf8(piece));
    if (result.stop_idx) REQUIRE(piece.empty());
    result.text += piece;
    result.num_pushed += !result.stop_idx;
    result.stop_idx = stream.stop_idx();
  }
  std::string last = stream.finish();
  REQUIRE(is_utf8(last));
  if (result.stop_idx) REQUIRE(last.empty());
  result.text += last;
  result.stop_idx = stream.stop_idx();
  return result;
}

// What a stream must make of the whole text: the stop string that ends first, then the longest.
std::string naive_stop(const std::string& text, const TextStream::Options& options) {
  std::size_t best_begin = text.size(), best_end = std::string::npos;
  for (const std::string& stop : options.stop) {
    std::size_t at = text.find(stop);
    if (at == std::string::npos) continue;
    std::size_t end = at + stop.size();
    if (end < best_end || (end == best_end && at < best_begin)) best_begin = at, best_end = end;
  }
  return text.substr(0, options.include_stop && best_end != std::string::npos ? best_end : best_begin);
}

// A piece of the text at character borders, so that it often matches, or a random text.
std::string random_stop(Rng& rng, const std::string& text) {
  std::string stop = test::random_text(rng, 3) + "x";
  if (text.empty() || below(rng, 4) == 0) return stop;
  std::size_t begin = below(rng, text.size()), end = std::min(text.size(), begin + 1 + below(rng, 8));
  while (begin > 0 && is_utf8_continuation(text[begin])) --begin;
  while (end < text.size() && is_utf8_continuation(text[end])) ++end;
  return text.substr(begin, end - begin);
}

}  // namespace

TEST_CASE("text stream: joined pieces equal decode, for random ids of every tokenizer") {
  Rng rng(test::seed());
  for (const auto& tokenizer : test::load_golden_tokenizers()) {
    for (int round = 0; round < 300; ++round) {
      // Ids out of range are left out by both.
      auto ids = test::random_ids(rng, std::min(tokenizer->vocab_size(), 600) + 2, 40);
      if (round % 2 == 0) ids = test::random_ids(rng, tokenizer->vocab_size() + 2, 40);
      bool skip = below(rng, 2) != 0;
      REQUIRE(stream(tokenizer, ids, {.stop = {}, .skip_special = skip}).text ==
              tokenizer->decode(ids, skip));
    }
  }
}

TEST_CASE("text stream: stop strings cut as a search of the whole text would") {
  Rng rng(test::seed());
  for (const auto& tokenizer : test::load_golden_tokenizers()) {
    for (int round = 0; round < 300; ++round) {
      auto ids = tokenizer->encode(test::random_text(rng, 30));
      if (round % 3 == 0) ids = test::random_ids(rng, tokenizer->vocab_size(), 20);
      std::string text = tokenizer->decode(ids, true);
      TextStream::Options options{.include_stop = below(rng, 2) != 0};
      for (std::size_t i = 1 + below(rng, 3); i > 0; --i) options.stop.push_back(random_stop(rng, text));
      CAPTURE(text);
      Streamed result = stream(tokenizer, ids, options);
      REQUIRE(result.text == naive_stop(text, options));
      bool has_stop =
          std::ranges::any_of(options.stop, [&](auto& s) { return text.find(s) != std::string::npos; });
      REQUIRE(result.stop_idx.has_value() == has_stop);
    }
  }
}

TEST_CASE("text stream: text comes as soon as it is certain") {
  auto tokenizer = Tokenizer::load(test::golden() / "tokens" / "byte_level");
  auto id = [&](std::string_view name) { return tokenizer->find(name).value(); };
  TextStream plain(tokenizer, {});
  CHECK(plain.push(id("h")) == "h");
  CHECK(plain.push(id("Ã")) == "");  // 0xC3, half of é
  CHECK(plain.push(id("©")) == "é");
  CHECK(plain.push(id("Ã")) == "");
  CHECK(plain.push(id("h")) == std::string(kReplacementChar) + "h");
  CHECK(plain.push(id("<|im_end|>")) == "");
  CHECK(plain.push(id("ð")) == "");  // 0xF0
  CHECK(plain.finish() == kReplacementChar);

  TextStream held(tokenizer, {.stop = {"hex"}});
  CHECK(held.push(id("h")) == "");
  CHECK(held.push(id("e")) == "");
  CHECK(held.push(id("h")) == "he");
  CHECK(held.push(id("e")) == "");
  CHECK(!held.stop_idx());
  CHECK(held.push(id("x")) == "");
  CHECK(held.stop_idx() == 0);
  CHECK(held.push(id("h")) == "");
  CHECK(held.finish() == "");

  TextStream special(tokenizer, {.stop = {"<|im_"}, .skip_special = false, .include_stop = true});
  CHECK(special.push(id("h")) == "h");
  CHECK(special.push(id("<|im_end|>")) == "<|im_");
  CHECK(special.stop_idx() == 0);
}

}  // namespace fastgen
