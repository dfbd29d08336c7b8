// Which of cuBLASLt's candidates is fastest on this card, by running them. At start only: it waits for the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <optional>
#include <span>
#include <vector>

#include "cublas_product.h"

namespace fastgen {

// Products of more rows than one of these and at most the next use one algorithm: 1, 2, 4, 8, 16, 32, 48, 64, then steps of 64 up
// to 1,280, of 128 up to 2,048 (a tile of the library's more or less is much of such a product), then four an octave. The bucket of
// num_rows >= 1: the least of them that is not below it.
std::int64_t row_bucket(std::int64_t num_rows);
// All buckets up to that of max_rows.
std::vector<std::int64_t> row_buckets(std::int64_t max_rows);

class ProductTimer {
 public:
  ProductTimer();
  ~ProductTimer();
  ProductTimer(const ProductTimer&) = delete;
  ProductTimer& operator=(const ProductTimer&) = delete;

  // weights: matrices of the product's shape, used in turn, so that none is found in L2. x, out: room for num_rows.
  std::optional<cublasLtMatmulAlgo_t> fastest(CublasProduct& product, std::int64_t num_rows,
                                              std::span<const void* const> weights, const void* x, void* out);

 private:
  // The library's for so many rows, and for four fewer, which eight does not divide: each list lacks what the other finds. On an H200 the
  // best for 1,088 rows of Mistral's down takes 212 us, the best for 1,084 rows of it 191; with both lists, and buckets of 64 rows instead
  // of 128, prompts in steps of 1,060 and 1,084 tokens take 6 % less time (gpu-candidates.json).
  std::vector<cublasLtMatmulAlgo_t> candidates(CublasProduct& product, std::int64_t num_rows) const;

  static constexpr std::size_t kCandidates = 8, kRounds = 2;  // of each list
  struct Span {
    cudaEvent_t begin = nullptr, end = nullptr;
  };
  Span& span(std::size_t candidate, std::size_t round) { return spans_[candidate * kRounds + round]; }

  cudaStream_t stream_ = nullptr;
  std::vector<Span> spans_;
  std::size_t turn_ = 0;  // of the weights
};

}  // namespace fastgen
