#include "backend/cpu/product.h"

#include <algorithm>

#include "base/check.h"

namespace fastgen {

namespace {

// Where there are many rows, threads claim blocks of rows x units one by one.
constexpr std::int64_t kBlockUnits = 16;

void run_part(Workspace& workspace, bool native, const ProductJob& job, const ProductPart& part, int thread) {
  if (native) return product_part_bf16(job, part);
  ScratchBuffer& scratch = workspace.threads[static_cast<std::size_t>(thread)].product;
  product_part_hwy(job, part, scratch.get<float>(product_scratch_floats(job.weight->in_dim)));
}

}  // namespace

std::int64_t product_scratch_floats(std::int64_t in_dim) { return kProductRows * ((in_dim + 31) / 32 * 32); }

void product(ThreadPool& pool, Workspace& workspace, const ProductTuning& tuning, const ProductJob& job) {
  if (job.num_rows == 0) return;
  const PackedMatrix& weight = *job.weight;
  const bool native =
      tuning.native_bf16 && weight.dtype == DType::kBF16 && weight.in_dim % 2 == 0 && has_product_bf16();
  if (job.num_rows <= kProductRows) {
    // Each thread takes one contiguous run of units, in pairs for gate|up, and streams its part of the matrix once.
    const std::int64_t pairs = weight.num_units / 2, threads = pool.num_threads();
    pool.run([&](int t) {
      run_part(workspace, native, job, {0, job.num_rows, pairs * t / threads * 2, pairs * (t + 1) / threads * 2}, t);
    });
    return;
  }
  const std::int64_t row_blocks = (job.num_rows + kProductRows - 1) / kProductRows;
  const std::int64_t unit_blocks = (weight.num_units + kBlockUnits - 1) / kBlockUnits;
  pool.parallel_for(row_blocks * unit_blocks, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i / unit_blocks * kProductRows, unit = i % unit_blocks * kBlockUnits;
      run_part(workspace, native, job,
               {row, std::min(row + kProductRows, job.num_rows), unit, std::min(unit + kBlockUnits, weight.num_units)},
               thread);
    }
  });
}

}  // namespace fastgen
