#include "model/weight_source.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string_view>
#include <thread>

#include "backend/counter_rng.h"
#include "backend/cpu/bf16.h"

namespace fastgen {

namespace {

constexpr float kSigma = 0.02f;
constexpr unsigned kMaxThreads = 32;
constexpr std::int64_t kMinElementsPerThread = 1 << 16;

// FNV-1a, 64 bits: names to streams of the generator.
std::uint64_t hash_name(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

// Two normal numbers of two uniform ones (Box and Muller 1958).
void normal_pair(std::uint32_t a, std::uint32_t b, float* out) {
  const float uniform = uniform_float(a) + 0x1p-25f;  // never 0
  const float radius = kSigma * std::sqrt(-2 * std::log(uniform));
  const float angle = 2 * std::numbers::pi_v<float> * uniform_float(b);
  out[0] = radius * std::cos(angle);
  out[1] = radius * std::sin(angle);
}

void store(float value, float& out) { out = value; }
void store(float value, std::uint16_t& out) { out = f32_to_bf16(value); }

// Elements first .. last - 1; first is a multiple of 4, the numbers that one call of the generator gives.
template <typename T>
void fill_normal(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last, T* out) {
  for (std::int64_t i = first; i < last; i += 4) {
    const Random4 random = philox(seed, static_cast<std::uint64_t>(i) / 4, stream);
    float four[4];
    normal_pair(random.v[0], random.v[1], four);
    normal_pair(random.v[2], random.v[3], four + 2);
    const std::int64_t count = std::min<std::int64_t>(4, last - i);
    for (std::int64_t j = 0; j < count; ++j) store(four[j], out[i + j]);
  }
}

template <typename T>
void fill(const TensorSpec& spec, std::uint64_t seed, std::int64_t count, T* out) {
  if (spec.is_norm()) {
    for (std::int64_t i = 0; i < count; ++i) store(1, out[i]);
    return;
  }
  const std::uint64_t stream = hash_name(spec.name);
  const std::int64_t most_threads = std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads);
  const std::int64_t num_threads = std::clamp<std::int64_t>(count / kMinElementsPerThread, 1, most_threads);
  const std::int64_t per_thread = (count / num_threads + 4) / 4 * 4;
  std::vector<std::jthread> threads;
  for (std::int64_t first = per_thread; first < count; first += per_thread) {
    const std::int64_t last = std::min(first + per_thread, count);
    threads.emplace_back([=] { fill_normal(seed, stream, first, last, out); });
  }
  fill_normal(seed, stream, 0, std::min(per_thread, count), out);
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
