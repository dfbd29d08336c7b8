// Cases that Hugging Face `tokenizers` made: one tokenizer and what it did to many texts.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fastgen/text.h"

namespace fastgen::test {

struct TokenCase {
  std::string text;
  std::vector<TokenId> ids;          // without special tokens
  std::vector<TokenId> ids_special;  // with; the same where the file has none
  std::string decoded;               // of ids; the text itself where the file has none
  std::string decoded_skip;          // without special tokens; empty where the file has none
  bool has_decoded_skip = false;
  bool only_ids = false;  // random ids without a text: only for decoding
};
std::vector<TokenCase> read_token_cases(const std::filesystem::path& jsonl);

// The model folder of each golden file of assets/goldens/tokens that is there, and the repository's own.
struct GoldenTokenizer {
  std::string name;
  std::filesystem::path folder, cases;
};
std::vector<GoldenTokenizer> find_golden_tokenizers();

std::vector<std::shared_ptr<const Tokenizer>> load_golden_tokenizers();

}  // namespace fastgen::test
