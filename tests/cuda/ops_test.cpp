// Every CUDA op against the CPU's, in float32 and bfloat16. Needs a GPU; without one each case says so and is
// skipped.
#include <algorithm>
#include <numeric>

#include "cuda/cuda_support.h"

namespace fastgen::test {
namespace {

TEST_CASE("cuda: embed, norm, gather") {
  FG_NEEDS_GPU();
  for (DType dtype : kTypes) {
    for (std::int64_t dim : {64, 288, 576, 4096}) {
      Bench b;
      const auto [cpu_head, gpu_head] = b.weights(WeightKind::kHead, dtype, {{100, dim}});
      const auto [cpu_arena, gpu_arena] = b.arenas(dtype, {1, 1, 16, 8}, 4, 100);
      const Twin ids = b.ints({5, -1, 99, -3, 0}), state = b.ints({7, 8, 9}),
                 slots = b.ints({0, 17, -1, 40, 63});
      const Twin residual = b.random(DType::kF32, {5, dim});
      b.cpu->embed(kStream, {ids.cpu, state.cpu, slots.cpu, cpu_head, cpu_arena, residual.cpu});
      b.gpu->embed(kStream, {ids.gpu, state.gpu, slots.gpu, gpu_head, gpu_arena, residual.gpu});
      b.compare(residual, {1e-12, 0x1p-40}, "embed");
      CHECK(b.result(gpu_arena.token_ids) == Bench::host_values(cpu_arena.token_ids));
      const Twin delta = b.random(DType::kF32, {5, dim}), weight = b.random(DType::kF32, {dim}),
                 out = b.random(dtype, {5, dim});
      b.cpu->add_rms_norm(kStream, residual.cpu, delta.cpu, weight.cpu, 1e-5f, out.cpu);
      b.gpu->add_rms_norm(kStream, residual.gpu, delta.gpu, weight.gpu, 1e-5f, out.gpu);
      b.compare(residual, tolerance(DType::kF32), "residual");
      b.compare(out, tolerance(dtype), "add_rms_norm");
      const Twin rows = b.ints({4, -1, 0}), gathered = b.random(dtype, {3, dim});
      b.cpu->gather_rows(kStream, out.cpu, rows.cpu, gathered.cpu);
      b.gpu->gather_rows(kStream, out.gpu, rows.gpu, gathered.gpu);
      b.compare(gathered, tolerance(dtype), "gather_rows");
    }
  }
}

TEST_CASE("cuda: linear, linear_add, gate_up_silu") {
  FG_NEEDS_GPU();
  for (DType dtype : kTypes) {
    for (std::int64_t rows : {1, 3, 16, 65, 300}) {
      Bench b;
      b.gpu->reserve({.max_tokens = 300,
                      .model_dim = 576,
                      .num_heads = 9,
                      .num_kv_heads = 3,
                      .head_dim = 64,
                      .ffn_dim = 1536,
                      .vocab = 8});
      b.cpu->reserve({.max_tokens = 300,
                      .model_dim = 576,
                      .num_heads = 9,
                      .num_kv_heads = 3,
                      .head_dim = 64,
                      .ffn_dim = 1536,
                      .vocab = 8});
      const auto [cpu_w, gpu_w] = b.weights(WeightKind::kLinear, dtype, {{320, 576}});
      const Twin x = b.random(dtype, {rows, 576}), bias = b.random(DType::kF32, {320}),
                 out = b.random(DType::kF32, {rows, 320});
      b.cpu->linear(kStream, x.cpu, cpu_w, bias.cpu, out.cpu);
      b.gpu->linear(kStream, x.gpu, gpu_w, bias.gpu, out.gpu);
      b.compare(out, loose(DType::kF32), "linear");
      b.cpu->linear_add(kStream, x.cpu, cpu_w, Tensor(), out.cpu);
      b.gpu->linear_add(kStream, x.gpu, gpu_w, Tensor(), out.gpu);
      b.compare(out, loose(DType::kF32), "linear_add");
      const auto [cpu_g, gpu_g] = b.weights(WeightKind::kGateUp, dtype, {{1536, 576}, {1536, 576}});
      const Twin ffn = b.random(dtype, {rows, 1536});
      b.cpu->gate_up_silu(kStream, x.cpu, cpu_g, ffn.cpu);
      b.gpu->gate_up_silu(kStream, x.gpu, gpu_g, ffn.gpu);
      b.compare(ffn, loose(dtype), "gate_up_silu");
    }
  }
}

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

TEST_CASE("cuda: sampling and logprobs") {
  FG_NEEDS_GPU();
  const std::int32_t vocab = 5003, num_rows = 64, block_size = 16;
  Bench b;
  const OpLimits limits{.max_tokens = 64,
                        .max_seqs = 4,
                        .max_logit_rows = 16,
                        .max_sample_rows = num_rows,
                        .max_blocks_per_seq = 8,
                        .model_dim = 64,
                        .num_heads = 1,
                        .num_kv_heads = 1,
                        .head_dim = 8,
                        .ffn_dim = 8,
                        .vocab = vocab};
  b.cpu->reserve(limits);
  b.gpu->reserve(limits);
  const auto [cpu_head, gpu_head] = b.weights(WeightKind::kHead, DType::kF32, {{vocab, 64}});
  const auto [cpu_arena, gpu_arena] = b.arenas(DType::kF32, {1, 1, block_size, 8}, 32, vocab);
  const Twin x = b.random(DType::kF32, {16, 64}, 5);
  std::vector<std::int32_t> table(32);
  std::iota(table.begin(), table.end(), 0);
  Twin blocks = b.ints(table);
  for (Tensor* t : {&blocks.cpu, &blocks.gpu}) t->rank = 2, t->shape = {4, 8, 1, 1};
  const Twin bias_ids = b.ints({1, 2, 3, 4000}), bias_values = b.random(DType::kF32, {4}, 5);
  std::vector<SampleRow> rows(num_rows);
  for (int i = 0; i < num_rows; ++i) {
    SampleRow& row = rows[static_cast<std::size_t>(i)];
    row.logits_row = b.rng.integer(0, 15);
    row.state_slot = i % 9 == 8 ? -1 : i;
    row.table_row = b.rng.integer(0, 3);
    row.history_len = b.rng.integer(0, 128);
    row.prompt_len = row.history_len / 2;
    row.top_k = i % 3 == 0 ? b.rng.integer(1, 50) : 0;
    row.top_p = i % 4 == 0 ? 0.7f : 1.0f;
    row.min_p = i % 5 == 0 ? 0.05f : 0.0f;
    row.num_top = i % 2 == 0 ? b.rng.integer(0, kSampleTop) : -1;
    row.bias_count = i % 6 == 0 ? 4 : 0;
    row.temperature = i % 7 == 0 ? 0.0f : 0.8f;
    row.repetition_penalty = i % 8 == 1 ? 1.3f : 1.0f;
    row.frequency_penalty = i % 8 == 2 ? 0.5f : 0.0f;
    row.presence_penalty = i % 8 >= 2 && i % 8 < 4 ? 0.4f : 0.0f;
    row.seed = static_cast<std::uint64_t>(i) * 1234567;
    row.position = static_cast<std::uint32_t>(i);
  }
  Tensor bytes = make_tensor(*b.cpu, DType::kU8, {num_rows, static_cast<std::int64_t>(sizeof(SampleRow))});
  std::memcpy(bytes.data, rows.data(), bytes.bytes());
  const Twin row_bytes = b.copy_of(bytes);
  const Twin state = b.ints(std::vector<std::int32_t>(num_rows, -5)),
             ids = b.ints(std::vector<std::int32_t>(num_rows, -5));
  const Twin logprobs = b.random(DType::kF32, {num_rows}),
             top_logprobs = b.random(DType::kF32, {num_rows, kSampleTop});
  Twin top_ids = b.ints(std::vector<std::int32_t>(num_rows * kSampleTop, -5));
  for (Tensor* t : {&top_ids.cpu, &top_ids.gpu}) t->rank = 2, t->shape = {num_rows, kSampleTop, 1, 1};
  b.cpu->logits_sample(kStream, x.cpu, cpu_head,
                       {row_bytes.cpu, bias_ids.cpu, bias_values.cpu, blocks.cpu, state.cpu}, cpu_arena,
                       ids.cpu, {logprobs.cpu, top_ids.cpu, top_logprobs.cpu});
  b.gpu->logits_sample(kStream, x.gpu, gpu_head,
                       {row_bytes.gpu, bias_ids.gpu, bias_values.gpu, blocks.gpu, state.gpu}, gpu_arena,
                       ids.gpu, {logprobs.gpu, top_ids.gpu, top_logprobs.gpu});
  const Doubles cpu_ids = Bench::host_values(ids.cpu), gpu_ids = b.result(ids.gpu);
  int num_equal = 0;
  for (std::size_t i = 0; i < cpu_ids.size(); ++i) num_equal += cpu_ids[i] == gpu_ids[i];
  // A draw within float rounding of a border may fall on the other side; more than one in 64 is a fault.
  CHECK(num_equal >= num_rows - 1);
  CHECK(b.result(state.gpu) == gpu_ids);
  b.compare(logprobs, {2e-3, 1e-4}, "logprobs");
  b.compare(top_logprobs, {2e-3, 1e-4}, "top logprobs");
  const Doubles cpu_top = Bench::host_values(top_ids.cpu), gpu_top = b.result(top_ids.gpu);
  CHECK(std::count(gpu_top.begin(), gpu_top.end(), -5) == std::count(cpu_top.begin(), cpu_top.end(), -5));

  const Twin given = b.ints({1, 5002, 77, 4, 0, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19});
  const Twin given_logprobs = b.random(DType::kF32, {16});
  b.cpu->token_logprobs(kStream, x.cpu, cpu_head, given.cpu, 5,
                        {given_logprobs.cpu, top_ids.cpu, top_logprobs.cpu});
  b.gpu->token_logprobs(kStream, x.gpu, gpu_head, given.gpu, 5,
                        {given_logprobs.gpu, top_ids.gpu, top_logprobs.gpu});
  b.compare(given_logprobs, {2e-3, 1e-4}, "token_logprobs");
  b.compare(top_logprobs, {2e-3, 1e-4}, "top of token_logprobs");
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
