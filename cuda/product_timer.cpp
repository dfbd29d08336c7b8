#include "product_timer.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "check.h"

namespace fastgen {

namespace {

// Beyond so many rows one run is long enough to be timed alone.
constexpr std::int64_t kManyRows = 1024;
// Beyond so many rows a tile more or less is little: one list of candidates is enough.
constexpr std::int64_t kFewTilesRows = 2048;
constexpr std::int64_t kFewerRows = 4;

bool is_same(const cublasLtMatmulAlgo_t& a, const cublasLtMatmulAlgo_t& b) {
  return std::bit_cast<AlgorithmWords>(a) == std::bit_cast<AlgorithmWords>(b);
}

}  // namespace

std::int64_t row_bucket(std::int64_t num_rows) {
  const auto up = [](std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; };
  if (num_rows <= 16) return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(num_rows)));
  if (num_rows <= 64) return up(num_rows, 16);
  if (num_rows <= 1280) return up(num_rows, 64);
  if (num_rows <= 2048) return up(num_rows, 128);
  return up(num_rows, static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(num_rows))) / 8);
}

std::vector<std::int64_t> row_buckets(std::int64_t max_rows) {
  std::vector<std::int64_t> buckets;
  for (std::int64_t rows = 1; rows <= max_rows; rows = buckets.back() + 1) buckets.push_back(row_bucket(rows));
  return buckets;
}

ProductTimer::ProductTimer() : spans_(2 * kCandidates * kRounds) {
  cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream for timing products");
  for (Span& span : spans_)
    for (cudaEvent_t* event : {&span.begin, &span.end})
      cuda_check(cudaEventCreate(event), "event for timing products");
}

ProductTimer::~ProductTimer() {
  for (Span& span : spans_)
    for (cudaEvent_t event : {span.begin, span.end}) cudaEventDestroy(event);
  cudaStreamDestroy(stream_);
}

std::vector<cublasLtMatmulAlgo_t> ProductTimer::candidates(CublasProduct& product, std::int64_t num_rows) const {
  std::vector<cublasLtMatmulAlgo_t> all = product.candidates(num_rows, static_cast<int>(kCandidates));
  if (num_rows <= kFewerRows || num_rows > kFewTilesRows) return all;
  for (const cublasLtMatmulAlgo_t& other : product.candidates(num_rows - kFewerRows, static_cast<int>(kCandidates))) {
    const bool is_new = std::none_of(all.begin(), all.end(), [&](const auto& known) { return is_same(known, other); });
    if (is_new && product.supports(num_rows, other)) all.push_back(other);
  }
  return all;
}

// Each runs once untimed (its code is loaded then), which also puts the host ahead of the GPU, so that the timed runs
// follow each other without gaps.
std::optional<cublasLtMatmulAlgo_t> ProductTimer::fastest(CublasProduct& product, std::int64_t num_rows,
                                                          std::span<const void* const> weights, const void* x,
                                                          void* out) {
  const std::size_t num_runs = num_rows > kManyRows ? 1 : 3;
  const auto run = [&](const cublasLtMatmulAlgo_t& algorithm) {
    return product.run(stream_, num_rows, algorithm, weights[turn_++ % weights.size()], x, out);
  };
  std::vector<cublasLtMatmulAlgo_t> algorithms = candidates(product, num_rows);
  std::erase_if(algorithms, [&](const auto& algorithm) { return run(algorithm) != CUBLAS_STATUS_SUCCESS; });
  if (algorithms.empty()) return std::nullopt;
  for (std::size_t round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < algorithms.size(); ++i) {
      cuda_check(cudaEventRecord(span(i, round).begin, stream_), "timing products");
      for (std::size_t n = 0; n < num_runs; ++n) run(algorithms[i]);
      cuda_check(cudaEventRecord(span(i, round).end, stream_), "timing products");
    }
  }
  cuda_check(cudaStreamSynchronize(stream_), "timing products");
  std::size_t best = 0;
  float best_ms = std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < algorithms.size(); ++i) {
    for (std::size_t round = 0; round < kRounds; ++round) {
      float ms = 0;
      cuda_check(cudaEventElapsedTime(&ms, span(i, round).begin, span(i, round).end), "timing products");
      if (ms < best_ms) best = i, best_ms = ms;
    }
  }
  return algorithms[best];
}

}  // namespace fastgen
