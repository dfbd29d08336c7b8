#include "backend/cpu/product.h"

#include <algorithm>

#include "base/check.h"

namespace fastgen {

namespace {

// Few rows: each thread takes one contiguous run of units, so that it streams its part of the matrix once.
void few_rows(ThreadPool& pool, Workspace& workspace, const ProductTuning& tuning, const ProductJob& job) {
  const bool native = tuning.native_bf16 && job.weight->dtype == DType::kBF16 && job.weight->in_dim % 2 == 0 &&
                      has_product_bf16();
  const std::int64_t pairs = job.weight->num_units / 2, threads = pool.num_threads();
  pool.run([&](int t) {
    const ProductPart part{0, job.num_rows, pairs * t / threads * 2, pairs * (t + 1) / threads * 2};
    float* scratch = workspace.threads[static_cast<std::size_t>(t)].product.get<float>(product_scratch_floats(job.weight->in_dim));
    if (native) {
      product_part_bf16(job, part);
    } else {
      product_part_hwy(job, part, scratch);
    }
  });
}

}  // namespace

std::int64_t product_scratch_floats(std::int64_t in_dim) { return kProductRows * ((in_dim + 31) / 32 * 32); }

void product(ThreadPool& pool, Workspace& workspace, const ProductTuning& tuning, const ProductJob& job) {
  if (job.num_rows == 0) return;
  few_rows(pool, workspace, tuning, job);
}

bool has_product_bf16() { return false; }
void product_part_bf16(const ProductJob&, const ProductPart&) {}

}  // namespace fastgen
