// Attention of the CUDA backend against the CPU's: decode and prefill kernels, every head_dim that has a kernel of its own
// and some that have not, lengths and block sizes that fall on and beside the tiles' edges.
#include <cstring>
#include <numeric>

#include "cuda/cuda_support.h"

namespace fastgen::test {
namespace {

struct Heads {
  std::int32_t heads, kv_heads, head_dim;
};
struct Sequence {
  std::int32_t num_queries, context;
};
using Sequences = std::vector<Sequence>;

constexpr std::int32_t kLayer = 1, kNumLayers = 2;

// One batch in both backends' memory. Its tables are as wide as the limit, the blocks are scattered.
class Attention {
 public:
  Attention(DType dtype, Heads heads, std::int32_t block_size, std::int64_t num_seqs, std::int32_t context_max,
            Backends& backends = shared_backends())
      : bench(backends), heads_(heads), num_seqs_(num_seqs), dtype_(dtype) {
    width_ = (context_max + block_size - 1) / block_size + 3;
    const OpLimits limits{.max_tokens = 1024,
                          .max_seqs = num_seqs,
                          .max_blocks_per_seq = width_,
                          .model_dim = 64,
                          .num_heads = heads.heads,
                          .num_kv_heads = heads.kv_heads,
                          .head_dim = heads.head_dim,
                          .ffn_dim = 8,
                          .vocab = 8};
    bench.cpu->reserve(limits);
    bench.gpu->reserve(limits);  // a workspace for every case, as a new one is zeroed
    layout_ = {kNumLayers, heads.kv_heads, block_size, heads.head_dim};
  }

  // Lengths, a table of scattered blocks, and (the first time) an arena that holds them all.
  void set(const Sequences& sequences) {
    std::vector<std::int32_t> starts{0}, contexts, entries(static_cast<std::size_t>(num_seqs_ * width_));
    std::vector<std::size_t> used;
    for (std::size_t b = 0; b < sequences.size(); ++b) {
      starts.push_back(starts.back() + sequences[b].num_queries);
      contexts.push_back(sequences[b].context);
      for (std::int32_t i = 0; i * layout_.block_size < sequences[b].context; ++i)
        used.push_back(b * static_cast<std::size_t>(width_) + static_cast<std::size_t>(i));
    }
    std::vector<std::int32_t> blocks(std::max<std::size_t>(used.size(), static_cast<std::size_t>(num_blocks_)));
    std::iota(blocks.begin(), blocks.end(), 0);
    for (std::size_t i = blocks.size(); i-- > 1;)
      std::swap(blocks[i], blocks[static_cast<std::size_t>(bench.rng.integer(0, static_cast<int>(i)))]);
    for (std::size_t i = 0; i < used.size(); ++i) entries[used[i]] = blocks[i];
    if (num_blocks_ == 0) {
      num_blocks_ = static_cast<std::int64_t>(std::max<std::size_t>(blocks.size(), 1));
      arena = bench.arenas(dtype_, layout_, num_blocks_, 8);
    }
    REQUIRE(static_cast<std::int64_t>(blocks.size()) <= num_blocks_);
    write(start, starts, {static_cast<std::int64_t>(starts.size())});
    write(context, contexts, {num_seqs_});
    write(table, entries, {num_seqs_, width_});
    if (!q.cpu) {
      q = bench.random(dtype_, {starts.back(), heads_.heads, heads_.head_dim});
      out = bench.random(dtype_, {starts.back(), heads_.heads * heads_.head_dim});
    }
  }

  // The lengths alone: the table stays.
  void set_contexts(const std::vector<std::int32_t>& contexts) { write(context, contexts, {num_seqs_}); }

  void attend_cpu(std::int32_t num_decodes, std::int32_t window = 0) {
    bench.cpu->attend(kStream, {q.cpu, {start.cpu, context.cpu, table.cpu, num_decodes, 1}, arena.first, kLayer, window,
                                scale(), out.cpu});
  }
  void attend_gpu(std::int32_t num_decodes, std::int32_t window = 0) {
    bench.gpu->attend(kStream, {q.gpu, {start.gpu, context.gpu, table.gpu, num_decodes, 1}, arena.second, kLayer, window,
                                scale(), out.gpu});
  }
  void compare(const std::string& what) { bench.compare(out, loose(dtype_), what); }
  void check_differs(const std::string& what) {
    test::check_differs(bench.result(out.gpu), values(out.cpu), loose(dtype_), what);
  }

  Bench bench;
  std::pair<KvArena, KvArena> arena;
  Twin start, context, table, q, out;

 private:
  // Into the same device memory each time, as a captured graph expects.
  void write(Twin& twin, const std::vector<std::int32_t>& numbers, std::initializer_list<std::int64_t> shape) {
    if (!twin.cpu) twin = bench.ints(numbers);
    twin.cpu.rank = twin.gpu.rank = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), twin.cpu.shape.begin());
    twin.gpu.shape = twin.cpu.shape;
    std::memcpy(twin.cpu.data, numbers.data(), numbers.size() * 4);
    bench.gpu->upload(kStream, twin.gpu.data, twin.cpu.data, twin.cpu.bytes());
    bench.gpu->host_wait(bench.gpu->record(kStream));
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(heads_.head_dim)); }

  Heads heads_;
  KvLayout layout_;
  std::int64_t num_seqs_, width_ = 0, num_blocks_ = 0;
  DType dtype_;
};

std::int32_t longest(const Sequences& sequences) {
  std::int32_t context = 1;
  for (const Sequence& s : sequences) context = std::max(context, s.context);
  return context;
}

void check_case(DType dtype, Heads heads, std::int32_t block_size, std::int32_t window, const Sequences& sequences,
                std::int32_t num_decodes) {
  CAPTURE(heads.heads);
  CAPTURE(heads.head_dim);
  CAPTURE(block_size);
  CAPTURE(window);
  Attention attention(dtype, heads, block_size, static_cast<std::int64_t>(sequences.size()), longest(sequences));
  attention.set(sequences);
  attention.attend_cpu(num_decodes, window);
  attention.attend_gpu(num_decodes, window);
  attention.compare("attend");
}

// Groups of 1 to 34 query heads, over and under 8 and 16; the last two head_dims have no kernel of their own.
const std::vector<Heads> kHeads = {{9, 3, 64},   {8, 2, 128}, {10, 2, 128}, {14, 2, 128}, {34, 1, 64}, {3, 3, 64},  {12, 1, 128},
                                   {6, 2, 80},   {10, 1, 80}, {6, 2, 96},   {4, 2, 256},  {10, 1, 256}, {6, 6, 48}, {8, 4, 8}};

TEST_CASE("cuda attend: decode rows of uneven lengths") {
  FG_NEEDS_GPU();
  // A padding row is a decode row that sees nothing.
  const Sequences sequences = {{1, 1}, {1, 63}, {1, 64}, {1, 65}, {1, 0}, {1, 777}, {1, 16}, {1, 1100}, {1, 0}};
  for (const Heads& heads : kHeads)
    for (const auto& [block_size, window] : {std::pair{16, 0}, {64, 0}, {64, 100}, {128, 100}, {24, 0}})
      check_case(DType::kBF16, heads, block_size, window, sequences, 9);
  for (const Heads& heads : {Heads{9, 3, 64}, Heads{6, 6, 48}, Heads{8, 2, 128}})
    check_case(DType::kF32, heads, 64, heads.head_dim == 64 ? 100 : 0, sequences, 9);
  check_case(DType::kBF16, {8, 2, 128}, 1, 0, {{1, 40}, {1, 3}}, 2);
  check_case(DType::kBF16, {8, 2, 128}, 1024, 0, {{1, 1025}, {1, 3}}, 2);
}

TEST_CASE("cuda attend: decode of one row, of long contexts, of many sequences") {
  FG_NEEDS_GPU();
  Attention longest_one(DType::kBF16, {8, 2, 128}, 64, 1, 16384);
  longest_one.set({{1, 16384}});
  for (const std::int32_t window : {0, 4096}) {
    longest_one.attend_cpu(1, window);
    longest_one.attend_gpu(1, window);
    longest_one.compare("attend of a long context");
  }
  for (const std::int32_t context : {1, 127, 384, 385, 3000}) check_case(DType::kBF16, {8, 2, 64}, 16, 0, {{1, context}}, 1);
  Sequences uneven;
  for (int i = 0; i < 64; ++i) uneven.push_back({1, i % 8 == 0 ? 2048 : 80 + i});
  check_case(DType::kBF16, {8, 2, 128}, 64, 0, uneven, 64);
  Sequences many;
  for (int i = 0; i < 400; ++i) many.push_back({1, i % 37 == 0 ? 0 : 1 + i % 150});
  check_case(DType::kBF16, {4, 2, 64}, 16, 0, many, 400);
}

TEST_CASE("cuda attend: prefill, alone and behind decode rows") {
  FG_NEEDS_GPU();
  const Sequences prefill = {{40, 40}, {70, 171}, {3, 300}, {0, 0}, {5, 0}, {1, 129}, {65, 65}, {130, 1000}};
  Sequences mixed = {{1, 1}, {1, 500}, {1, 0}};
  mixed.insert(mixed.end(), prefill.begin(), prefill.end());
  for (const Heads& heads : kHeads)
    for (const auto& [block_size, window] : {std::pair{16, 100}, {64, 0}, {24, 0}, {128, 100}})
      check_case(DType::kBF16, heads, block_size, window, block_size == 128 ? mixed : prefill, block_size == 128 ? 3 : 0);
  for (const Heads& heads : {Heads{9, 3, 64}, Heads{8, 4, 8}, Heads{8, 2, 128}})
    check_case(DType::kF32, heads, 64, heads.head_dim == 8 ? 100 : 0, mixed, 3);
  check_case(DType::kBF16, {8, 2, 128}, 64, 0, {{512, 512}, {100, 6000}}, 0);
}

// What attend_prefill_wgmma.cu serves on sm_90a, and attend_prefill.cu elsewhere.
TEST_CASE("cuda attend: prefill of blocks of 64, of several times 64, and of other sizes") {
  FG_NEEDS_GPU();
  const Sequences behind_decodes = {{1, 700}, {1, 0}, {200, 900}, {64, 640}, {1, 193}, {65, 65}, {5, 0}, {128, 128}};
  for (const std::int32_t head_dim : {64, 128})
    for (const std::int32_t group : {1, 4, 5, 7, 8})
      for (const std::int32_t block_size : {64, 128, 192, 96, 32})
        check_case(DType::kBF16, {2 * group, 2, head_dim}, block_size, group == 5 ? 100 : 0, behind_decodes, 2);
}

TEST_CASE("cuda attend: prefill of more sequences than a warp searches at once, and of the largest step, again and again") {
  FG_NEEDS_GPU();
  Sequences many;
  for (int i = 0; i < 80; ++i) many.push_back({i % 7, i % 11 == 0 ? 300 + i : i % 7});
  // 1024 tokens, more tiles than an H200 has SMs, the first ones behind a long context: a block takes several, and not each as many.
  const Sequences largest = {{1, 40}, {300, 1500}, {511, 511}, {212, 212}};
  for (const std::int32_t head_dim : {64, 128}) {
    check_case(DType::kBF16, {4, 2, head_dim}, 64, 0, many, 0);
    Attention attention(DType::kBF16, {32, 8, head_dim}, 64, 4, 1500);
    attention.set(largest);
    attention.attend_cpu(1);
    attention.attend_gpu(1);
    const Doubles once = attention.bench.result(attention.out.gpu);
    attention.compare("attend of the largest step");
    for (int again = 0; again < 3; ++again) {
      attention.attend_gpu(1);
      CHECK(attention.bench.result(attention.out.gpu) == once);
    }
  }
}

// Every kernel, at sizes that compute-sanitizer checks in a minute (scripts/check-gpu): decode by one and two blocks of heads with a
// sequence that several CTAs share, prefill by mma.sync and wgmma, and what serves the rest.
TEST_CASE("cuda attend: every kernel, small" * doctest::test_suite("small attention")) {
  FG_NEEDS_GPU();
  const Sequences decodes = {{1, 1}, {1, 65}, {1, 0}, {1, 300}}, prefills = {{20, 20}, {3, 90}, {0, 0}, {66, 130}};
  Sequences mixed = {{1, 70}, {1, 0}};
  mixed.insert(mixed.end(), prefills.begin(), prefills.end());
  for (const Heads& heads : {Heads{6, 2, 64}, {10, 1, 64}, {8, 2, 128}, {12, 1, 128}, {6, 2, 80}, {10, 1, 80}, {6, 2, 96}, {4, 2, 256}, {6, 6, 48}})
    for (const auto& [block_size, window] : {std::pair{16, 50}, {64, 0}}) {
      check_case(DType::kBF16, heads, block_size, window, decodes, 4);
      check_case(DType::kBF16, heads, block_size, window, mixed, 2);
    }
  check_case(DType::kF32, {6, 2, 64}, 16, 50, mixed, 2);
}

// Another layout each time, of an arena that may lie where the last backend's did.
TEST_CASE("cuda attend: prefill of two backends in turn, one of which ends") {
  FG_NEEDS_GPU();
  const Sequences sequences = {{40, 40}, {70, 171}};
  Attention lasting(DType::kBF16, {8, 2, 128}, 64, 2, 171);
  for (const Heads& heads : {Heads{8, 2, 128}, Heads{8, 4, 128}, Heads{8, 2, 64}, Heads{8, 2, 128}}) {
    Backends brief;
    Attention ending(DType::kBF16, heads, heads.kv_heads == 4 ? 128 : 64, 2, 171, brief);
    for (Attention* attention : {&lasting, &ending, &lasting, &ending}) {
      attention->set(sequences);
      attention->attend_cpu(0);
      attention->attend_gpu(0);
      attention->compare("attend of two backends");
    }
  }
}

// Decode attention reads older keys while the product before it still runs: on the kernel of one row, that of few rows, and cuBLASLt's.
TEST_CASE("cuda attend: sees the keys that the product before it writes") {
  FG_NEEDS_GPU();
  constexpr std::int32_t kDim = 256, kBlockSize = 16, kContextMax = 90;
  const Tolerance allowed = loose(DType::kBF16, 4);
  for (const std::int32_t num_rows : {1, 5, 20}) {
    CAPTURE(num_rows);
    Attention attention(DType::kBF16, {8, 2, 128}, kBlockSize, num_rows, kContextMax);
    attention.set(Sequences(static_cast<std::size_t>(num_rows), {1, kContextMax}));
    Bench& b = attention.bench;
    const auto [cpu_w, gpu_w] = b.weights(WeightKind::kQkv, DType::kBF16, {{1024, kDim}, {256, kDim}, {256, kDim}});
    const Twin rope = b.random(DType::kF32, {kContextMax, 128});
    for (std::int32_t round = 0; round < 12; ++round) {
      std::vector<std::int32_t> contexts, positions, slots;
      for (std::int32_t row = 0; row < num_rows; ++row) {
        const std::int32_t position = (7 * row + 17 * round) % kContextMax;
        contexts.push_back(position + 1), positions.push_back(position);
        const std::int64_t entry = row * attention.table.cpu.row_elements() + position / kBlockSize;
        slots.push_back(attention.table.cpu.as<std::int32_t>()[entry] * kBlockSize + position % kBlockSize);
      }
      attention.set_contexts(contexts);
      attention.attend_gpu(num_rows);
      const Doubles without = b.result(attention.out.gpu);
      const Twin x = b.random(DType::kBF16, {num_rows, kDim}), place = b.ints(slots), position = b.ints(positions);
      b.cpu->qkv_rope_store(kStream, {.x = x.cpu, .weight = cpu_w, .rope = rope.cpu, .positions = position.cpu, .slots = place.cpu,
                                      .layer = kLayer, .arena = attention.arena.first, .q_out = attention.q.cpu});
      attention.attend_cpu(num_rows);
      b.gpu->qkv_rope_store(kStream, {.x = x.gpu, .weight = gpu_w, .rope = rope.gpu, .positions = position.gpu, .slots = place.gpu,
                                      .layer = kLayer, .arena = attention.arena.second, .q_out = attention.q.gpu});
      attention.attend_gpu(num_rows);
      b.compare(attention.out, allowed, "attend behind its product");
      check_differs(without, values(attention.out.cpu), allowed, "attend without its product");
    }
  }
}

TEST_CASE("cuda attend: a wrong length, window or table shows") {
  FG_NEEDS_GPU();
  const Sequences sequences = {{1, 20}, {1, 33}, {9, 31}, {12, 12}};
  for (const auto& [heads, block_size] : {std::pair{Heads{8, 2, 128}, 16}, {Heads{6, 2, 64}, 16}, {Heads{4, 2, 256}, 16},
                                          {Heads{8, 2, 128}, 64}, {Heads{6, 2, 64}, 64}}) {
    Attention attention(DType::kBF16, heads, block_size, 4, 64);
    attention.set(sequences);
    attention.attend_cpu(2, 10);
    attention.attend_gpu(2, 10);
    attention.compare("attend");
    attention.attend_gpu(2, 9);
    attention.check_differs("a window one shorter");
    attention.attend_gpu(2);
    attention.check_differs("no window");
    attention.attend_cpu(2);
    attention.compare("attend without a window");
    attention.set_contexts({20, 33, 30, 12});
    attention.attend_gpu(2);
    attention.check_differs("rows of prefill that see one key less");
    attention.set({{1, 19}, {1, 33}, {9, 31}, {12, 12}});  // the table moves too
    attention.attend_gpu(2);
    attention.check_differs("another length and table");
  }
}

TEST_CASE("cuda attend: a captured step serves other lengths, again and again, with the same bits") {
  FG_NEEDS_GPU();
  Sequences largest, captured, first, second;
  for (int i = 0; i < 48; ++i) {
    largest.push_back({1, 512});
    captured.push_back({1, 0});
    first.push_back({1, i < 40 ? 1 + i * 12 : 0});
    second.push_back({1, i % 5 == 0 ? 512 : 1});
  }
  Attention attention(DType::kBF16, {8, 2, 128}, 64, 48, 512);
  attention.set(largest);
  attention.set(captured);
  attention.bench.gpu->begin_capture();
  attention.attend_gpu(48);
  const GraphId graph = attention.bench.gpu->end_capture();
  for (const Sequences& lengths : {first, second, largest, first}) {
    attention.set(lengths);
    attention.attend_cpu(48);
    attention.bench.gpu->replay(graph);
    const Doubles once = attention.bench.result(attention.out.gpu);
    attention.compare("attend replayed");
    attention.bench.gpu->replay(graph);
    CHECK(attention.bench.result(attention.out.gpu) == once);
  }
}

}  // namespace
}  // namespace fastgen::test
