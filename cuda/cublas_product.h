// One shape of product as cuBLASLt describes it; the number of rows is given with each call.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "algorithm_cache.h"

namespace fastgen {

// The library's handle and the workspace that all products share, one at a time: they run on one stream.
class CublasContext {
 public:
  CublasContext();
  ~CublasContext();
  CublasContext(const CublasContext&) = delete;
  CublasContext& operator=(const CublasContext&) = delete;

  static constexpr std::size_t kWorkspaceBytes = 64u << 20;
  cublasLtHandle_t handle() const { return handle_; }
  void* workspace() const { return workspace_; }

 private:
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
};

class CublasProduct {
 public:
  CublasProduct(const CublasContext& context, const ProductShape& shape);
  ~CublasProduct();
  CublasProduct(const CublasProduct&) = delete;
  CublasProduct& operator=(const CublasProduct&) = delete;

  // What the library offers for so many rows, its favourite first; empty if it can't. Host work only, like all here but run().
  std::vector<cublasLtMatmulAlgo_t> candidates(std::int64_t num_rows, int num_wanted);
  bool supports(std::int64_t num_rows, const cublasLtMatmulAlgo_t& algorithm);
  // Queues the product. w [N, K], x [T, K], out [T, N]: device memory, rows contiguous.
  cublasStatus_t run(cudaStream_t stream, std::int64_t num_rows, const cublasLtMatmulAlgo_t& algorithm, const void* w,
                     const void* x, void* out);

 private:
  void set_rows(std::int64_t num_rows);

  const CublasContext& context_;
  const float beta_;
  cublasLtMatmulDesc_t operation_ = nullptr;
  cublasLtMatrixLayout_t w_ = nullptr, x_ = nullptr, out_ = nullptr;
  std::int64_t num_rows_ = 1;  // in the layouts
};

}  // namespace fastgen
