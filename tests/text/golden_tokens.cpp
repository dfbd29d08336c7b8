#include "text/golden_tokens.h"

#include <sstream>

#include "support/support.h"
#include "text/json_part.h"

namespace fastgen::test {

namespace fs = std::filesystem;

namespace {

std::vector<TokenId> ids_of(const JsonPart& part) {
  std::vector<TokenId> ids;
  for (const JsonPart& id : part.items()) ids.push_back(static_cast<TokenId>(id.integer()));
  return ids;
}

// Where the tokenizers of goldens/tokens lie, as assets/README.md has it.
fs::path folder_of(const std::string& name) {
  if (name == "stories260K") return assets() / "weights/stories260K-hf";
  if (name == "stories15M-llama2") return assets() / "weights/stories15M-hf-bf16-sharded";
  if (name == "smollm2-135m-instruct") return find_smollm2().value_or("");
  return assets() / "models" / name;
}

void add_folder(const fs::path& cases, bool own, std::vector<GoldenTokenizer>& found) {
  if (!fs::exists(cases)) return;
  for (const auto& entry : fs::directory_iterator(cases)) {
    if (entry.path().extension() != ".jsonl") continue;
    std::string name = entry.path().stem().string();
    fs::path folder = own ? cases / name : folder_of(name);
    const auto has = [&](const char* file) { return fs::exists(folder / file); };
    if (!folder.empty() && (has("tokenizer.json") || has("tekken.json") || has("tokenizer.model")))
      found.push_back({name, folder, entry.path()});
  }
}

}  // namespace

std::vector<TokenCase> read_token_cases(const fs::path& jsonl) {
  std::vector<TokenCase> cases;
  std::istringstream lines(read_file(jsonl));
  for (std::string line; std::getline(lines, line);) {
    JsonDocument document(line, jsonl.string());
    JsonPart part = document.root();
    TokenCase c;
    c.only_ids = !part.find("text");
    c.text = part.string_or("text", "");
    c.ids = ids_of(part.at("ids"));
    c.ids_special = part.find("ids_special") ? ids_of(part.at("ids_special")) : c.ids;
    c.decoded = part.string_or("decoded", c.text);
    c.has_decoded_skip = part.find("decoded_skip").has_value();
    c.decoded_skip = part.string_or("decoded_skip", "");
    cases.push_back(std::move(c));
  }
  return cases;
}

std::vector<GoldenTokenizer> find_golden_tokenizers() {
  std::vector<GoldenTokenizer> found;
  add_folder(golden() / "tokens", true, found);
  add_folder(assets() / "goldens/tokens", false, found);
  return found;
}

std::vector<std::shared_ptr<const Tokenizer>> load_golden_tokenizers() {
  std::vector<std::shared_ptr<const Tokenizer>> tokenizers;
  for (const auto& golden : find_golden_tokenizers()) tokenizers.push_back(Tokenizer::load(golden.folder));
  return tokenizers;
}

}  // namespace fastgen::test
