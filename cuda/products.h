// Products: out [T, N] = x [T, K] w [N, K]^T with float32 sums, optionally added to what out holds. Few rows of bfloat16 run on
// our own kernel, all others on cuBLASLt with the algorithm that was fastest on this card. (Gate-up of many rows has a kernel with SiLU in it,
// where it serves: gate_up_wgmma.h.)
//
// Order of calls: learn() each weight, tune() once, then run() as often as wanted. What was not tuned runs with the library's
// favourite. One thread.
//
// To compare on a card: FG_CUDA_TUNE=0 leaves the timing and its cache file out. Tried on an H200 and slower: products of many
// rows in pieces of 1,024 or 2,048, for smaller workspaces. Tried and no faster: other clusters and orders of blocks than
// cuBLASLt proposes, each alone at the power limit (no record).
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "algorithm_cache.h"
#include "cublas_product.h"

namespace fastgen {

// Whether products of so many rows run on the kernels of skinny_kernel.h, fused with what follows where the op allows it.
bool is_skinny(DType dtype, std::int64_t num_rows, std::int64_t in_dim);

class Products {
 public:
  // tune() takes about so long at most.
  explicit Products(std::chrono::duration<double> time_to_tune);
  ~Products();

  // That run() will multiply by w with this shape, at most by max_rows rows: tune() times with it. w stays where it is; what it holds
  // then is indifferent.
  void learn(const ProductShape& shape, const void* w, bool is_head, std::int64_t max_rows = std::numeric_limits<std::int64_t>::max());

  struct Scratch {
    void* data = nullptr;  // device memory, overwritten
    std::size_t bytes = 0;
  };
  struct Places {  // of x and out
    void* x = nullptr;
    void* out = nullptr;
  };
  struct RowLimits {
    std::int64_t tokens = 0, logits = 0;  // the most rows of a product of a layer, and of the head
  };
  // Times candidates for every learned shape and bucket of rows that the cache file lacks, while there is time; the next start goes on.
  // (Not while requests are served: the same one would get other roundings later.) Runs those from the file once. Waits for the GPU.
  // Inputs and outputs lie in the scratch; what does not fit there is left out.
  void tune(std::span<const Scratch> scratch, const RowLimits& limits);

  // Pointers are device memory, rows contiguous. x and w of shape.dtype; bias [N] only with float32 results. No allocation,
  // nothing waits: may be captured.
  void run(cudaStream_t stream, const ProductShape& shape, const void* w, const void* x, const float* bias, void* out,
           std::int64_t num_rows);

 private:
  struct Entry {
    Entry(const CublasContext& context, const ProductShape& shape) : cublas(context, shape) {}
    CublasProduct cublas;
    bool is_head = false;                                    // its rows are limited by those of logits
    std::int64_t max_rows = 0;                               // and by this
    std::vector<const void*> weights;                        // a few, to time with
    std::map<std::int64_t, cublasLtMatmulAlgo_t> by_bucket;  // timed
    std::map<std::int64_t, cublasLtMatmulAlgo_t> by_rows;    // checked for this very number of rows
  };
  // A shape and a bucket of rows to find an algorithm for, or to try one with.
  struct Question {
    const ProductShape* shape;
    Entry* entry;
    std::int64_t bucket, num_rows;  // the last bucket is timed with the most rows that there will be
  };
  std::vector<Question> questions(const RowLimits& limits);
  static std::optional<Places> places(const Question& question, std::span<const Scratch> scratch);
  void run_known(std::span<const Question> known, std::span<const Scratch> scratch);
  void time_open(std::span<const Question> open, std::span<const Scratch> scratch);
  Entry& entry(const ProductShape& shape);
  const cublasLtMatmulAlgo_t& algorithm(Entry& entry, std::int64_t num_rows);
  void use_cache(const std::filesystem::path& file, const std::string& key);

  const std::chrono::duration<double> time_to_tune_;
  CublasContext context_;
  std::map<ProductShape, std::unique_ptr<Entry>> entries_;
  AlgorithmTable table_;  // as in the cache file
};

}  // namespace fastgen
