// Every CUDA op against the CPU's, in float32 and bfloat16. Needs a GPU; without one each case says so and is
// skipped.
#include <algorithm>
#include <numeric>

#include "cuda/cuda_support.h"

namespace fastgen::test {
namespace {

TEST_CASE("cuda: qkv_rope_store and attend") {
  FG_NEEDS_GPU();
  struct Shape {
    std::int32_t heads, kv_heads, head_dim, block_size, window;
  };
  struct Sequence {
    std::int32_t num_queries, context;
  };
  const std::vector<Shape> shapes = {{9, 3, 64, 64, 0},   {8, 4, 8, 16, 0},    {6, 6, 48, 64, 0},
                                     {32, 8, 128, 64, 0}, {8, 2, 128, 16, 48}, {34, 1, 64, 64, 0}};
  const std::vector<Sequence> sequences = {{1, 1}, {1, 200}, {0, 0}, {1, 2050}, {40, 40}, {70, 171}};
  for (DType dtype : kTypes) {
    for (const Shape& s : shapes) {
      CAPTURE(s.head_dim);
      Bench b;
      const OpLimits limits{.max_tokens = 256,
                            .max_seqs = 8,
                            .max_blocks_per_seq = 200,
                            .model_dim = 96,
                            .num_heads = s.heads,
                            .num_kv_heads = s.kv_heads,
                            .head_dim = s.head_dim,
                            .ffn_dim = 8,
                            .vocab = 8};
      b.cpu->reserve(limits);
      b.gpu->reserve(limits);
      std::vector<std::int32_t> starts{0}, contexts, positions, slots;
      const std::int64_t per_seq = (2050 + s.block_size - 1) / s.block_size, num_blocks = per_seq * 6;
      std::vector<std::int32_t> table(static_cast<std::size_t>(num_blocks));
      std::iota(table.begin(), table.end(), 0);
      for (std::size_t i = table.size(); i-- > 1;)
        std::swap(table[i], table[static_cast<std::size_t>(b.rng.integer(0, static_cast<int>(i)))]);
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        const Sequence& seq = sequences[i];
        starts.push_back(starts.back() + seq.num_queries);
        contexts.push_back(seq.context);
        for (std::int32_t p = seq.context - seq.num_queries; p < seq.context; ++p) {
          positions.push_back(p);
          slots.push_back(
              table[i * static_cast<std::size_t>(per_seq) + static_cast<std::size_t>(p / s.block_size)] *
                  s.block_size +
              p % s.block_size);
        }
      }
      const std::int64_t rows = starts.back(), width = (s.heads + 2 * s.kv_heads) * s.head_dim;
      const auto [cpu_arena, gpu_arena] =
          b.arenas(dtype, {2, s.kv_heads, s.block_size, s.head_dim}, num_blocks, 8);
      const auto [cpu_w, gpu_w] = b.weights(
          WeightKind::kQkv, dtype,
          {{s.heads * s.head_dim, 96}, {s.kv_heads * s.head_dim, 96}, {s.kv_heads * s.head_dim, 96}});
      const Twin x = b.random(dtype, {rows, 96}), bias = b.random(DType::kF32, {width}),
                 rope = b.random(DType::kF32, {2050, s.head_dim});
      const Twin norm = b.random(DType::kF32, {s.head_dim}), q = b.random(dtype, {rows, s.heads, s.head_dim});
      const Twin place = b.ints(slots), position = b.ints(positions);
      b.cpu->qkv_rope_store(kStream, {x.cpu, cpu_w, bias.cpu, norm.cpu, norm.cpu, 1e-6f, rope.cpu,
                                      position.cpu, place.cpu, 1, cpu_arena, q.cpu});
      b.gpu->qkv_rope_store(kStream, {x.gpu, gpu_w, bias.gpu, norm.gpu, norm.gpu, 1e-6f, rope.gpu,
                                      position.gpu, place.gpu, 1, gpu_arena, q.gpu});
      b.compare(q, loose(dtype, 4), "q of qkv_rope_store");
      check_close(b.arena_values(gpu_arena, true), b.arena_values(cpu_arena, false), loose(dtype, 4),
                  "arena");

      Twin blocks = b.ints(table), out = b.random(dtype, {rows, s.heads * s.head_dim});
      for (Tensor* t : {&blocks.cpu, &blocks.gpu}) t->rank = 2, t->shape = {6, per_seq, 1, 1};
      const Twin start = b.ints(starts), context = b.ints(contexts);
      // From here both read the CPU's q and arena, so that only attention itself is compared.
      const Twin same_q = b.copy_of(q.cpu),
                 same_kv = b.copy_of(
                     Tensor(cpu_arena.data, dtype, {num_blocks * cpu_arena.layout.block_elements()}));
      KvArena same_arena = gpu_arena;
      same_arena.data = same_kv.gpu.data;
      const float scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
      b.cpu->attend(
          kStream,
          {q.cpu, {start.cpu, context.cpu, blocks.cpu, 4, 1}, cpu_arena, 1, s.window, scale, out.cpu});
      b.gpu->attend(
          kStream,
          {same_q.gpu, {start.gpu, context.gpu, blocks.gpu, 4, 1}, same_arena, 1, s.window, scale, out.gpu});
      b.compare(out, loose(dtype), "attend");
      // Sabotage: another block table must show.
      std::swap(table[static_cast<std::size_t>(per_seq)], table[static_cast<std::size_t>(per_seq) * 3]);
      Twin wrong = b.ints(table);
      wrong.gpu.rank = 2, wrong.gpu.shape = {6, per_seq, 1, 1};
      b.gpu->attend(
          kStream, {same_q.gpu, {start.gpu, context.gpu, wrong.gpu, 4, 1}, same_arena, 1, 0, scale, out.gpu});
      check_differs(b.result(out.gpu), values(out.cpu), loose(dtype), "attend with two blocks swapped");
    }
  }
}

TEST_CASE("cuda: copy_blocks and graphs") {
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

}  // namespace
}  // namespace fastgen::test
