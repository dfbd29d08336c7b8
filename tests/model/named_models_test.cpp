// The configs of the models that the README names, written from their published shapes (tests/configs).
#include <filesystem>
#include <string>

#include "model/config.h"
#include "support/support.h"

namespace fastgen {
namespace {

namespace fs = std::filesystem;

struct Named {
  const char* folder;
  std::int64_t num_parameters;  // as published
  std::int64_t kv_bytes;        // per token in bfloat16
};
constexpr Named kNamed[] = {
    {"llama-3.1-8b", 8'030'261'248, 131072},
    {"llama-3.2-1b", 1'235'814'400, 32768},
    {"llama-3.3-70b", 70'553'706'496, 327680},
    {"r1-distill-llama-8b", 8'030'261'248, 131072},
    {"r1-distill-llama-70b", 70'553'706'496, 327680},
    {"mistral-7b", 7'248'023'552, 131072},
    {"ministral-8b", 8'019'808'256, 147456},
    {"mistral-nemo-12b", 12'247'782'400, 163840},
    {"qwen2.5-7b", 7'615'616'512, 57344},
    {"qwen2.5-14b", 14'770'033'664, 196608},
    {"r1-distill-qwen-14b", 14'770'033'664, 196608},
    {"qwen3-8b", 8'190'735'360, 147456},
    {"tinyllama-1.1b", 1'100'048'384, 22528},
    {"smollm2-135m", 134'515'008, 23040},
};

fs::path configs() { return test::golden().parent_path() / "configs"; }

TEST_CASE("every named model's config gives its published number of parameters") {
  for (const Named& named : kNamed) {
    CAPTURE(std::string(named.folder));
    const ModelConfig config = load_config(configs() / named.folder);
    CHECK(config.num_parameters() == named.num_parameters);
    CHECK(config.kv_bytes_per_token(DType::kBF16) == named.kv_bytes);
  }
}

TEST_CASE("no config stands here unnamed") {
  std::ptrdiff_t num_folders = std::distance(fs::directory_iterator(configs()), fs::directory_iterator());
  CHECK(num_folders == static_cast<std::ptrdiff_t>(std::size(kNamed)));
}

}  // namespace
}  // namespace fastgen
