#include "model/loader.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <set>
#include <string>

#include "backend/bf16.h"
#include "backend/cpu/cpu_backend.h"
#include "fastgen/error.h"
#include "model/tiny_model.h"
#include "model/weight_source.h"
#include "support/model_runner.h"
#include "support/support.h"

namespace fastgen {
namespace {

using test::TinyModel;

std::string load_error(const TinyModel& model, const std::string& dtype = "BF16", int num_files = 1) {
  test::TempDir dir;
  write_tiny_model(model, dir.path(), dtype, num_files);
  const auto backend = make_cpu_backend({.num_threads = 1});
  try {
    load_weights(*backend, dir.path(), load_config(dir.path()), {});
  } catch (const Error& error) {
    const std::string message = error.what(), folder = dir.path().string() + "/";
    return message.starts_with(folder) ? message.substr(folder.size()) : message;
  }
  return "no error";
}

TEST_CASE("missing, extra and wrongly shaped tensors are named with their file") {
  const TinyModel good = test::make_tiny_model(test::tiny_config(), 1);
  CHECK(load_error(good) == "no error");
  TinyModel model = good;
  model.tensors.erase("model.layers.1.mlp.up_proj.weight");
  CHECK(load_error(model) == "model.safetensors: tensor model.layers.1.mlp.up_proj.weight is missing");
  CHECK(load_error(model, "F32", 2) == "model.safetensors.index.json: tensor model.layers.1.mlp.up_proj.weight is missing");

  model = good;
  model.tensors["model.layers.2.input_layernorm.weight"] = good.tensors.at("model.layers.1.input_layernorm.weight");
  CHECK(load_error(model) == "model.safetensors: tensor model.layers.2.input_layernorm.weight is not one of this model's");
  model = good;
  model.tensors["model.layers.0.self_attn.q_proj.bias"] = {{48}, std::vector<float>(48)};
  CHECK(load_error(model) == "model.safetensors: tensor model.layers.0.self_attn.q_proj.bias is not one of this model's");

  model = good;
  model.tensors["model.norm.weight"].shape = {6, 8};
  CHECK(load_error(model) == "model.safetensors: tensor model.norm.weight has shape [6, 8], config.json makes it [48]");
  model = good;
  model.tensors["model.layers.0.mlp.down_proj.weight"].shape = {80, 48};
  CHECK(load_error(model) == "model.safetensors: tensor model.layers.0.mlp.down_proj.weight has shape [80, 48], config.json makes it [48, 80]");
}

TEST_CASE("a dtype that is no weight's is named; what files carry for nothing is let pass") {
  test::TempDir dir;
  TinyModel model = test::make_tiny_model(test::tiny_config(), 1);
  write_tiny_model(model, dir.path());
  std::string file = test::read_file(dir.path() / "model.safetensors");
  const std::string from = R"("model.norm.weight": {"dtype": "BF16")", to = R"("model.norm.weight": {"dtype": "I16" )";
  file.replace(file.find(from), from.size(), to);
  std::ofstream(dir.path() / "model.safetensors", std::ios::binary) << file;
  const auto backend = make_cpu_backend({.num_threads = 1});
  const std::string expected = (dir.path() / "model.safetensors").string() + ": tensor model.norm.weight has dtype I16, which is not supported";
  CHECK_THROWS_WITH_AS(load_weights(*backend, dir.path(), load_config(dir.path()), {}), expected.c_str(), Error);

  model.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{4}, std::vector<float>(4, 1)};
  CHECK(load_error(model) == "no error");
  ModelConfig config = test::tiny_config();
  config.tied_head = true;
  TinyModel tied = test::make_tiny_model(config, 1);
  tied.tensors["lm_head.weight"] = tied.tensors["model.embed_tokens.weight"];
  CHECK(load_error(tied) == "no error");
}

TEST_CASE("progress goes up to every byte of the model") {
  test::TempDir dir;
  write_tiny_model(test::make_tiny_model(test::tiny_config(), 1), dir.path());
  const ModelConfig config = load_config(dir.path());
  const auto backend = make_cpu_backend({.num_threads = 1});
  std::vector<LoadProgress> seen;
  load_weights(*backend, dir.path(), config, {.on_progress = [&](const LoadProgress& progress) { seen.push_back(progress); }});
  REQUIRE(seen.size() > 10);
  CHECK(seen.front().done_bytes == 0);
  for (std::size_t i = 1; i < seen.size(); ++i) CHECK(seen[i].done_bytes > seen[i - 1].done_bytes);
  CHECK(seen.back().done_bytes == seen.back().total_bytes);
  CHECK(seen.back().total_bytes == static_cast<std::uint64_t>(config.num_parameters()) * 2);
}

// A file whose header is not padded holds its numbers at odd addresses.
TEST_CASE("the checkpoint source gives aligned tensors with the file's values") {
  for (int pad = 0; pad < 4; ++pad) {
    test::TempDir dir;
    std::string data;
    for (float value : {1.5f, -2.0f, 3.25f, 0.0f}) data.append(reinterpret_cast<const char*>(&value), 4);
    const std::string header = R"({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}})" + std::string(static_cast<std::size_t>(pad), ' ');
    std::ofstream(dir.path() / "model.safetensors", std::ios::binary) << test::safetensors_bytes(header, data);
    const TensorSpec spec{"w", {2, 2}};
    const auto source = make_checkpoint_source(Checkpoint::open(dir.path()), {spec}, false);
    CHECK(source->total_bytes() == 16);
    for (int round = 0; round < 2; ++round) {
      const Tensor tensor = source->read(spec);
      CHECK(reinterpret_cast<std::uintptr_t>(tensor.data) % 4 == 0);
      CHECK(tensor.rank == 2);
      CHECK(tensor.shape[0] == 2);
      CHECK(tensor.as<float>()[2] == 3.25f);
      const FilePlace place = source->place(spec);
      float numbers[4] = {};
      CHECK(pread(place.descriptor, numbers, 16, static_cast<off_t>(place.offset)) == 16);
      CHECK(std::memcmp(numbers, tensor.data, 16) == 0);
      source->release();
    }
  }
}

TEST_CASE("dummy weights are normal with sigma 0.02, repeatable, different by tensor and seed") {
  const TensorSpec big{"big.weight", {1000, 500}}, other{"other.weight", {1000, 500}}, norm{"a_norm.weight", {77}};
  const auto source = make_dummy_source({big, other, norm}, DType::kF32, 7);
  CHECK(source->total_bytes() == (500000 + 500000 + 77) * 4);
  const Tensor tensor = source->read(big);
  const float* values = tensor.as<float>();
  double sum = 0, squares = 0, fourth = 0;
  std::set<float> distinct(values, values + 500000);
  int within = 0;
  for (std::int64_t i = 0; i < 500000; ++i) {
    const double z = static_cast<double>(values[i]) / 0.02;
    REQUIRE(std::isfinite(z));
    sum += z;
    squares += z * z;
    fourth += z * z * z * z;
    within += std::abs(z) < 1;
  }
  // Five standard errors of each figure.
  CHECK(std::abs(sum / 500000) < 5 * 0.0014);
  CHECK(std::abs(squares / 500000 - 1) < 5 * 0.002);
  CHECK(std::abs(fourth / 500000 - 3) < 5 * 0.014);
  CHECK(std::abs(within / 500000.0 - 0.6827) < 5 * 0.00066);
  CHECK(distinct.size() > 490000);  // float32 near zero repeats now and then

  const Tensor second = source->read(other);
  CHECK(std::memcmp(values, second.data, 4000) != 0);
  const auto again = make_dummy_source({big}, DType::kF32, 7), another = make_dummy_source({big}, DType::kF32, 8);
  CHECK(std::memcmp(values, again->read(big).data, tensor.bytes()) == 0);
  CHECK(std::memcmp(values, another->read(big).data, 4000) != 0);
  // The same numbers, rounded, and independent of how many there are (so of how they are shared among threads).
  const TensorSpec small{"big.weight", {10, 9}};
  const auto rounded = make_dummy_source({small}, DType::kBF16, 7);
  const Tensor bits = rounded->read(small);
  for (int i = 0; i < 90; ++i) CHECK(bits.as<std::uint16_t>()[i] == f32_to_bf16(values[i]));
  const Tensor ones = source->read(norm);
  for (int i = 0; i < 77; ++i) CHECK(ones.as<float>()[i] == 1);
}

TEST_CASE("a model of dummy weights runs from its config alone") {
  test::TempDir dir;
  ModelConfig config = test::tiny_config();
  std::ofstream(dir.path() / "config.json") << test::config_json(config);
  test::ModelRunner runner(dir.path(), {.dummy_weights = true});
  const auto ids = test::random_ids(20, config.vocab, 5);
  // The same weights through the reference.
  TinyModel model{config, {}};
  const auto wanted = all_tensors(tensor_specs(config), false);
  const auto source = make_dummy_source(wanted, DType::kF32, 0);
  for (const TensorSpec& spec : wanted) {
    const Tensor tensor = source->read(spec);
    model.tensors[spec.name] = {spec.shape, {tensor.as<float>(), tensor.as<float>() + tensor.elements()}};
  }
  const auto reference = reference_logprobs(model, ids);
  const auto scores = runner.force(ids, 20, 20);
  for (std::size_t i = 1; i < ids.size(); ++i) {
    CHECK(static_cast<double>(scores[i].logprob) == doctest::Approx(reference[i - 1][static_cast<std::size_t>(ids[i])]).epsilon(1e-5));
  }
}

TEST_CASE("--dtype") {
  ModelConfig config;
  const auto resolve = [&](DType on_disk, const char* name) {
    config.dtype = on_disk;
    return resolve_dtype(name, config);
  };
  CHECK(resolve(DType::kBF16, "auto") == DType::kBF16);
  CHECK(resolve(DType::kF32, "auto") == DType::kF32);
  CHECK(resolve(DType::kF16, "auto") == DType::kF32);
  CHECK(resolve(DType::kF32, "bfloat16") == DType::kBF16);
  CHECK(resolve(DType::kBF16, "float32") == DType::kF32);
  CHECK_THROWS_WITH_AS(resolve_dtype("int4", config), "--dtype int4: not one of auto, bfloat16, float32", Error);
}

}  // namespace
}  // namespace fastgen
