// Products of the CUDA backend against the CPU's: the kernel for few rows with each of its endings, cuBLASLt for the others, the
// border between them, shapes that fill no tile, and the timing of algorithms.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "cuda/cuda_support.h"

namespace fastgen::test {
namespace {

const std::vector<std::int64_t> kRowCounts = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                              13, 14, 15, 16, 17, 33, 64, 65, 300};

OpLimits limits_of(std::int32_t model_dim, std::int32_t ffn_dim, std::int64_t max_tokens = 300) {
  return {.max_tokens = max_tokens,
          .max_seqs = 8,
          .max_logit_rows = 64,
          .max_sample_rows = 8,
          .model_dim = model_dim,
          .num_heads = 9,
          .num_kv_heads = 3,
          .head_dim = 64,
          .ffn_dim = ffn_dim,
          .vocab = 320};
}

Doubles rows_exchanged(Doubles values, std::int64_t num_rows) {
  const auto width = static_cast<std::ptrdiff_t>(values.size()) / num_rows;
  std::swap_ranges(values.begin(), values.begin() + width, values.end() - width);
  return values;
}

// A matrix [N, K].
struct Shape {
  std::int64_t out_dim, in_dim;
};

void check_linear(DType dtype, const Shape& s, const std::vector<std::int64_t>& row_counts) {
  Bench b;
  const auto [cpu_w, gpu_w] = b.weights(WeightKind::kLinear, dtype, {{s.out_dim, s.in_dim}});
  const Twin bias = b.random(DType::kF32, {s.out_dim});
  const double k = 1 + static_cast<double>(s.in_dim) / 1024;  // tensor cores cut what they add off, term by term
  for (std::int64_t rows : row_counts) {
    CAPTURE(rows);
    CAPTURE(s.out_dim);
    CAPTURE(s.in_dim);
    const Twin x = b.random(dtype, {rows, s.in_dim}), out = b.random(DType::kF32, {rows, s.out_dim});
    b.cpu->linear(kStream, x.cpu, cpu_w, bias.cpu, out.cpu);
    b.gpu->linear(kStream, x.gpu, gpu_w, bias.gpu, out.gpu);
    b.compare(out, loose(DType::kF32, k), "linear");
    b.cpu->linear_add(kStream, x.cpu, cpu_w, Tensor(), out.cpu);
    b.gpu->linear_add(kStream, x.gpu, gpu_w, Tensor(), out.gpu);
    b.compare(out, loose(DType::kF32, 2 * k), "linear_add");
    b.cpu->linear_add(kStream, x.cpu, cpu_w, bias.cpu, out.cpu);
    b.gpu->linear_add(kStream, x.gpu, gpu_w, bias.gpu, out.gpu);
    b.compare(out, loose(DType::kF32, 3 * k), "linear_add with bias");
    if (rows > 1)
      check_differs(rows_exchanged(b.result(out.gpu), rows), values(out.cpu), loose(DType::kF32, 3 * k), "linear_add, rows exchanged");
  }
}

TEST_CASE("cuda: linear and linear_add") {
  FG_NEEDS_GPU();
  // K not a multiple of 64 or of 8, N an odd multiple of 8, more tiles than SMs, K that goes round the warps more than once.
  const std::vector<Shape> shapes = {{320, 576}, {40, 72}, {104, 1096}, {8, 8}, {4360, 264}, {8648, 136}, {72, 4104}, {48, 100}};
  for (DType dtype : kTypes)
    for (const Shape& s : shapes) check_linear(dtype, s, kRowCounts);
}

void check_gate_up(DType dtype, std::int32_t ffn_dim, std::int32_t model_dim, const std::vector<std::int64_t>& row_counts,
                   std::int64_t max_rows = 300) {
  Bench b;
  b.gpu->reserve(limits_of(model_dim, ffn_dim, max_rows));
  b.cpu->reserve(limits_of(model_dim, ffn_dim, max_rows));
  const std::array<std::int64_t, 2> part = {ffn_dim, model_dim};
  const auto [cpu_w, gpu_w] = b.weights(WeightKind::kGateUp, dtype, {part, part});
  for (std::int64_t rows : row_counts) {
    CAPTURE(rows);
    CAPTURE(ffn_dim);
    const Twin x = b.random(dtype, {rows, model_dim}), out = b.random(dtype, {rows, ffn_dim});
    b.cpu->gate_up_silu(kStream, x.cpu, cpu_w, out.cpu);
    b.gpu->gate_up_silu(kStream, x.gpu, gpu_w, out.gpu);
    b.compare(out, loose(dtype), "gate_up_silu");
    if (rows > 1)
      check_differs(rows_exchanged(b.result(out.gpu), rows), values(out.cpu), loose(dtype), "gate_up_silu, rows exchanged");
  }
}

TEST_CASE("cuda: gate_up_silu") {
  FG_NEEDS_GPU();
  for (DType dtype : kTypes)
    for (const auto& [ffn_dim, model_dim] : {std::pair{1536, 576}, {48, 72}, {40, 64}, {2320, 1032}})
      check_gate_up(dtype, ffn_dim, model_dim, kRowCounts);
}

// On sm_90a these run on gate_up_wgmma.cu: less than a round of the card, halves in the last round, a number of rows that is no multiple of 256,
// the border to the library's product, more columns than rows in a group, K that goes round the stages.
TEST_CASE("cuda: gate_up_silu of many rows") {
  FG_NEEDS_GPU();
  check_gate_up(DType::kBF16, 128, 64, {252, 253, 256, 512}, 512);
  check_gate_up(DType::kBF16, 1536, 576, {256, 509, 1280}, 1280);
  check_gate_up(DType::kBF16, 5120, 128, {256, 512, 768}, 768);
  check_gate_up(DType::kBF16, 384, 8192, {1024}, 1024);
}

TEST_CASE("cuda: more rows than a grid has blocks in y") {
  FG_NEEDS_GPU();
  constexpr std::int64_t kRows = 65'540;
  for (DType dtype : kTypes) {
    Bench b;
    OpLimits limits = limits_of(8, 24, kRows);
    limits.num_heads = limits.num_kv_heads = 1, limits.head_dim = 8;
    b.cpu->reserve(limits);
    b.gpu->reserve(limits);
    const auto [cpu_up, gpu_up] = b.weights(WeightKind::kGateUp, dtype, {{24, 8}, {24, 8}});
    const auto [cpu_down, gpu_down] = b.weights(WeightKind::kLinear, dtype, {{8, 24}});
    const Twin x = b.random(dtype, {kRows, 8}), ffn = b.random(dtype, {kRows, 24}), bias = b.random(DType::kF32, {8}),
               out = b.random(DType::kF32, {kRows, 8});
    b.cpu->gate_up_silu(kStream, x.cpu, cpu_up, ffn.cpu);
    b.gpu->gate_up_silu(kStream, x.gpu, gpu_up, ffn.gpu);
    b.compare(ffn, loose(dtype), "gate_up_silu");
    const Twin same = b.copy_of(ffn.cpu);
    b.cpu->linear(kStream, same.cpu, cpu_down, bias.cpu, out.cpu);
    b.gpu->linear(kStream, same.gpu, gpu_down, bias.gpu, out.gpu);
    b.compare(out, loose(DType::kF32), "linear with bias");
  }
}

struct QkvShape {
  std::int32_t heads, kv_heads, head_dim, model_dim;
  bool bias, norm;
};

// Rows at scattered positions and slots; the last has no slot, so that nothing may be stored for it.
void check_qkv(DType dtype, const QkvShape& s, const std::vector<std::int64_t>& row_counts) {
  constexpr std::int32_t kBlockSize = 16, kPositions = 700;
  const std::int64_t most = *std::max_element(row_counts.begin(), row_counts.end()), num_blocks = most / kBlockSize + 2;
  Bench b;
  OpLimits limits = limits_of(s.model_dim, 64, most);
  limits.num_heads = s.heads, limits.num_kv_heads = s.kv_heads, limits.head_dim = s.head_dim;
  b.cpu->reserve(limits);
  b.gpu->reserve(limits);
  const std::int64_t q_dim = s.heads * s.head_dim, kv_dim = s.kv_heads * s.head_dim;
  const auto [cpu_w, gpu_w] =
      b.weights(WeightKind::kQkv, dtype, {{q_dim, s.model_dim}, {kv_dim, s.model_dim}, {kv_dim, s.model_dim}});
  const Twin rope = b.random(DType::kF32, {kPositions, s.head_dim}), bias = b.random(DType::kF32, {q_dim + 2 * kv_dim});
  const Twin q_norm = b.random(DType::kF32, {s.head_dim}), k_norm = b.random(DType::kF32, {s.head_dim});
  const auto [cpu_arena, gpu_arena] = b.arenas(dtype, {2, s.kv_heads, kBlockSize, s.head_dim}, num_blocks, 8);
  std::vector<std::int32_t> all_slots(static_cast<std::size_t>(num_blocks * kBlockSize));
  std::iota(all_slots.begin(), all_slots.end(), 0);
  for (std::int64_t rows : row_counts) {
    CAPTURE(rows);
    CAPTURE(s.head_dim);
    for (std::size_t i = all_slots.size(); i-- > 1;)
      std::swap(all_slots[i], all_slots[static_cast<std::size_t>(b.rng.integer(0, static_cast<int>(i)))]);
    std::vector<std::int32_t> slots(all_slots.begin(), all_slots.begin() + rows), positions;
    for (std::int64_t i = 0; i < rows; ++i) positions.push_back(b.rng.integer(0, kPositions - 1));
    if (rows > 1) slots.back() = -1;
    const Twin place = b.ints(slots), position = b.ints(positions);
    const Twin x = b.random(dtype, {rows, s.model_dim}), q = b.random(dtype, {rows, s.heads, s.head_dim});
    QkvArgs args{.x = x.cpu, .weight = cpu_w, .norm_eps = 1e-6f, .rope = rope.cpu, .positions = position.cpu,
                 .slots = place.cpu, .layer = 1, .arena = cpu_arena, .q_out = q.cpu};
    if (s.bias) args.bias = bias.cpu;
    if (s.norm) args.q_norm = q_norm.cpu, args.k_norm = k_norm.cpu;
    b.cpu->qkv_rope_store(kStream, args);
    args.x = x.gpu, args.weight = gpu_w, args.rope = rope.gpu, args.positions = position.gpu, args.slots = place.gpu;
    args.arena = gpu_arena, args.q_out = q.gpu;
    if (s.bias) args.bias = bias.gpu;
    if (s.norm) args.q_norm = q_norm.gpu, args.k_norm = k_norm.gpu;
    b.gpu->qkv_rope_store(kStream, args);
    const std::int64_t stored = rows > 1 ? rows - 1 : 1;
    b.compare({q.cpu.slice(0, stored), q.gpu.slice(0, stored)}, loose(dtype, 4), "q of qkv_rope_store");
    const Doubles arena = b.arena_values(gpu_arena, true), want = b.arena_values(cpu_arena, false);
    check_close(arena, want, loose(dtype, 4), "k and v of qkv_rope_store");
    check_differs(rows_exchanged(arena, num_blocks), want, loose(dtype, 4), "k and v, blocks exchanged");
  }
}

TEST_CASE("cuda: qkv_rope_store") {
  FG_NEEDS_GPU();
  const std::vector<std::int64_t> counts = {1, 2, 8, 9, 16, 17, 65}, more = {1, 5, 17, 65, 600};
  for (DType dtype : kTypes) {
    check_qkv(dtype, {9, 3, 64, 576, false, false}, counts);
    check_qkv(dtype, {8, 4, 128, 72, true, false}, counts);
    check_qkv(dtype, {4, 2, 32, 96, true, false}, counts);
    check_qkv(dtype, {6, 6, 48, 96, true, false}, more);  // half a head is no multiple of 16
    check_qkv(dtype, {6, 3, 48, 96, true, true}, more);
    check_qkv(dtype, {8, 2, 64, 96, true, true}, more);
    check_qkv(dtype, {8, 2, 128, 96, false, true}, more);
    check_qkv(dtype, {4, 1, 256, 96, false, true}, more);
    check_qkv(dtype, {4, 2, 8, 96, true, true}, more);
    check_qkv(dtype, {2, 1, 64, 96, true, false}, {2049});
  }
}

// Every kernel of ours that products are made of, once with fewer tiles than SMs and once with more, at sizes that compute-sanitizer
// checks in a minute (scripts/check-gpu). No product of cuBLASLt's is among them: what the tool does not look at it takes for unwritten.
TEST_CASE("cuda: products of few rows, small" * doctest::test_suite("small products")) {
  FG_NEEDS_GPU();
  const std::vector<std::int64_t> counts = {1, 5, 16};
  for (const Shape& s : {Shape{72, 264}, {4360, 136}}) check_linear(DType::kBF16, s, counts);
  for (const auto& [ffn_dim, model_dim] : {std::pair{48, 264}, {40, 72}, {2320, 72}}) check_gate_up(DType::kBF16, ffn_dim, model_dim, counts);
  check_gate_up(DType::kBF16, 128, 320, {256}, 512);
  check_gate_up(DType::kBF16, 4352, 64, {509}, 512);  // 68 units: a second round of two, in halves
  check_qkv(DType::kBF16, {9, 3, 64, 136, true, false}, counts);
  check_qkv(DType::kBF16, {64, 8, 64, 72, false, false}, counts);
  check_qkv(DType::kBF16, {8, 2, 64, 96, true, true}, counts);  // two elements or eight a thread
  check_qkv(DType::kBF16, {6, 3, 48, 96, true, true}, counts);
}

TEST_CASE("cuda: products of the library and what reads them, small" * doctest::test_suite("small library products")) {
  FG_NEEDS_GPU();
  const std::vector<std::int64_t> counts = {17, 33};
  for (DType dtype : kTypes) {
    check_linear(dtype, {72, 264}, counts);
    check_gate_up(dtype, 40, 72, counts);
    check_qkv(dtype, {8, 2, 64, 96, true, true}, counts);
    check_qkv(dtype, {6, 3, 48, 96, true, true}, counts);
  }
}

// K as in Mistral 7B; rows of weights as few as take the same ways: fewer tiles than SMs for QKV and down, more for gate-up.
TEST_CASE("cuda: the products of Mistral 7B") {
  FG_NEEDS_GPU();
  constexpr std::int64_t kDim = 4096, kFfn = 14336, kSomeFfn = 2560, kSomeOut = 512;
  Bench b;
  OpLimits limits = limits_of(kDim, kSomeFfn);
  b.cpu->reserve(limits);
  b.gpu->reserve(limits);
  const auto weights = [&](WeightKind kind, std::vector<RandomPart> parts) {
    return std::pair{b.cpu->prepare_random_weights(kind, DType::kBF16, parts),
                     b.gpu->prepare_random_weights(kind, DType::kBF16, parts)};
  };
  const auto [cpu_qkv, gpu_qkv] = weights(WeightKind::kLinear, {{kSomeOut, kDim, 1, 1}});
  const auto [cpu_down, gpu_down] = weights(WeightKind::kLinear, {{kSomeOut, kFfn, 1, 2}});
  const auto [cpu_gate_up, gpu_gate_up] = weights(WeightKind::kGateUp, {{kSomeFfn, kDim, 1, 3}, {kSomeFfn, kDim, 1, 4}});
  for (std::int64_t rows : {1, 16, 64}) {
    CAPTURE(rows);
    const Twin x = b.random(DType::kBF16, {rows, kDim}), wide = b.random(DType::kBF16, {rows, kFfn});
    const Twin qkv = b.random(DType::kF32, {rows, kSomeOut}), down = b.random(DType::kF32, {rows, kSomeOut}),
               ffn = b.random(DType::kBF16, {rows, kSomeFfn});
    b.cpu->linear(kStream, x.cpu, cpu_qkv, {}, qkv.cpu);
    b.gpu->linear(kStream, x.gpu, gpu_qkv, {}, qkv.gpu);
    b.compare(qkv, loose(DType::kF32, 4), "QKV");
    b.cpu->linear_add(kStream, wide.cpu, cpu_down, {}, down.cpu);
    b.gpu->linear_add(kStream, wide.gpu, gpu_down, {}, down.gpu);
    b.compare(down, loose(DType::kF32, 10), "down");
    b.cpu->gate_up_silu(kStream, x.cpu, cpu_gate_up, ffn.cpu);
    b.gpu->gate_up_silu(kStream, x.gpu, gpu_gate_up, ffn.gpu);
    b.compare(ffn, loose(DType::kBF16), "gate-up");
    // Sums are added in a fixed order: the same bits again, and from a graph, which rounds more rows once more.
    const Doubles first = b.result(ffn.gpu);
    b.gpu->gate_up_silu(kStream, x.gpu, gpu_gate_up, ffn.gpu);
    CHECK(b.result(ffn.gpu) == first);
    b.gpu->begin_capture();
    b.gpu->gate_up_silu(kStream, x.gpu, gpu_gate_up, ffn.gpu);
    const GraphId graph = b.gpu->end_capture();
    b.gpu->replay(graph);
    const Doubles replayed = b.result(ffn.gpu);
    b.compare(ffn, loose(DType::kBF16), "gate-up from a graph");
    if (rows <= 16) CHECK(replayed == first);
    for (int i = 0; i < 3; ++i) b.gpu->replay(graph);
    CHECK(b.result(ffn.gpu) == replayed);
  }
}

// A chain as a layer has it: every kernel may start before the one it reads from has ended.
TEST_CASE("cuda: kernels that overlap wait for what they read") {
  FG_NEEDS_GPU();
  constexpr std::int64_t kDim = 1024, kFfn = 2304;  // more tiles of gate-up than SMs
  for (std::int64_t rows : {1, 7, 16}) {
    Bench b;
    b.cpu->reserve(limits_of(kDim, kFfn));
    b.gpu->reserve(limits_of(kDim, kFfn));
    const auto [cpu_up, gpu_up] = b.weights(WeightKind::kGateUp, DType::kBF16, {{kFfn, kDim}, {kFfn, kDim}});
    const auto [cpu_down, gpu_down] = b.weights(WeightKind::kLinear, DType::kBF16, {{kDim, kFfn}});
    const Twin residual = b.random(DType::kF32, {rows, kDim}), norm = b.random(DType::kF32, {kDim}, 0.1);
    const Twin normed = b.random(DType::kBF16, {rows, kDim}), ffn = b.random(DType::kBF16, {rows, kFfn});
    const Twin start = b.copy_of(residual.cpu);
    const auto layers = [&](Backend& backend, const Weight& up, const Weight& down, Tensor Twin::*side) {
      for (int layer = 0; layer < 8; ++layer) {
        backend.add_rms_norm(kStream, residual.*side, {}, norm.*side, 1e-5f, normed.*side);
        backend.gate_up_silu(kStream, normed.*side, up, ffn.*side);
        backend.linear_add(kStream, ffn.*side, down, {}, residual.*side);
      }
    };
    layers(*b.gpu, gpu_up, gpu_down, &Twin::gpu);
    const Doubles eager = b.result(residual.gpu);
    b.gpu->begin_capture();
    layers(*b.gpu, gpu_up, gpu_down, &Twin::gpu);
    const GraphId graph = b.gpu->end_capture();
    for (int i = 0; i < 5; ++i) {
      b.gpu->upload(kStream, residual.gpu.data, start.cpu.data, start.cpu.bytes());
      b.gpu->replay(graph);
      CHECK(b.result(residual.gpu) == eager);
    }
    layers(*b.cpu, cpu_up, cpu_down, &Twin::cpu);
    b.compare(residual, {0.05, 0x1p-6}, "eight layers");
  }
}

// An environment variable for the scope.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before, was_set_ = true;
    setenv(name, value.c_str(), 1);
  }
  ~Setting() { was_set_ ? setenv(name_, before_.c_str(), 1) : unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
  std::string before_;
  bool was_set_ = false;
};

TEST_CASE("cuda: products are timed once, kept, and right with what was chosen") {
  FG_NEEDS_GPU();
  const TempDir folder;
  const Setting cache("XDG_CACHE_HOME", folder.path().string()), tune("FG_CUDA_TUNE", "1");
  const auto file = [&] { return std::filesystem::directory_iterator(folder.path() / "fastgen")->path(); };
  const auto run = [] {
    Backends own;  // a start, as that of a program is
    Bench b(own);
    const auto [cpu_w, gpu_w] = b.weights(WeightKind::kLinear, DType::kBF16, {{320, 576}});
    // A shape that is in use but was not announced is not timed.
    const Twin early = b.random(DType::kBF16, {20, 576}), early_out = b.random(DType::kF32, {20, 320});
    b.cpu->linear(kStream, early.cpu, cpu_w, {}, early_out.cpu);
    b.gpu->linear(kStream, early.gpu, gpu_w, {}, early_out.gpu);
    b.compare(early_out, loose(DType::kF32, 2), "linear");
    b.cpu->reserve(limits_of(576, 640));
    b.gpu->reserve(limits_of(576, 640));
    for (std::int64_t rows : {17, 32, 33, 50, 65, 129, 255, 300}) {
      const Twin x = b.random(DType::kBF16, {rows, 576}), out = b.random(DType::kF32, {rows, 320});
      b.cpu->linear_add(kStream, x.cpu, cpu_w, {}, out.cpu);
      b.gpu->linear_add(kStream, x.gpu, gpu_w, {}, out.gpu);
      b.compare(out, loose(DType::kF32, 2), "linear_add");
    }
  };
  // A start times products for a second; what is left over is the next one's.
  std::string last, text;
  for (int starts = 0; starts < 6 && (starts == 0 || text != last); ++starts) {
    last = text;
    run();
    text = read_file(file());
    CHECK(text.find("bfloat16 float32 320 576 1 64 ") != std::string::npos);
  }
  CHECK(text == last);  // nothing was left to time
  std::ofstream(file()) << "fastgen products 1 | nonsense\n";
  run();
  CHECK(read_file(file()).find("bfloat16 float32 320 576 1 64 ") != std::string::npos);
}

}  // namespace
}  // namespace fastgen::test
