// A small random model made by the test itself, its folder on disk, and its forward pass in double, written as plainly as
// possible: no cache, no batches, every position attends to all before it by loops over the definition.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/config.h"

namespace fastgen::test {

struct TinyTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // each exact in bfloat16
};

struct TinyModel {
  ModelConfig config;
  std::map<std::string, TinyTensor> tensors;
};

// A config that the makers below and the reference understand; fields may be changed before make_tiny_model.
ModelConfig tiny_config();
TinyModel make_tiny_model(const ModelConfig& config, std::uint64_t seed);

std::string config_json(const ModelConfig& config);

// One safetensors file: header of the entries given as JSON text, then data.
std::string safetensors_bytes(const std::string& header, const std::string& data);
// config.json and the weights in `dtype` ("F32", "BF16" or "F16"; values are rounded); num_files > 1: shards and an index.
void write_tiny_model(const TinyModel& model, const std::filesystem::path& folder, const std::string& dtype = "BF16",
                      int num_files = 1);

// [ids.size()][V]: log-probabilities of what follows each position.
std::vector<std::vector<double>> reference_logprobs(const TinyModel& model, const std::vector<std::int32_t>& ids);

std::vector<std::int32_t> random_ids(std::size_t count, std::int32_t vocab, std::uint64_t seed);

}  // namespace fastgen::test
