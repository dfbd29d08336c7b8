// Products by cuBLASLt: out [T, N] = x [T, K] w [N, K]^T, optionally added to what out holds. float32
// accumulation.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <tuple>

#include "backend/tensor.h"

namespace fastgen {

class Products {
 public:
  Products();
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // x and w of one dtype, out of the same or float32. Pointers are device memory, rows contiguous. The plan
  // for a shape is made at its first use (host work only: no allocation, nothing waits), so it may be
  // captured.
  void run(cudaStream_t stream, DType dtype, const void* w, const void* x, void* out, DType out_dtype,
           std::int64_t num_rows, std::int64_t out_dim, std::int64_t in_dim, bool add);

 private:
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
  };
  // dtype, out_dtype, rows, out_dim, in_dim, add
  using Key = std::tuple<DType, DType, std::int64_t, std::int64_t, std::int64_t, bool>;
  const Plan& plan(const Key& key);
  void make_plan(const Key& key, Plan& plan);

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, Plan> plans_;
};

}  // namespace fastgen
