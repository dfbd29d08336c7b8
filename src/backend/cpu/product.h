// out [T, N] = epilogue(x [T, K] w^T + bias), the CPU backend's products.
//
// Three implementations share one job description and one packed layout: Highway (any CPU, the reference), AVX512-BF16
// (product_bf16.cpp) and oneDNN (product_onednn.cpp). All accumulate in float32. The first two add the terms of one
// output in one order, whatever the number of rows: a row's result does not depend on the batch (with AMX, where oneDNN takes
// over from 2 rows on, it does).
#pragma once

#include <cstdint>

#include "backend/cpu/packed_matrix.h"
#include "backend/cpu/workspace.h"
#include "backend/tensor.h"

namespace fastgen {

enum class Epilogue : std::uint8_t {
  kStore,    // out f32 = sum + bias
  kAdd,      // out f32 += sum + bias
  kSiluMul,  // out [T, N/2] f32 or bf16 = silu(gate) * up; the matrix is a packed gate|up
};

struct ProductJob {
  const PackedMatrix* weight = nullptr;
  const void* x = nullptr;  // [T, K], the weight's dtype
  std::int64_t num_rows = 0;
  const float* bias = nullptr;  // [N] or null; not with kSiluMul
  Epilogue epilogue = Epilogue::kStore;
  void* out = nullptr;  // [T, out_stride]
  DType out_dtype = DType::kF32;
  std::int64_t out_stride = 0;

  std::int64_t out_columns() const {
    return epilogue == Epilogue::kSiluMul ? weight->out_dim / 2 : weight->out_dim;
  }
};

// A part of a job for one thread: rows x units, half-open. kSiluMul: units begin and end even.
struct ProductPart {
  std::int64_t row_begin = 0, row_end = 0;
  std::int64_t unit_begin = 0, unit_end = 0;
};

// Which implementations may be used, beyond what the CPU has.
struct ProductTuning {
  bool native_bf16 = true;
  bool onednn = true;
  std::int64_t onednn_min_rows = 0;  // 0: the measured default for this CPU
};

// Runs the whole job on all threads of the pool.
void product(ThreadPool& pool, Workspace& workspace, const ProductTuning& tuning, const ProductJob& job);

// ---- the implementations, each on one thread
inline constexpr std::int64_t kProductRows = 48;  // rows of x that one part converts and keeps in the L2 cache

// Floats of scratch that a thread needs for inputs of up to in_dim.
std::int64_t product_scratch_floats(std::int64_t in_dim);
void product_part_hwy(const ProductJob& job, const ProductPart& part, float* scratch);

// What leaves a tile of sums [num_rows][num_units * 16]: the job's epilogue for these rows and units.
void finish_tile(const ProductJob& job, const float* sums, std::int64_t row, std::int64_t num_rows, std::int64_t unit,
                 std::int64_t num_units);

bool has_product_bf16();  // compiled in, and the CPU can
void product_part_bf16(const ProductJob& job, const ProductPart& part);

}  // namespace fastgen
