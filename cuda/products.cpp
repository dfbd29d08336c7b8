#include "products.h"

#include "check.h"
#include "cublas.h"

namespace fastgen {

namespace {

constexpr std::size_t kWorkspaceBytes = 64u << 20;

cudaDataType_t cuda_type(DType dtype) {
  FG_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, dtype_name(dtype));
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

}  // namespace

Products::Products() {
  cublas_check(cublas_lt().create(&handle_), "cublasLtCreate");
  cuda_check(cudaMalloc(&workspace_, kWorkspaceBytes), "workspace of products");
}

Products::~Products() {
  for (auto& [key, plan] : plans_) {
    cublas_lt().layout_destroy(plan.w);
    cublas_lt().layout_destroy(plan.x);
    cublas_lt().layout_destroy(plan.out);
    cublas_lt().desc_destroy(plan.operation);
  }
  cudaFree(workspace_);
  cublas_lt().destroy(handle_);
}

// Row-major [rows, cols] is column-major [cols, rows]: out^T [N, T] = (w^T)^T [N, K] x^T [K, T].
void Products::make_plan(const Key& key, Plan& plan) {
  const auto& [dtype, out_dtype, rows, out_dim, in_dim, add] = key;
  const CublasLt& lt = cublas_lt();
  const cublasOperation_t transpose = CUBLAS_OP_T;
  const auto u = [](std::int64_t x) { return static_cast<std::uint64_t>(x); };
  cublas_check(lt.desc_create(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  cublas_check(lt.desc_set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose)),
               "transpose");
  cublas_check(lt.layout_create(&plan.w, cuda_type(dtype), u(in_dim), u(out_dim), in_dim),
               "layout of weights");
  cublas_check(lt.layout_create(&plan.x, cuda_type(dtype), u(in_dim), u(rows), in_dim), "layout of inputs");
  cublas_check(lt.layout_create(&plan.out, cuda_type(out_dtype), u(out_dim), u(rows), out_dim),
               "layout of outputs");
  cublasLtMatmulPreference_t preference = nullptr;
  cublas_check(lt.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  lt.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                    sizeof(kWorkspaceBytes));
  cublasLtMatmulHeuristicResult_t best{};
  int num_found = 0;
  const cublasStatus_t status = lt.find_algorithms(handle_, plan.operation, plan.w, plan.x, plan.out,
                                                   plan.out, preference, 1, &best, &num_found);
  lt.preference_destroy(preference);
  cublas_check(num_found > 0 ? status : CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm for a product");
  plan.algorithm = best.algo;
}

const Products::Plan& Products::plan(const Key& key) {
  const auto [at, is_new] = plans_.try_emplace(key);
  if (is_new) make_plan(key, at->second);
  return at->second;
}

void Products::run(cudaStream_t stream, DType dtype, const void* w, const void* x, void* out, DType out_dtype,
                   std::int64_t num_rows, std::int64_t out_dim, std::int64_t in_dim, bool add) {
  if (num_rows == 0) return;
  const Plan& p = plan({dtype, out_dtype, num_rows, out_dim, in_dim, add});
  const float one = 1, beta = add ? 1 : 0;
  cublas_check(cublas_lt().matmul(handle_, p.operation, &one, w, p.w, x, p.x, &beta, out, p.out, out, p.out,
                                  &p.algorithm, workspace_, kWorkspaceBytes, stream),
               "cublasLtMatmul");
}

}  // namespace fastgen
