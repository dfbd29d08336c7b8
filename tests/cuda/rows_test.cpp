// The small kernels of the CUDA backend against the CPU's: rows that 16-byte accesses divide and rows that they do not, few and many.
#include <algorithm>
#include <cstring>

#include "cuda/cuda_support.h"

namespace fastgen::test {
namespace {

// Small enough for compute-sanitizer (scripts/check-gpu).
const doctest::test_suite kSmall("small rows");

TEST_CASE("cuda: embed" * kSmall) {
  FG_NEEDS_GPU();
  for (DType dtype : kTypes) {
    for (std::int64_t dim : {64, 100, 288, 576, 4096, 5120}) {
      CAPTURE(dim);
      Bench b;
      const auto [cpu_head, gpu_head] = b.weights(WeightKind::kHead, dtype, {{100, dim}});
      const auto [cpu_arena, gpu_arena] = b.arenas(dtype, {1, 1, 16, 8}, 4, 100);
      const Twin ids = b.ints({5, -1, 99, -3, 0}), state = b.ints({7, 8, 9}), slots = b.ints({0, 17, -1, 40, 63});
      const Twin residual = b.random(DType::kF32, {5, dim});
      b.cpu->embed(kStream, {ids.cpu, state.cpu, slots.cpu, cpu_head, cpu_arena, residual.cpu});
      b.gpu->embed(kStream, {ids.gpu, state.gpu, slots.gpu, gpu_head, gpu_arena, residual.gpu});
      b.compare(residual, {1e-12, 0x1p-40}, "embed");
      CHECK(b.result(gpu_arena.token_ids) == Bench::host_values(cpu_arena.token_ids));
    }
  }
}

// Two float32 results may lie on both sides of a rounding step: one step of bf16, 2^-7 of a number just over a power of two.
Tolerance one_step(DType dtype) { return dtype == DType::kF32 ? tolerance(dtype) : Tolerance{1e-3, 0x1p-7}; }

TEST_CASE("cuda: add_rms_norm" * kSmall) {
  FG_NEEDS_GPU();
  for (DType dtype : kTypes) {
    // Element by element; one eight a thread; four.
    for (std::int64_t dim : {100, 8, 576, 4096, 8192, 8200, 12288}) {
      Bench b;
      const Twin weight = b.random(DType::kF32, {dim});
      for (std::int64_t rows : {1, 2, 70}) {
        CAPTURE(dim);
        CAPTURE(rows);
        const Twin residual = b.random(DType::kF32, {rows, dim}), delta = b.random(DType::kF32, {rows, dim}),
                   out = b.random(dtype, {rows, dim});
        b.cpu->add_rms_norm(kStream, residual.cpu, {}, weight.cpu, 1e-5f, out.cpu);
        b.gpu->add_rms_norm(kStream, residual.gpu, {}, weight.gpu, 1e-5f, out.gpu);
        b.compare(out, one_step(dtype), "norm");
        b.cpu->add_rms_norm(kStream, residual.cpu, delta.cpu, weight.cpu, 1e-5f, out.cpu);
        b.gpu->add_rms_norm(kStream, residual.gpu, delta.gpu, weight.gpu, 1e-5f, out.gpu);
        b.compare(residual, tolerance(DType::kF32), "residual");
        b.compare(out, one_step(dtype), "add_rms_norm");
        b.gpu->add_rms_norm(kStream, residual.gpu, {}, weight.gpu, 1.0f, out.gpu);
        check_differs(b.result(out.gpu), values(out.cpu), one_step(dtype), "add_rms_norm with another eps");
      }
    }
  }
}

TEST_CASE("cuda: copy_blocks and graphs" * kSmall) {
  FG_NEEDS_GPU();
  Bench b;
  const auto [cpu_arena, gpu_arena] = b.arenas(DType::kBF16, {2, 2, 16, 8}, 6, 50);
  const Twin pairs = b.ints({0, 3, 5, 1}), other = b.ints({2, 4, 2, 0});
  Tensor gpu_pairs = pairs.gpu;
  gpu_pairs.rank = 2, gpu_pairs.shape = {2, 2, 1, 1};
  Tensor cpu_pairs = pairs.cpu;
  cpu_pairs.rank = 2, cpu_pairs.shape = {2, 2, 1, 1};
  b.cpu->copy_blocks(kStream, cpu_arena, cpu_pairs);
  b.gpu->begin_capture();
  b.gpu->copy_blocks(kStream, gpu_arena, gpu_pairs);
  const GraphId graph = b.gpu->end_capture();
  b.gpu->replay(graph);
  check_close(b.arena_values(gpu_arena, true), b.arena_values(cpu_arena, false), {0, 0x1p-40}, "copy_blocks");
  // The graph reads its pairs when it runs.
  std::memcpy(cpu_pairs.data, other.cpu.data, cpu_pairs.bytes());
  b.gpu->upload(kStream, gpu_pairs.data, other.cpu.data, gpu_pairs.bytes());
  b.cpu->copy_blocks(kStream, cpu_arena, cpu_pairs);
  b.gpu->replay(graph);
  check_close(b.arena_values(gpu_arena, true), b.arena_values(cpu_arena, false), {0, 0x1p-40},
              "copy_blocks replayed");
  CHECK(b.result(gpu_arena.token_ids) == Bench::host_values(cpu_arena.token_ids));
}

TEST_CASE("cuda: gather_rows" * kSmall) {
  FG_NEEDS_GPU();
  for (DType dtype : kTypes) {
    for (std::int64_t dim : {8, 10, 576, 4096}) {
      CAPTURE(dim);
      Bench b;
      const Twin x = b.random(dtype, {70, dim}), rows = b.ints({4, -1, 0, 69, 4}), out = b.random(dtype, {5, dim});
      b.cpu->gather_rows(kStream, x.cpu, rows.cpu, out.cpu);
      b.gpu->gather_rows(kStream, x.gpu, rows.gpu, out.gpu);
      CHECK(b.result(out.gpu) == values(out.cpu));
      const Twin others = b.ints({4, -1, 1, 69, 4});
      b.gpu->gather_rows(kStream, x.gpu, others.gpu, out.gpu);
      CHECK(b.result(out.gpu) != values(out.cpu));
    }
  }
}

}  // namespace
}  // namespace fastgen::test
