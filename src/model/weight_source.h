// Where the loader takes a model's tensors from: the files of a checkpoint, or a generator of random ones.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/tensor_specs.h"

namespace fastgen {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // All the bytes that will be read, for progress.
  virtual std::uint64_t total_bytes() const = 0;
  // The tensor in host memory: f32, bf16 or f16. Valid until release().
  virtual Tensor read(const TensorSpec& spec) = 0;
  // Where the same bytes lie in a file, if they do. The file stays open as long as the source lives.
  virtual FilePlace place(const TensorSpec&) { return {}; }
  // Everything that read() gave since the last release is done with.
  virtual void release() = 0;
};

// Throws Error naming the file and the tensor if one of `wanted` is missing, has another shape or a dtype that is not F32, BF16 or
// F16, or if the files hold one more than `wanted` and what is_redundant allows.
std::unique_ptr<WeightSource> make_checkpoint_source(Checkpoint checkpoint, const std::vector<TensorSpec>& wanted, bool tied_head);

// Random weights (backend/random_weights.h), the stream by the tensor's name; norms 1. Whole matrices a backend makes by itself:
// this is for what it does not, and for comparisons. `dtype` kF32 or kBF16.
std::unique_ptr<WeightSource> make_dummy_source(const std::vector<TensorSpec>& wanted, DType dtype, std::uint64_t seed);

}  // namespace fastgen
