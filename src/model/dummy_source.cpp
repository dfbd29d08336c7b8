#include "model/weight_source.h"

#include <algorithm>

#include "backend/bf16.h"
#include "backend/cpu/random_fill.h"
#include "backend/random_weights.h"

namespace fastgen {

namespace {

void store(float value, float& out) { out = value; }
void store(float value, std::uint16_t& out) { out = f32_to_bf16(value); }

template <typename T>
void fill(const TensorSpec& spec, std::uint64_t seed, std::int64_t count, T* out) {
  if (spec.is_norm()) {
    for (std::int64_t i = 0; i < count; ++i) store(1, out[i]);
    return;
  }
  fill_random(seed, random_weight_stream(spec.name), 0, count, out);
}

std::int64_t num_elements(const TensorSpec& spec) {
  std::int64_t count = 1;
  for (std::int64_t dim : spec.shape) count *= dim;
  return count;
}

class DummySource : public WeightSource {
 public:
  DummySource(const std::vector<TensorSpec>& wanted, DType dtype, std::uint64_t seed) : dtype_(dtype), seed_(seed) {
    for (const TensorSpec& spec : wanted) total_bytes_ += bytes_of(spec);
  }

  std::uint64_t total_bytes() const override { return total_bytes_; }

  Tensor read(const TensorSpec& spec) override {
    buffers_.push_back(std::make_unique_for_overwrite<std::byte[]>(bytes_of(spec)));
    Tensor out(buffers_.back().get(), dtype_, {});
    out.rank = static_cast<std::int32_t>(spec.shape.size());
    std::copy(spec.shape.begin(), spec.shape.end(), out.shape.begin());
    if (dtype_ == DType::kF32) {
      fill(spec, seed_, num_elements(spec), out.as<float>());
    } else {
      fill(spec, seed_, num_elements(spec), out.as<std::uint16_t>());
    }
    return out;
  }

  void release() override { buffers_.clear(); }

 private:
  std::uint64_t bytes_of(const TensorSpec& spec) const {
    return static_cast<std::uint64_t>(num_elements(spec)) * dtype_bytes(dtype_);
  }

  DType dtype_;
  std::uint64_t seed_;
  std::uint64_t total_bytes_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> buffers_;
};

}  // namespace

std::unique_ptr<WeightSource> make_dummy_source(const std::vector<TensorSpec>& wanted, DType dtype, std::uint64_t seed) {
  FG_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, dtype_name(dtype));
  return std::make_unique<DummySource>(wanted, dtype, seed);
}

}  // namespace fastgen
