// From a folder to weights that the backend's products read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "backend/backend.h"
#include "model/config.h"
#include "model/transformer.h"

namespace fastgen {

struct LoadProgress {
  std::uint64_t done_bytes = 0;
  std::uint64_t total_bytes = 0;
};

struct LoadOptions {
  DType dtype = DType::kBF16;     // what weights are held as: kBF16 or kF32
  bool dummy_weights = false;     // normal, sigma 0.02, from the counter-based generator; only the config is read
  std::uint64_t dummy_seed = 0;
  std::function<void(const LoadProgress&)> on_progress;  // called from the loading thread
};

// Throws Error naming the file and the missing, extra or wrongly shaped tensor. Where the backend
// uses no weights, nothing is read and the result only has the right number of layers.
ModelWeights load_weights(Backend& backend, const std::filesystem::path& folder, const ModelConfig& config,
                          const LoadOptions& options);

// "auto" (bfloat16 and float32 as on disk, float16 as float32), "bfloat16" or "float32". Throws Error naming --dtype.
DType resolve_dtype(const std::string& name, const ModelConfig& config);

}  // namespace fastgen
