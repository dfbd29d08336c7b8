#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "backend/forwarding.h"
#include "model/tiny_model.h"
#include "support/model_runner.h"
#include "support/support.h"

namespace fastgen {
namespace {

using test::RunnerOptions;
using test::TinyModel;

struct Variant {
  std::string name;
  bool tied = false;
  bool llama3 = false;
  const char* architecture = "LlamaForCausalLM";
};
const Variant kVariants[] = {{.name = "untied"},
                             {.name = "tied", .tied = true},
                             {.name = "llama3 rope", .llama3 = true},
                             {.name = "window", .architecture = "MistralForCausalLM"},
                             {.name = "windows in some layers", .architecture = "MinistralForCausalLM"},
                             {.name = "bias", .architecture = "Qwen2ForCausalLM"},
                             {.name = "q and k norms", .architecture = "Qwen3ForCausalLM"}};

ModelConfig config_of(const Variant& variant) {
  ModelConfig config = test::tiny_config();
  config.tied_head = variant.tied;
  if (variant.llama3) {
    config.rope = {.scaling = RopeScaling::kLlama3, .theta = 1000, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_positions = 32};
  }
  config.architecture = variant.architecture;
  if (config.architecture == "MistralForCausalLM") config.window = 11;
  if (config.architecture == "MinistralForCausalLM") config.window = 11, config.windowed = {false, true};
  config.qk_norm = config.architecture == "Qwen3ForCausalLM";
  config.qkv_bias = config.architecture == "Qwen2ForCausalLM";
  return config;
}

// The largest difference of a known token's logprob from the reference's.
double largest_difference(const std::vector<test::TokenScore>& scores, const std::vector<std::int32_t>& ids,
                          const std::vector<std::vector<double>>& reference) {
  double largest = 0;
  for (std::size_t i = 1; i < ids.size(); ++i) {
    const double expected = reference[i - 1][static_cast<std::size_t>(ids[i])];
    const double difference = std::abs(static_cast<double>(scores[i].logprob) - expected);
    largest = std::isfinite(difference) ? std::max(largest, difference) : INFINITY;
  }
  return largest;
}

std::int32_t argmax(const std::vector<double>& values) {
  return static_cast<std::int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

double top_two_margin(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + 1, values.end(), std::greater<>());
  return std::abs(values[0] - values[1]);
}

constexpr double kF32Tolerance = 5e-4;

TEST_CASE("float32 equals the plain forward in double, however the prompt is cut") {
  for (const Variant& variant : kVariants) {
    CAPTURE(variant.name);
    test::TempDir dir;
    const TinyModel model = test::make_tiny_model(config_of(variant), test::seed());
    write_tiny_model(model, dir.path());
    const auto ids = test::random_ids(61, model.config.vocab, test::seed());
    const auto reference = reference_logprobs(model, ids);
    test::ModelRunner runner(dir.path(), {.block_size = 4});
    // All at once; in chunks that do not divide blocks; a short prompt and 56 tokens of decode.
    CHECK(largest_difference(runner.force(ids, 61, 61), ids, reference) < kF32Tolerance);
    CHECK(largest_difference(runner.force(ids, 61, 7), ids, reference) < kF32Tolerance);
    CHECK(largest_difference(runner.force(ids, 5, 3), ids, reference) < kF32Tolerance);
  }
}

TEST_CASE("the tolerance is tight: a slightly wrong model fails it") {
  test::TempDir dir;
  TinyModel model = test::make_tiny_model(config_of(kVariants[2]), test::seed());
  write_tiny_model(model, dir.path());
  const auto ids = test::random_ids(40, model.config.vocab, test::seed());
  test::ModelRunner runner(dir.path());
  const auto scores = runner.force(ids, 40, 40);
  CHECK(largest_difference(scores, ids, reference_logprobs(model, ids)) < kF32Tolerance);
  const auto fails = [&] { return largest_difference(scores, ids, reference_logprobs(model, ids)) > 4 * kF32Tolerance; };
  const ModelConfig right = model.config;
  model.config.rope.scaling = RopeScaling::kNone;
  CHECK(fails());
  model.config = right;
  model.config.norm_eps = 1e-2f;
  CHECK(fails());
  model.config = right;
  std::swap(model.tensors["model.layers.1.mlp.gate_proj.weight"], model.tensors["model.layers.1.mlp.up_proj.weight"]);
  CHECK(fails());
}

// Products read bfloat16, so that the difference is that of rounding: 0.12 at most was seen, on a Xeon with AVX-512.
TEST_CASE("bfloat16 stays near the plain forward") {
  for (const Variant& variant : kVariants) {
    CAPTURE(variant.name);
    test::TempDir dir;
    const TinyModel model = test::make_tiny_model(config_of(variant), 20240607);
    write_tiny_model(model, dir.path());
    const auto ids = test::random_ids(61, model.config.vocab, 3);
    const auto reference = reference_logprobs(model, ids);
    test::ModelRunner runner(dir.path(), {.dtype = DType::kBF16, .block_size = 4});
    CHECK(largest_difference(runner.force(ids, 61, 61), ids, reference) < 0.2);
    CHECK(largest_difference(runner.force(ids, 5, 3), ids, reference) < 0.2);
  }
}

// Notes how many rows each gate and up product had.
class CountingBackend final : public ForwardingBackend {
 public:
  explicit CountingBackend(std::vector<std::int64_t>& rows) : ForwardingBackend(make_cpu_backend({})), rows_(rows) {}
  void gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) override {
    rows_.push_back(x.rows());
    inner().gate_up_silu(stream, x, weight, out);
  }

 private:
  std::vector<std::int64_t>& rows_;
};

TEST_CASE("the last layer computes no more than the rows that draw") {
  test::TempDir dir;
  const TinyModel model = test::make_tiny_model(config_of(kVariants[0]), test::seed());
  write_tiny_model(model, dir.path());
  REQUIRE(model.config.num_layers == 2);
  std::vector<std::int64_t> rows;
  test::ModelRunner runner(dir.path(), {.make_backend = [&] { return std::make_unique<CountingBackend>(rows); }, .block_size = 4});
  runner.generate(test::random_ids(20, model.config.vocab, test::seed()), 2, 13);
  // Two chunks, of which the second draws, and a step of decode.
  CHECK(rows == std::vector<std::int64_t>{13, 7, 1, 1, 1});
}

TEST_CASE("greedy tokens and their logprobs follow the reference") {
  test::TempDir dir;
  const TinyModel model = test::make_tiny_model(config_of(kVariants[0]), test::seed());
  write_tiny_model(model, dir.path());
  test::ModelRunner runner(dir.path(), {.block_size = 4});
  auto ids = test::random_ids(9, model.config.vocab, test::seed());
  const auto output = runner.generate(ids, 24, 4);
  REQUIRE(!output.empty());
  const auto& sequence = runner.sequence(0);
  const auto reference = reference_logprobs(model, sequence.ids);
  for (std::size_t i = 9; i < sequence.ids.size(); ++i) {
    const auto& row = reference[i - 1];
    if (top_two_margin(row) < 2 * kF32Tolerance) break;
    CHECK(sequence.ids[i] == argmax(row));
    CHECK(sequence.scores[i].top_id == sequence.ids[i]);
    CHECK(sequence.scores[i].logprob == doctest::Approx(row[static_cast<std::size_t>(sequence.ids[i])]).epsilon(kF32Tolerance));
  }
}

TEST_CASE("sequences of one step do not touch each other: decode rows, chunks and new prompts together") {
  test::TempDir dir;
  const TinyModel model = test::make_tiny_model(config_of(kVariants[1]), test::seed());
  write_tiny_model(model, dir.path());
  test::ModelRunner runner(dir.path(), {.block_size = 4, .max_tokens = 64, .max_logit_rows = 5});
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::size_t i = 0; i < 5; ++i) {
    prompts.push_back(test::random_ids(30 + i, model.config.vocab, test::seed() + i));
    runner.add(prompts.back());
  }
  // Each sequence goes at its own pace, beginning with its own step; sequence 0 decodes all the way.
  std::mt19937_64 random(test::seed());
  for (std::size_t step = 0;; ++step) {
    std::vector<test::ModelRunner::Work> work;
    for (std::size_t i = 0; i <= std::min<std::size_t>(step, 4); ++i) {
      const auto left = static_cast<std::int32_t>(prompts[i].size()) - runner.sequence(i).num_computed;
      const auto most = i == 0 ? 1 : 1 + static_cast<std::int32_t>(random() % 11);
      if (left > 0) work.push_back({i, std::min(left, most)});
    }
    if (work.empty()) break;
    runner.step(work);
  }
  for (std::size_t i = 0; i < 5; ++i) {
    CAPTURE(i);
    const auto& sequence = runner.sequence(i);
    const auto reference = reference_logprobs(model, sequence.ids);
    CHECK(largest_difference(sequence.scores, prompts[i], reference) < kF32Tolerance);
    CHECK(sequence.ids.size() == prompts[i].size() + 1);
    if (top_two_margin(reference[prompts[i].size() - 1]) > 2 * kF32Tolerance) {
      CHECK(sequence.ids.back() == argmax(reference[prompts[i].size() - 1]));
    }
  }
}

TEST_CASE("shards, and float32 or float16 on disk, give the same model") {
  test::TempDir dir;
  const TinyModel model = test::make_tiny_model(config_of(kVariants[0]), test::seed());
  write_tiny_model(model, dir.path() / "one");
  write_tiny_model(model, dir.path() / "three", "BF16", 3);
  write_tiny_model(model, dir.path() / "f32", "F32", 2);
  write_tiny_model(model, dir.path() / "f16", "F16");
  const auto ids = test::random_ids(30, model.config.vocab, test::seed());
  const auto scores = test::ModelRunner(dir.path() / "one").force(ids, 30, 30);
  const auto difference = [&](const char* folder) {
    const auto other = test::ModelRunner(dir.path() / folder).force(ids, 30, 30);
    double largest = 0;
    for (std::size_t i = 1; i < ids.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(scores[i].logprob) - static_cast<double>(other[i].logprob)));
    }
    return largest;
  };
  CHECK(difference("three") == 0);
  CHECK(difference("f32") == 0);
  CHECK(difference("f16") < 1e-2);  // small weights lose bits in float16
}

}  // namespace
}  // namespace fastgen
