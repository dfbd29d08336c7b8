// attend against softmax in double: prefill, decode, both in one batch, paged, windowed, padded, uneven groups.
#include <algorithm>
#include <limits>
#include <numeric>

#include "backend/cpu_support.h"

namespace fastgen::test {
namespace {

struct Sequence {
  std::int32_t num_queries, context;
};
struct Case {
  std::string name;
  std::int32_t heads, kv_heads, head_dim, block_size, window;
  std::vector<Sequence> sequences;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> kCases = {
      {"decode, SmolLM2's heads", 9, 3, 64, 64, 0, {{1, 1}, {1, 63}, {1, 64}, {1, 65}, {0, 0}, {1, 200}}},
      {"prefill of one row and of many", 9, 3, 64, 64, 0, {{1, 1}, {130, 130}, {70, 171}}},
      {"mixed with padding", 8, 4, 8, 16, 0, {{1, 40}, {2, 0}, {1, 7}, {33, 33}, {17, 50}, {0, 0}}},
      {"head_dim 48, no groups", 6, 6, 48, 64, 0, {{1, 90}, {65, 65}}},
      {"head_dim 128, window", 8, 2, 128, 16, 48, {{1, 30}, {1, 48}, {1, 300}, {120, 120}, {40, 140}}},
      {"window over long decode", 4, 2, 16, 64, 700, {{1, 1500}, {1, 699}}},
      {"long context, several splits", 9, 3, 64, 64, 0, {{1, 2050}, {1, 513}, {2, 1600}}},
      {"one kv head for many", 71, 1, 64, 64, 0, {{1, 100}, {3, 20}}},
      {"head_dim 6, blocks of 1", 2, 1, 6, 1, 0, {{1, 30}, {20, 20}}},
      {"head_dim 256", 2, 2, 256, 32, 0, {{1, 70}, {18, 70}}},
  };
  return kCases;
}

struct Problem {
  AttendArgs args;
  Doubles want;
};

// A paged arena of random K and V with shuffled blocks, and what attention must make of it.
Problem make_problem(Backend& backend, Rng& rng, const Case& shape, DType dtype, bool rows_behind = false) {
  Problem p;
  const std::int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  std::int64_t num_rows = 0, num_blocks = 0, most_blocks = 1;
  for (const Sequence& s : shape.sequences) {
    const std::int64_t blocks = (s.context + shape.block_size - 1) / shape.block_size;
    num_rows += s.num_queries;
    num_blocks += blocks;
    most_blocks = std::max(most_blocks, blocks);
  }
  const std::int64_t num_seqs = static_cast<std::int64_t>(shape.sequences.size());
  KvArena& arena = p.args.arena;
  arena.dtype = dtype;
  arena.num_blocks = num_blocks + 3;
  arena.layout = {2, shape.kv_heads, shape.block_size, shape.head_dim};
  const Tensor memory = make_random(backend, rng, dtype, {arena.num_blocks * arena.layout.block_elements()});
  arena.data = memory.data;
  const Doubles kv = values(memory);
  std::vector<std::int32_t> order(static_cast<std::size_t>(arena.num_blocks));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i-- > 1;) std::swap(order[i], order[static_cast<std::size_t>(rng.integer(0, static_cast<int>(i)))]);

  std::vector<std::int32_t> starts{0}, contexts, table(static_cast<std::size_t>(num_seqs * most_blocks), -1);
  std::size_t next_block = 0;
  for (std::int64_t b = 0; b < num_seqs; ++b) {
    const Sequence& s = shape.sequences[static_cast<std::size_t>(b)];
    starts.push_back(starts.back() + s.num_queries);
    contexts.push_back(s.context);
    for (std::int64_t m = 0; m * shape.block_size < s.context; ++m) table[static_cast<std::size_t>(b * most_blocks + m)] = order[next_block++];
  }
  p.args.batch.query_start = make_ints(backend, starts);
  p.args.batch.context_len = make_ints(backend, contexts);
  p.args.batch.block_table = make_ints(backend, table);
  p.args.batch.block_table.rank = 2;
  p.args.batch.block_table.shape = {num_seqs, most_blocks, 1, 1};
  p.args.layer = 1;
  p.args.window = shape.window;
  p.args.scale = 1 / std::sqrt(static_cast<float>(d));
  p.args.q = make_random(backend, rng, dtype, {num_rows, shape.heads, d}, 2);
  p.args.out = make_random(backend, rng, dtype, {num_rows, shape.heads * d});

  const Doubles q = values(p.args.q);
  p.want.assign(static_cast<std::size_t>(num_rows * shape.heads * d), 0.0);
  for (std::int64_t b = 0; b < num_seqs; ++b) {
    const Sequence& s = shape.sequences[static_cast<std::size_t>(b)];
    if (s.context == 0) continue;
    for (std::int64_t j = 0; j < s.num_queries; ++j) {
      const std::int64_t position = s.context - s.num_queries + j;
      const std::int64_t first = shape.window > 0 ? std::max<std::int64_t>(0, position + 1 - shape.window) : 0;
      for (std::int64_t h = 0; h < shape.heads; ++h) {
        const std::int64_t row = (starts[static_cast<std::size_t>(b)] + j) * shape.heads + h;
        const auto vector_at = [&](std::int64_t pos, int which) {
          const std::int64_t block = table[static_cast<std::size_t>(b * most_blocks + pos / shape.block_size)];
          return kv.data() + arena.layout.offset(block * shape.block_size + pos % shape.block_size, 1, which, static_cast<int>(h / group));
        };
        Doubles scores;
        double largest = -std::numeric_limits<double>::infinity();
        for (std::int64_t pos = first; pos <= position; ++pos) {
          double sum = 0;
          for (std::int64_t i = 0; i < d; ++i) sum += q[static_cast<std::size_t>(row * d + i)] * vector_at(pos, 0)[i];
          scores.push_back(sum * static_cast<double>(p.args.scale));
          largest = std::max(largest, scores.back());
        }
        double total = 0;
        for (double& score : scores) total += score = std::exp(score - largest);
        for (std::int64_t pos = first; pos <= position; ++pos) {
          for (std::int64_t i = 0; i < d; ++i) {
            p.want[static_cast<std::size_t>(row * d + i)] += scores[static_cast<std::size_t>(pos - first)] / total * vector_at(pos, 1)[i];
          }
        }
      }
    }
  }
  return p;
}

// bf16: the result is rounded once (2^-9), and probabilities may have been rounded too.
Tolerance allowed(DType dtype) { return dtype == DType::kF32 ? Tolerance{2e-5, 2e-5} : Tolerance{4e-3, 0x1p-7}; }

TEST_CASE("cpu attend equals softmax in double") {
  for_each_variant([](Backend& backend) {
    Rng rng(21);
    for (const Case& shape : cases()) {
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        CAPTURE(shape.name);
        CAPTURE(std::string(dtype_name(dtype)));
        Problem p = make_problem(backend, rng, shape, dtype);
        backend.attend(Stream::kCompute, p.args);
        check_close(values(p.args.out), p.want, allowed(dtype), "attend");
        // Sabotage: two heads exchanged; the blocks of the first sequence replaced by others.
        Doubles wrong = p.want;
        const auto d = shape.head_dim;
        std::swap_ranges(wrong.begin(), wrong.begin() + d, wrong.begin() + d);
        if (shape.sequences[0].context > 1) check_differs(wrong, p.want, allowed(dtype), "attend, heads exchanged");
        std::int32_t* table = p.args.batch.block_table.as<std::int32_t>();
        for (std::int64_t m = 0; m < p.args.batch.block_table.shape[1]; ++m) {
          table[m] = (table[m] + 1) % static_cast<std::int32_t>(p.args.arena.num_blocks);
        }
        backend.attend(Stream::kCompute, p.args);
        check_differs(values(p.args.out), p.want, allowed(dtype), "attend, wrong blocks");
      }
    }
  });
}

TEST_CASE("cpu attend: more items than one round holds") {
  auto backend = make_cpu_backend({2, 0});
  Rng rng(22);
  Case shape{"many sequences", 6, 3, 8, 16, 0, {}};
  for (int i = 0; i < 1500; ++i) shape.sequences.push_back({1, rng.integer(1, 30)});
  for (int i = 0; i < 40; ++i) shape.sequences.push_back({1, 600 + i});
  Problem p = make_problem(*backend, rng, shape, DType::kF32);
  backend->attend(Stream::kCompute, p.args);
  check_close(values(p.args.out), p.want, allowed(DType::kF32), "attend");
}

TEST_CASE("cpu attend: large scores neither overflow nor lose the likeliest key") {
  auto backend = make_cpu_backend({2, 0});
  Rng rng(23);
  Problem p = make_problem(*backend, rng, {"large", 2, 1, 16, 16, 0, {{1, 900}, {20, 100}}}, DType::kF32);
  p.args.scale = 40;  // scores of several hundred: every row is nearly one key's V
  backend->attend(Stream::kCompute, p.args);
  for (double value : values(p.args.out)) CHECK(std::isfinite(value));
}

}  // namespace
}  // namespace fastgen::test
