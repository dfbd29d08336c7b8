// tokenizer.model and tekken.json; that the tiny ones of tests/golden encode and decode as their makers' libraries do is in
// test_tokenizer.cpp, with all other goldens.
#include "text/other_files.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"
#include "text/golden_tokens.h"
#include "text/sentencepiece_file.h"

namespace fastgen {
namespace {

namespace fs = std::filesystem;

std::string tiny_model() { return test::read_file(test::golden() / "tokens/sentencepiece/tokenizer.model"); }
std::string tiny_tekken() { return test::read_file(test::golden() / "tokens/tekken/tekken.json"); }

template <typename Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

TEST_CASE("a sentencepiece model's control tokens and symbols are added tokens") {
  const auto tokenizer = Tokenizer::load(test::golden() / "tokens/sentencepiece");
  CHECK(tokenizer->bos_token() == "<s>");
  CHECK(tokenizer->eos_token() == "</s>");
  CHECK(tokenizer->is_special(tokenizer->find("<s>").value()));
  const TokenId inst = tokenizer->find("[INST]").value();
  CHECK_FALSE(tokenizer->is_special(inst));
  const auto ids = tokenizer->encode("<s>[INST] the");
  CHECK(ids[0] == 1);
  CHECK(std::count(ids.begin(), ids.end(), inst) == 1);
  CHECK(tokenizer->encode("the", true)[0] == 1);
}

TEST_CASE("what tokenizer_config.json says: begin and end tokens, and the space after control tokens of old") {
  const std::string model = tiny_model();
  const auto load = [&](const std::string& config) {
    const SentencePieceOptions options = read_sentencepiece_options(config, "config");
    return Tokenizer::parse(sentencepiece_to_json(model, "m", options), "m");
  };
  const auto newer = load(R"({"legacy": false, "model_max_length": 1000000000000000019884624838656})"), older = load("{}");
  CHECK(newer->encode("the") == older->encode("the"));
  CHECK(newer->encode("</s>the") != older->encode("</s>the"));  // older: a space before "the"
  CHECK(older->encode("</s>the").size() == 1 + older->encode("the").size());
  CHECK(load(R"({"add_bos_token": false})")->encode("the", true) == older->encode("the"));
  CHECK(load(R"({"add_eos_token": true})")->encode("the", true).back() == 2);
  CHECK(error_of([&] { load(R"({"legacy": 3})"); }).find("config: add_bos_token, add_eos_token or legacy cannot be read") == 0);
}

TEST_CASE("a sentencepiece model that is cut off or of another kind is refused by name") {
  const std::string model = tiny_model();
  const auto read = [](const std::string& bytes) { return error_of([&] { sentencepiece_to_json(bytes, "f.model", {}); }); };
  CHECK(read("").find("f.model: has no pieces") == 0);
  CHECK(read("not a model at all").find("f.model: ") == 0);
  CHECK(read("IQ== 0\nIg== 1\nIw== 2\n").find("f.model: is tiktoken's format") == 0);  // as Llama 3's own tokenizer.model begins
  CHECK(read("IQ== x\n").find("tiktoken") == std::string::npos);
  CHECK(read(model) == "no error");
  int num_errors = 0;
  for (std::size_t size = 0; size < model.size(); size += 13) num_errors += read(model.substr(0, size)) != "no error";
  CHECK(num_errors > static_cast<int>(model.size() / 13) - 2);  // cut between two pieces it is still not BPE
  const SentencePieceFile file = read_sentencepiece_file(model, "f.model");
  CHECK(file.is_bpe);
  CHECK(file.byte_fallback);
  CHECK(file.pieces.size() == 420);
  // model_type (field 3 of the trainer) 2 is BPE, 1 unigram; vocab_size, which is field 4, stands behind it.
  CHECK(read(replaced(model, "\x18\x02\x20", "\x18\x01\x20")).find("f.model: is not a BPE model") == 0);
}

TEST_CASE("tekken.json: control tokens of early versions, those that the file lists, and what is wrong with it") {
  const auto tokenizer = Tokenizer::load(test::golden() / "tokens/tekken");
  CHECK(tokenizer->find("[INST]") == 3);
  CHECK(tokenizer->find("<SPECIAL_25>") == 25);
  CHECK(tokenizer->is_special(3));
  CHECK(tokenizer->bos_token() == "<s>");
  CHECK(tokenizer->encode("[INST]") == std::vector<TokenId>{3});
  CHECK(tokenizer->encode("x", true)[0] == 1);
  const std::string json = tiny_tekken();
  const std::string listed = replaced(json, R"({"config")", R"({"special_tokens": [{"rank": 1, "token_str": "<s>"}, {"rank": 4, "token_str": "[X]"}], "config")");
  CHECK(Tokenizer::parse(tekken_to_json(listed, "t"), "t")->find("[X]") == 4);
  const auto read = [](const std::string& text) { return error_of([&] { tekken_to_json(text, "t.json"); }); };
  CHECK(read("{").find("t.json: ") == 0);
  CHECK(read(replaced(json, R"("AQ==")", R"("*Q==")")).find("is not base64") != std::string::npos);
  CHECK(read(replaced(json, R"("rank": 7)", R"("rank": 8)")).find("has another rank than its place, 7") != std::string::npos);
  CHECK(read(replaced(json, R"("default_num_special_tokens": 30)", R"("default_num_special_tokens": 30000)")).find("must be over") != std::string::npos);
  CHECK(read(replaced(json, R"("pattern")", R"("pattern_")")).find("pattern") != std::string::npos);
  CHECK(read(replaced(listed, "[X]", "<s>")).find("stands twice") != std::string::npos);
}

TEST_CASE("a folder without any of the files says what it lacks") {
  test::TempDir dir;
  CHECK(error_of([&] { Tokenizer::load(dir.path()); }) == dir.path().string() + ": no tokenizer.json there, nor tekken.json or tokenizer.model");
}

// The published files against what Hugging Face made of the same texts with the tokenizer.json beside them.
TEST_CASE("tokenizer.model of published models gives the goldens' ids") {
  const std::pair<const char*, const char*> models[] = {{"weights/stories15M-hf-bf16-sharded", "stories15M-llama2"},
                                                        {"models/mistral-7b-instruct-v0.3", "mistral-7b-instruct-v0.3"}};
  for (const auto& [folder, golden] : models) {
    const auto file = test::find_asset(std::string(folder) + "/tokenizer.model");
    const auto cases = test::find_asset(std::string("goldens/tokens/") + golden + ".jsonl");
    if (!file || !cases) FG_SKIP("assets/goldens/tokens");
    CAPTURE(std::string(golden));
    test::TempDir dir;
    fs::copy(*file, dir.path() / "tokenizer.model");
    const fs::path config = file->parent_path() / "tokenizer_config.json";
    if (fs::exists(config)) fs::copy(config, dir.path() / "tokenizer_config.json");
    const auto tokenizer = Tokenizer::load(dir.path());
    for (const test::TokenCase& c : test::read_token_cases(*cases)) {
      CAPTURE(c.text);
      CHECK(tokenizer->encode(c.text) == c.ids);
    }
  }
}

}  // namespace
}  // namespace fastgen
