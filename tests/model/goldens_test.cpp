// Real models against what Hugging Face transformers computed for them. Needs the optional assets, and SmolLM2 in the cache.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <simdjson.h>

#include "support/gpu.h"
#include "support/model_runner.h"
#include "support/support.h"

namespace fastgen {
namespace {

namespace dom = simdjson::dom;

// One prompt and its greedy answer, as the golden's author computed them.
struct Golden {
  std::vector<std::int32_t> ids;  // prompt, then answer
  std::int32_t prompt_len = 0;
  std::vector<double> logprobs;  // of each id but the first
  std::vector<double> margins;   // of the answer: best minus second
};

std::int32_t as_id(dom::element element) { return static_cast<std::int32_t>(element.get_int64().value()); }

// `top` has rows [id, ..., logprob], most likely first.
void add_step(Golden& golden, dom::element step, const char* top_key) {
  const dom::array top = step[top_key].get_array().value();
  const auto logprob = [&](std::size_t i) {
    const dom::array row = top.at(i).get_array().value();
    return row.at(row.size() - 1).get_double().value();
  };
  golden.ids.push_back(as_id(step["id"]));
  golden.logprobs.push_back(logprob(0));
  golden.margins.push_back(logprob(0) - logprob(1));
}

Golden read_golden(dom::element json, const char* top_key) {
  Golden golden;
  for (dom::element id : json["prompt_ids"].get_array()) golden.ids.push_back(as_id(id));
  golden.prompt_len = static_cast<std::int32_t>(golden.ids.size());
  for (dom::element value : json["prompt_logprobs"].get_array()) {
    if (!value.is_null()) golden.logprobs.push_back(value.get_double().value());
  }
  for (dom::element step : json["steps"].get_array()) add_step(golden, step, top_key);
  REQUIRE(golden.logprobs.size() + 1 == golden.ids.size());
  return golden;
}

// The float32 cases of weights/goldens/NAME.hf.json.
std::vector<Golden> read_hf(const std::string& name) {
  dom::parser parser;
  std::vector<Golden> goldens;
  const std::string path = test::find_asset("weights/goldens/" + name + ".hf.json")->string();
  for (dom::element json : parser.load(path)["cases"].get_array()) {
    if (json["dtype"].get_string().value() == "float32") goldens.push_back(read_golden(json, "top5"));
  }
  REQUIRE(!goldens.empty());
  return goldens;
}

std::vector<Golden> read_chats() {
  dom::parser parser;
  std::vector<Golden> goldens;
  std::ifstream in(*test::find_asset("goldens/smollm2/chat.jsonl"));
  for (std::string line; std::getline(in, line);) goldens.push_back(read_golden(parser.parse(line), "top"));
  REQUIRE(goldens.size() == 16);
  return goldens;
}

struct Tolerance {
  double most;
  double p99;
};
constexpr Tolerance kF32{0.0002, 0.0002};
constexpr Tolerance kBF16{0.10, 0.045};
constexpr Tolerance kBF16MostOnly{0.10, 0.10};

// 256 rows of 16 chats: in bfloat16 a GPU rounds less in steps of so many (cuda_backend.h).
constexpr std::int32_t kChunk = 16;

void check_within(const char* what, std::vector<double> differences, Tolerance tolerance) {
  if (differences.empty()) return;
  std::sort(differences.begin(), differences.end());
  const double most = differences.back(), p99 = differences[(differences.size() - 1) * 99 / 100];
  std::printf("  %zu tokens of %s: |logprob difference| at most %.6f, 99th percentile %.6f\n", differences.size(), what, most, p99);
  CHECK(most <= tolerance.most);
  CHECK(p99 <= tolerance.p99);
}

// Teacher forcing of all goldens together, prompts in chunks and answers token by token. The tolerance is of the answers, tokens
// that the model chose. In a prompt stand tokens of any logprob, -22 too, and bfloat16 errs in proportion; their 99th percentile says
// little, because the chats begin with the same words.
void check_forced(test::ModelRunner& runner, const std::vector<Golden>& goldens, Tolerance tolerance) {
  runner.clear();
  for (const Golden& golden : goldens) runner.add(golden.ids, golden.prompt_len, 0);
  runner.run(kChunk);
  std::vector<double> prompts, answers;
  for (std::size_t g = 0; g < goldens.size(); ++g) {
    const Golden& golden = goldens[g];
    const auto& scores = runner.sequence(g).scores;
    const auto prompt_len = static_cast<std::size_t>(golden.prompt_len);
    for (std::size_t i = 1; i < golden.ids.size(); ++i) {
      const double expected = golden.logprobs[i - 1];
      const double signed_difference = static_cast<double>(scores[i].logprob) - expected;
      const double difference = std::isfinite(signed_difference) ? std::abs(signed_difference) : INFINITY;
      if (i < prompt_len) {
        prompts.push_back(difference / std::max(1.0, std::abs(expected)));
        continue;
      }
      answers.push_back(difference);
      if (golden.margins[i - prompt_len] > 2 * tolerance.most) CHECK(scores[i].top_id == golden.ids[i]);
    }
  }
  check_within("answers", answers, tolerance);
  check_within("prompts, relative", prompts, {tolerance.most, tolerance.most});
}

// Greedy text equals the golden's up to the first step that a difference within the tolerance could turn.
void check_greedy(test::ModelRunner& runner, const std::vector<Golden>& goldens, Tolerance tolerance) {
  runner.clear();
  for (const Golden& golden : goldens) {
    const auto count = static_cast<std::int32_t>(golden.ids.size()) - golden.prompt_len;
    runner.add({golden.ids.begin(), golden.ids.begin() + golden.prompt_len}, golden.prompt_len, count);
  }
  runner.run(100);
  for (std::size_t g = 0; g < goldens.size(); ++g) {
    const Golden& golden = goldens[g];
    const auto& ids = runner.sequence(g).ids;
    const auto prompt_len = static_cast<std::size_t>(golden.prompt_len);
    for (std::size_t i = prompt_len; i < golden.ids.size() && golden.margins[i - prompt_len] >= 2 * tolerance.most; ++i) {
      REQUIRE(i < ids.size());
      REQUIRE(ids[i] == golden.ids[i]);
    }
  }
}

void check_model(const std::string& backend, const std::filesystem::path& folder, const std::vector<Golden>& goldens,
                 Tolerance bf16 = kBF16) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    CAPTURE(dtype_name(dtype));
    std::printf("%s %s on %s\n", folder.filename().c_str(), dtype_name(dtype), backend.c_str());
    test::ModelRunner runner(folder, {.make_backend = [&] { return make_backend(backend, {}); }, .dtype = dtype, .num_blocks = 160});
    const Tolerance tolerance = dtype == DType::kF32 ? kF32 : bf16;
    check_forced(runner, goldens, tolerance);
    check_greedy(runner, goldens, tolerance);
  }
}

void check_asset(const std::string& backend, const std::string& folder, const std::string& golden, Tolerance bf16 = kBF16) {
  const auto path = test::find_asset("weights/" + folder);
  if (!path) FG_SKIP("assets/weights/" + folder);
  check_model(backend, *path, read_hf(golden), bf16);
}

void check_stories260K(const std::string& backend) { check_asset(backend, "stories260K-hf", "stories260K"); }
void check_stories15M(const std::string& backend) { check_asset(backend, "stories15M-hf-bf16-sharded", "stories15M-bf16"); }
// The 99th percentile of 56 tokens is the second largest. The CPU keeps it at 0.041; on an H200 it was 0.045 to 0.051, as kernels changed.
void check_tiny_llama31(const std::string& backend) {
  check_asset(backend, "tiny-llama31", "tiny-llama31", backend == "cuda" ? kBF16MostOnly : kBF16);
}
// These two have 72 tokens of answers each (0.048 for tiny-ministral on the CPU).
void check_tiny_ministral(const std::string& backend) { check_asset(backend, "tiny-ministral", "tiny-ministral", kBF16MostOnly); }
void check_tiny_qwen2(const std::string& backend) { check_asset(backend, "tiny-qwen2", "tiny-qwen2", kBF16MostOnly); }
void check_smollm2(const std::string& backend) {
  const auto folder = test::find_smollm2();
  if (!folder) FG_SKIP("SmolLM2 (scripts/get-model)");
  if (!test::find_asset("goldens/smollm2/chat.jsonl")) FG_SKIP("assets/goldens/smollm2");
  check_model(backend, *folder, read_chats());
}

TEST_CASE("stories260K gives transformers' logprobs and text") { check_stories260K("cpu"); }
TEST_CASE("stories15M in three shards gives transformers' logprobs and text") { check_stories15M("cpu"); }
TEST_CASE("tiny-llama31 with scaled RoPE gives transformers' logprobs and text") { check_tiny_llama31("cpu"); }
TEST_CASE("tiny-ministral with a sliding window gives transformers' logprobs and text") { check_tiny_ministral("cpu"); }
TEST_CASE("tiny-qwen2 with attention biases gives transformers' logprobs and text") { check_tiny_qwen2("cpu"); }
TEST_CASE("SmolLM2 gives transformers' logprobs and text in all 16 chats") { check_smollm2("cpu"); }

// The same models, goldens and tolerances.
TEST_CASE("on a GPU every model gives transformers' logprobs and text") {
  if (!test::has_gpu()) FG_SKIP("a GPU");
  SUBCASE("stories260K") { check_stories260K("cuda"); }
  SUBCASE("stories15M") { check_stories15M("cuda"); }
  SUBCASE("tiny-llama31") { check_tiny_llama31("cuda"); }
  SUBCASE("tiny-ministral") { check_tiny_ministral("cuda"); }
  SUBCASE("tiny-qwen2") { check_tiny_qwen2("cuda"); }
  SUBCASE("SmolLM2") { check_smollm2("cuda"); }
}

}  // namespace
}  // namespace fastgen
