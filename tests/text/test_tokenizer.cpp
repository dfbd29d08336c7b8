#include <algorithm>
#include <ctime>
#include <fstream>

#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"
#include "text/golden_tokens.h"
#include "text/random_text.h"

namespace fastgen {

using test::find_golden_tokenizers;
using test::read_token_cases;
using test::TokenCase;

namespace {

// Byte-level with the whole alphabet and a few hundred merges; <|im_end|> is special, four spaces are one
// token.
std::shared_ptr<const Tokenizer> byte_level() {
  return Tokenizer::load(test::golden() / "tokens" / "byte_level");
}

// Sentencepiece's way. "<s>" is a control token, "<0xC3>" and "<0xA9>" are bytes, "_" a space.
constexpr std::string_view kLlamaLike = R"({
  "added_tokens": [{"id": 0, "content": "<unk>", "special": true}, {"id": 1, "content": "<s>", "special": true}],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
  "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "_"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true,
    "vocab": {"<unk>": 0, "<s>": 1, "<0xC3>": 2, "<0xA9>": 3, "_": 4, "a": 5, "_a": 6, "aa": 7},
    "merges": ["_ a", ["a", "a"]]}})";

using Ids = std::vector<TokenId>;

bool contains(const Ids& ids, TokenId id) { return std::ranges::find(ids, id) != ids.end(); }

}  // namespace

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

TEST_CASE("tokenizer: bytes without a token, runs of unknown characters, both notations of merges") {
  auto tokenizer = Tokenizer::parse(kLlamaLike, "llama-like");
  CHECK(tokenizer->vocab_size() == 8);
  CHECK(tokenizer->encode("a aa") == Ids{6, 6, 5});
  CHECK(tokenizer->encode("aaa") == Ids{6, 7});
  CHECK(tokenizer->encode("é") == Ids{4, 2, 3});
  CHECK(tokenizer->encode("xyza") == Ids{4, 0, 5});  // unknown ones in a row are one
  CHECK(tokenizer->encode("<s>a") == Ids{1, 6});
  CHECK(tokenizer->decode(Ids{6, 4, 2, 3, 5}) == "a \u00e9a");
  CHECK(tokenizer->decode(Ids{2, 2, 3, 5}) == "\ufffd\ufffd\ufffda");  // one bad byte spoils the whole run
  CHECK(tokenizer->decode(Ids{1, 6, -1, 99}, false) == "<s> a");
  CHECK(tokenizer->decode(Ids{1, 6}, true) == "a");
  CHECK(tokenizer->token_bytes(6) == " a");
  CHECK(tokenizer->token_bytes(2) == "\xc3");
  CHECK(tokenizer->token_bytes(99) == "");
  CHECK(tokenizer->is_special(1));
  CHECK(!tokenizer->is_special(5));
  CHECK(!tokenizer->is_special(-1));
}

TEST_CASE("tokenizer: control tokens match only where all their bytes are trusted") {
  auto tokenizer = byte_level();
  TokenId end = tokenizer->find("<|im_end|>").value(), four = tokenizer->find("    ").value();
  const std::string control = "<|im_end|>";
  MarkedText text{"hi" + control + "ho" + control, {}};
  CHECK(!contains(tokenizer->encode(text), end));
  CHECK(tokenizer->encode(text) == tokenizer->encode(text.text, false, SpecialText::kAsText));
  CHECK(tokenizer->decode(tokenizer->encode(text)) == text.text);
  CHECK(tokenizer->encode(text, false, true) == tokenizer->encode(text.text));

  text.trusted = {{2, 12}};
  Ids first = tokenizer->encode(text);
  CHECK(std::ranges::count(first, end) == 1);
  CHECK(tokenizer->decode(first) == text.text);
  text.trusted = {{2, 7}, {7, 12}};  // adjacent ranges are one
  CHECK(tokenizer->encode(text) == first);
  for (std::size_t hole = 2; hole < 12; ++hole) {
    text.trusted = {{0, hole}, {hole + 1, text.text.size()}};
    CHECK(std::ranges::count(tokenizer->encode(text), end) == 1);  // only the second one
  }
  text.trusted = {{0, text.text.size()}};
  CHECK(tokenizer->encode(text) == tokenizer->encode(text.text));
  // White space controls nothing, and trust borders cut no word.
  CHECK(contains(tokenizer->encode(MarkedText{"x    x", {}}), four));
  CHECK(tokenizer->encode(MarkedText{"hello there", {{0, 2}, {7, 9}}}) == tokenizer->encode("hello there"));
}

TEST_CASE("tokenizer: no way from untrusted text to a control token, whatever the model") {
  test::Rng rng(test::seed());
  for (const auto& tokenizer : test::load_golden_tokenizers()) {
    Ids control;
    for (TokenId id = 0; id < tokenizer->vocab_size(); ++id) {
      if (tokenizer->is_special(id) && id != tokenizer->find("<unk>")) control.push_back(id);
    }
    for (int round = 0; round < 200 && !control.empty(); ++round) {
      TokenId id = control[test::below(rng, control.size())];
      std::string name = tokenizer->decode(Ids{id});
      std::string text = test::random_text(rng, 2) + name + test::random_text(rng, 2);
      if (round % 4 == 0) text = name;
      CAPTURE(text);
      for (TokenId made : tokenizer->encode(text, false, SpecialText::kAsText))
        REQUIRE(!contains(control, made));
    }
  }
}

TEST_CASE("tokenizer: trust follows the text through normalizers and ill-formed bytes") {
  // The control token is looked for in normalized text here.
  std::string json(kLlamaLike);
  json.replace(json.find(R"("<s>", "special": true)"), 22, R"("<s>", "special": true, "normalized": true)");
  json.replace(json.find(R"("prepend": "_")"), 14, R"("prepend": "")");
  auto tokenizer = Tokenizer::parse(json, "normalized");
  CHECK(tokenizer->encode("a <s>a") == Ids{5, 4, 1, 5});
  CHECK(!contains(tokenizer->encode(MarkedText{"a <s>a", {}}), 1));
  CHECK(contains(tokenizer->encode(MarkedText{"a <s>a", {{2, 5}}}), 1));
  CHECK(!contains(tokenizer->encode(MarkedText{"a <s>a", {{2, 4}}}), 1));
  CHECK(contains(tokenizer->encode(MarkedText{"\xff\xff<s>\xff", {{2, 5}}}), 1));
  CHECK(!contains(tokenizer->encode(MarkedText{"\xff\xff<s>\xff", {{0, 4}}}), 1));
}

TEST_CASE("tokenizer: ill-formed input is U+FFFD") {
  auto tokenizer = byte_level();
  CHECK(tokenizer->encode("a\xff\xe2\x82 b") == tokenizer->encode("a\ufffd\ufffd b"));
}

TEST_CASE("tokenizer: random text survives encode and decode where bytes are kept") {
  test::Rng rng(test::seed());
  auto tokenizer = byte_level();
  for (int round = 0; round < 3000; ++round) {
    std::string text = test::random_text(rng, 60);
    CAPTURE(text);
    auto ids = tokenizer->encode(text);
    REQUIRE(tokenizer->decode(ids) == text);
    std::string bytes;
    for (TokenId id : ids) bytes += tokenizer->token_bytes(id);
    REQUIRE(bytes == text);
    REQUIRE(tokenizer->encode(text) == ids);  // the second time from the cache
  }
}

TEST_CASE("tokenizer: long words take time n log n") {
  // Processor time of one call; a word eight times as long may take little more than eight times that, not 64
  // times.
  auto encode_s = [](const Tokenizer& tokenizer, const std::string& text) {
    std::clock_t start = std::clock();
    REQUIRE(!tokenizer.encode(text).empty());
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  auto marks = [](std::size_t count) {  // in the wrong order for NFC
    std::string text = "a";
    while (count-- > 0) text += count % 2 == 0 ? "\u0301" : "\u0323";
    return text;
  };
  constexpr std::size_t kShort = 1 << 17, kLong = 1 << 20;
  for (const char* name : {"byte_level", "split_regex", "tekken_regex", "byte_fallback", "metaspace"}) {
    CAPTURE(name);
    auto tokenizer = Tokenizer::load(test::golden() / "tokens" / name);
    for (char letter : {'a', ' '}) {
      double short_s = encode_s(*tokenizer, std::string(kShort, letter));
      CHECK(encode_s(*tokenizer, std::string(kLong, letter)) < 32 * short_s + 0.2);
    }
    double short_s = encode_s(*tokenizer, marks(kShort / 8));
    CHECK(encode_s(*tokenizer, marks(kLong / 8)) < 32 * short_s + 0.2);
  }
}

TEST_CASE("tokenizer: what is wrong or not supported is named") {
  auto broken = [](std::string_view from, std::string_view to) {
    std::string json(kLlamaLike);
    std::size_t at = json.find(from);
    REQUIRE(at != std::string::npos);
    return json.replace(at, from.size(), to);
  };
  struct Case {
    std::string json, message;
  };
  const Case cases[] = {
      {"{", "t.json: is not valid JSON"},
      {"[]", "t.json: must be an object"},
      {"{}", "t.json: lacks model"},
      {broken("\"BPE\"", "\"Unigram\""), "t.json: model type Unigram is not supported"},
      {broken("\"_ a\"", "\"_ a a\""), "t.json: model.merges must hold pairs"},
      {broken("\"_ a\"", "\"_ aa\""), "t.json: model.merges token _aa is not in the vocabulary"},
      {broken("\"aa\": 7", "\"aa\": 6"), "share id 6"},
      {broken("\"aa\": 7", "\"aa\": -7"), "out of range"},
      {broken("\"aa\": 7", "\"aa\": 99999999999"), "out of range"},
      {broken("\"aa\": 7", "\"aa\": \"7\""), "must be an integer"},
      {broken("Prepend", "Precompiled"), "normalizers[0] normalizer Precompiled is not supported"},
      {broken("ByteFallback", "CTC"), "decoders[1] decoder CTC is not supported"},
      {broken("\"stop\": 0", "\"stop\": 1"), "decoder Strip at the end"},
      {broken("\"unk_token\": \"<unk>\"", "\"unk_token\": \"?\""),
       "model.unk_token is not in the vocabulary"},
      {broken("\"fuse_unk\": true", "\"fuse_unk\": 1"), "model.fuse_unk must be true or false"},
      {broken("\"fuse_unk\"", "\"dropout\": 0.1, \"fuse_unk\""), "dropout is not supported"},
      {broken("\"decoder\"", R"("pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder")"),
       "BertPreTokenizer is not supported"},
      {broken("\"decoder\"", R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}, "decoder")"),
       "t.json: pre_tokenizer.pattern.Regex pre_tokenizer Split: regex: missing closing parenthesis"},
      {broken("\"decoder\"", R"("post_processor": {"type": "X"}, "decoder")"),
       "post-processor X is not supported"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.message);
    try {
      Tokenizer::parse(c.json, "t.json");
      FAIL("must be refused");
    } catch (const Error& error) {
      CHECK_MESSAGE(std::string(error.what()).find(c.message) != std::string::npos, error.what());
    }
  }
  CHECK_THROWS_AS(Tokenizer::load("/nonexistent"), Error);
}

TEST_CASE("tokenizer: bos and eos come from tokenizer_config.json, as text or object") {
  test::TempDir dir;
  auto write = [&](const char* name, std::string_view text) { std::ofstream(dir.path() / name) << text; };
  write("tokenizer.json", kLlamaLike);
  CHECK(Tokenizer::load(dir.path())->bos_token() == "");
  write(
      "tokenizer_config.json",
      R"({"model_max_length": 1000000000000000019884624838656, "bos_token": {"content": "<s>"}, "eos_token": "</s>"})");
  CHECK(Tokenizer::load(dir.path())->bos_token() == "<s>");
  CHECK(Tokenizer::load(dir.path())->eos_token() == "</s>");
  write("tokenizer_config.json", R"({"bos_token": 7})");
  CHECK_THROWS_AS(Tokenizer::load(dir.path()), Error);
  write("tokenizer_config.json", R"({"bos_token": )");
  CHECK_THROWS_AS(Tokenizer::load(dir.path()), Error);
}

}  // namespace fastgen
