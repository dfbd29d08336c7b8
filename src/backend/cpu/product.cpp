#include "backend/cpu/product.h"

#include <algorithm>

#include "backend/cpu/product_onednn.h"

namespace fastgen {

namespace {

constexpr std::int64_t kBlockUnits = 16;

enum class Way : std::uint8_t { kHighway, kNativeBf16, kOnednn };

Way choose(const ProductTuning& tuning, const ProductJob& job) {
  const PackedMatrix& weight = *job.weight;
  if (weight.dtype != DType::kBF16) return Way::kHighway;
  if (tuning.onednn && has_product_onednn()) {
    const std::int64_t least = tuning.onednn_min_rows > 0 ? tuning.onednn_min_rows : onednn_default_min_rows();
    if (least > 0 && job.num_rows >= least) return Way::kOnednn;
  }
  return tuning.native_bf16 && weight.in_dim % 2 == 0 && has_product_bf16() ? Way::kNativeBf16 : Way::kHighway;
}

void run_part(Workspace& workspace, Way way, const ProductJob& job, const ProductPart& part, int thread) {
  if (way == Way::kNativeBf16) return product_part_bf16(job, part);
  ScratchBuffer& buffer = workspace.threads[static_cast<std::size_t>(thread)].product;
  float* scratch = buffer.get<float>(product_scratch_floats(job.weight->in_dim));
  way == Way::kOnednn ? product_part_onednn(job, part, scratch) : product_part_hwy(job, part, scratch);
}

// Threads claim blocks of rows x units one by one.
void run_blocks(ThreadPool& pool, Workspace& workspace, Way way, const ProductJob& job, std::int64_t rows,
                std::int64_t units) {
  const std::int64_t row_blocks = (job.num_rows + rows - 1) / rows;
  const std::int64_t unit_blocks = (job.weight->num_units + units - 1) / units;
  pool.parallel_for(row_blocks * unit_blocks, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i / unit_blocks * rows, unit = i % unit_blocks * units;
      run_part(workspace, way, job,
               {row, std::min(row + rows, job.num_rows), unit, std::min(unit + units, job.weight->num_units)}, thread);
    }
  });
}

}  // namespace

std::int64_t product_scratch_floats(std::int64_t in_dim) {
  return std::max(kProductRows * ((in_dim + 31) / 32 * 32), kOnednnScratchFloats);
}

void product(ThreadPool& pool, Workspace& workspace, const ProductTuning& tuning, const ProductJob& job) {
  if (job.num_rows == 0) return;
  const Way way = choose(tuning, job);
  if (way == Way::kOnednn) return run_blocks(pool, workspace, way, job, kOnednnRows, kOnednnUnits);
  if (job.num_rows > kProductRows) return run_blocks(pool, workspace, way, job, kProductRows, kBlockUnits);
  // Few rows: threads claim contiguous runs of units, in pairs for gate|up, and stream them once.
  const std::int64_t pairs = job.weight->num_units / 2, pieces = 4 * pool.num_threads();
  pool.parallel_for(pairs, (pairs + pieces - 1) / pieces, [&](std::int64_t begin, std::int64_t end, int thread) {
    run_part(workspace, way, job, {0, job.num_rows, 2 * begin, 2 * end}, thread);
  });
}

}  // namespace fastgen
