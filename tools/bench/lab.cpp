#include "bench/lab.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include <fmt/format.h>

#include "backend/bf16.h"
#include "base/check.h"
#include "base/clock.h"
#include "bench/figures.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

constexpr std::size_t kStagingBytes = 64 << 20;
constexpr std::size_t kNumNormals = 1'048'573;  // prime, so that rows of matrices do not repeat each other
constexpr int kNumSamples = 5;
constexpr std::int64_t kMaxGraphOps = 2000;  // more make a graph slow to build

DType parse_dtype(const std::string& name) {
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float32") return DType::kF32;
  throw Error(fmt::format("--dtype {}: is neither bfloat16 nor float32", name));
}

// Far beyond the last-level cache. What a virtual machine says of its cache is not always true, so at least 128 MB.
double cold_bytes_of(const LabOptions& options, bool is_gpu) {
  if (options.cold_mb > 0) return options.cold_mb * 1e6;
  if (is_gpu) return 400e6;  // the largest L2 so far is 126 MB
  const double cache = std::max(0.0, double(sysconf(_SC_LEVEL3_CACHE_SIZE)));
  return std::clamp(3 * cache, 128e6, 512e6);
}

std::vector<float> normals() {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(kNumNormals);
  for (float& value : values) value = normal(random);
  return values;
}

void fill(void* to, DType dtype, std::size_t count, const std::vector<float>& values) {
  for (std::size_t i = 0; i < count; ++i) {
    const float value = values[i % values.size()];
    if (dtype == DType::kBF16) static_cast<std::uint16_t*>(to)[i] = f32_to_bf16(value);
    else static_cast<float*>(to)[i] = value;
  }
}

}  // namespace

Lab::Lab(const LabOptions& options)
    : backend_(make_backend(options.backend, {.num_threads = options.num_threads, .gpu_gb = options.gpu_gb})),
      dtype_(parse_dtype(options.dtype)),
      is_gpu_(backend_->name() == "cuda"),
      cold_bytes_(cold_bytes_of(options, is_gpu_)),
      sample_us_(1e3 * (options.sample_ms > 0 ? options.sample_ms : is_gpu_ ? 20 : 100)),
      normal_(normals()) {
  if (!backend_->uses_weights()) throw Error(fmt::format("--backend {}: there is nothing to measure, it does not compute", options.backend));
  staging_ = Tensor(backend_->allocate(MemoryKind::kPinned, kStagingBytes), DType::kU8, {std::int64_t(kStagingBytes)});
}

std::int64_t Lab::num_sets(double bytes, std::int64_t most) const {
  if (is_gpu_) most = std::min(most, kMaxGraphOps);
  return std::clamp(std::int64_t(std::ceil(cold_bytes_ / std::max(bytes, 1.0))), std::int64_t{1}, most);
}

Tensor Lab::zeros(DType dtype, std::initializer_list<std::int64_t> shape) {
  Tensor tensor(nullptr, dtype, shape);
  tensor.data = backend_->allocate(MemoryKind::kDevice, std::max<std::size_t>(tensor.bytes(), 16));
  return tensor;
}

void Lab::upload(const Tensor& to, const void* bytes) {
  for (std::size_t done = 0; done < to.bytes(); done += kStagingBytes) {
    const std::size_t size = std::min(kStagingBytes, to.bytes() - done);
    std::memcpy(staging_.data, static_cast<const char*>(bytes) + done, size);
    backend_->upload(Stream::kCompute, static_cast<char*>(to.data) + done, staging_.data, size);
    wait();
  }
}

Tensor Lab::random(DType dtype, std::initializer_list<std::int64_t> shape) {
  const Tensor tensor = zeros(dtype, shape);
  const std::size_t unit = dtype_bytes(dtype), total = tensor.bytes(), chunk = std::min(total, kStagingBytes);
  fill(staging_.data, dtype, chunk / unit, normal_);
  for (std::size_t done = 0; done < total; done += kStagingBytes)
    backend_->upload(Stream::kCompute, static_cast<char*>(tensor.data) + done, staging_.data, std::min(chunk, total - done));
  wait();
  return tensor;
}

Tensor Lab::ints(const std::vector<std::int32_t>& numbers, std::initializer_list<std::int64_t> shape) {
  const Tensor tensor = zeros(DType::kI32, shape);
  FG_CHECK(tensor.elements() == std::int64_t(numbers.size()), tensor.elements(), numbers.size());
  upload(tensor, numbers.data());
  return tensor;
}

std::vector<Weight> Lab::weights(WeightKind kind, const std::vector<std::pair<std::int64_t, std::int64_t>>& parts,
                                 std::int64_t copies) {
  std::vector<Weight> made;
  for (std::int64_t copy = 0; copy < copies; ++copy) {
    std::vector<RandomPart> random;
    for (const auto& [out_dim, in_dim] : parts) random.push_back({out_dim, in_dim, 1, std::uint64_t(num_parts_++)});
    made.push_back(backend_->prepare_random_weights(kind, dtype_, random));
  }
  return made;
}

double Lab::run_calls(const std::function<void(std::int64_t)>& op, std::int64_t count) {
  const std::uint64_t start = now_ns();
  for (std::int64_t i = 0; i < count; ++i) op(num_calls_++);
  wait();
  return double(now_ns() - start) * 1e-3;
}

Timing Lab::time(const std::function<void(std::int64_t)>& op, std::int64_t num_sets) {
  wait();
  run_calls(op, 1);  // plans are made at a shape's first use
  // How many make a sample: first guesses run until they take a tenth of one.
  std::int64_t count = 1;
  double us = run_calls(op, count);
  while (us < sample_us_ / 10) us = run_calls(op, count *= 2);
  count = std::max<std::int64_t>(1, std::int64_t(std::ceil(sample_us_ * double(count) / us)));

  std::int64_t replays = 0, ops_of_graph = 0;
  GraphId graph = 0;
  if (is_gpu_ && backend_->has_graphs()) {
    // All sets come once in a graph at least, else the next replay would find the same ones in the cache.
    ops_of_graph = std::max(std::min(count, kMaxGraphOps), num_sets);
    replays = (count + ops_of_graph - 1) / ops_of_graph;
    backend_->begin_capture();
    for (std::int64_t i = 0; i < ops_of_graph; ++i) op(num_calls_++);
    graph = backend_->end_capture();
    backend_->replay(graph);
    wait();
  }
  std::vector<double> samples;
  for (int i = 0; i < kNumSamples; ++i) {
    if (replays == 0) {
      samples.push_back(run_calls(op, count) / double(count));
      continue;
    }
    const std::uint64_t start = now_ns();
    for (std::int64_t r = 0; r < replays; ++r) backend_->replay(graph);
    wait();
    samples.push_back(double(now_ns() - start) * 1e-3 / double(replays * ops_of_graph));
  }
  return {.median_us = percentile(samples, 0.5),
          .least_us = percentile(samples, 0),
          .num_ops = replays > 0 ? replays * ops_of_graph : count};
}

}  // namespace fastgen::bench
