#include "cublas_product.h"

#include <algorithm>

#include "check.h"
#include "cublas.h"

namespace fastgen {

namespace {

cudaDataType_t cuda_type(DType dtype) {
  FG_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, dtype_name(dtype));
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

cublasLtMatrixLayout_t layout(DType dtype, std::int64_t rows, std::int64_t cols) {
  cublasLtMatrixLayout_t made = nullptr;
  cublas_check(cublas_lt().layout_create(&made, cuda_type(dtype), static_cast<std::uint64_t>(rows),
                                         static_cast<std::uint64_t>(cols), rows),
               "cublasLtMatrixLayoutCreate");
  return made;
}

}  // namespace

CublasContext::CublasContext() {
  cublas_check(cublas_lt().create(&handle_), "cublasLtCreate");
  cuda_check(cudaMalloc(&workspace_, kWorkspaceBytes), "workspace of products");
}

CublasContext::~CublasContext() {
  cudaFree(workspace_);
  cublas_lt().destroy(handle_);
}

// Row-major [rows, cols] is column-major [cols, rows]: out^T [N, T] = (w^T)^T [N, K] x^T [K, T].
CublasProduct::CublasProduct(const CublasContext& context, const ProductShape& shape)
    : context_(context), beta_(shape.add ? 1.0f : 0.0f) {
  const CublasLt& lt = cublas_lt();
  const cublasOperation_t transpose = CUBLAS_OP_T;
  cublas_check(lt.desc_create(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  cublas_check(lt.desc_set(operation_, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose)), "transpose");
  w_ = layout(shape.dtype, shape.in_dim, shape.out_dim);
  x_ = layout(shape.dtype, shape.in_dim, num_rows_);
  out_ = layout(shape.out_dtype, shape.out_dim, num_rows_);
}

CublasProduct::~CublasProduct() {
  for (cublasLtMatrixLayout_t made : {w_, x_, out_}) cublas_lt().layout_destroy(made);
  cublas_lt().desc_destroy(operation_);
}

void CublasProduct::set_rows(std::int64_t num_rows) {
  if (num_rows == num_rows_) return;
  const auto cols = static_cast<std::uint64_t>(num_rows);
  for (cublasLtMatrixLayout_t made : {x_, out_})
    cublas_check(cublas_lt().layout_set(made, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof(cols)), "rows of a product");
  num_rows_ = num_rows;
}

std::vector<cublasLtMatmulAlgo_t> CublasProduct::candidates(std::int64_t num_rows, int num_wanted) {
  const CublasLt& lt = cublas_lt();
  set_rows(num_rows);
  cublasLtMatmulPreference_t preference = nullptr;
  cublas_check(lt.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  const std::size_t workspace_bytes = CublasContext::kWorkspaceBytes;
  lt.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof(workspace_bytes));
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(num_wanted));
  int num_found = 0;
  const cublasStatus_t status = lt.find_algorithms(context_.handle(), operation_, w_, x_, out_, out_, preference,
                                                   num_wanted, found.data(), &num_found);
  lt.preference_destroy(preference);
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < num_found; ++i) {
    const auto& result = found[static_cast<std::size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  }
  return algorithms;
}

bool CublasProduct::supports(std::int64_t num_rows, const cublasLtMatmulAlgo_t& algorithm) {
  set_rows(num_rows);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status =
      cublas_lt().check_algorithm(context_.handle(), operation_, w_, x_, out_, out_, &algorithm, &result);
  return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= CublasContext::kWorkspaceBytes;
}

cublasStatus_t CublasProduct::run(cudaStream_t stream, std::int64_t num_rows, const cublasLtMatmulAlgo_t& algorithm,
                                  const void* w, const void* x, void* out) {
  set_rows(num_rows);
  const float one = 1;
  return cublas_lt().matmul(context_.handle(), operation_, &one, w, w_, x, x_, &beta_, out, out_, out, out_, &algorithm,
                            context_.workspace(), CublasContext::kWorkspaceBytes, stream);
}

}  // namespace fastgen
