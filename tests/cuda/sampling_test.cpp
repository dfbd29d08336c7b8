// Sampling of the CUDA backend: against the CPU's, and the same tokens whatever the batch, that is however many blocks share a row.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "cuda/cuda_support.h"

namespace fastgen::test {
namespace {

constexpr std::int32_t kTableRows = 4, kTableWidth = 8, kBlockSize = 16;

// A head whose logits are sums of few small numbers: exact in either type, so that they do not depend on how the product is computed.
class Sampling {
 public:
  Sampling(std::int32_t vocab, std::int64_t num_logit_rows, std::int64_t max_rows, DType dtype = DType::kF32) : dtype_(dtype), vocab_(vocab) {
    const OpLimits limits{.max_tokens = 64,
                          .max_seqs = kTableRows,
                          .max_logit_rows = num_logit_rows,
                          .max_sample_rows = max_rows,
                          .max_blocks_per_seq = kTableWidth,
                          .model_dim = kDim,
                          .num_heads = 1,
                          .num_kv_heads = 1,
                          .head_dim = 8,
                          .ffn_dim = 8,
                          .vocab = vocab};
    b.cpu->reserve(limits);
    b.gpu->reserve(limits);
    head = b.copy_of_weights(WeightKind::kHead, small_numbers({vocab, kDim}, 16));
    x = b.copy_of(small_numbers({num_logit_rows, kDim}, 4));
    arena = b.arenas(DType::kF32, {1, 1, kBlockSize, 8}, kTableRows * kTableWidth, vocab);
    std::vector<std::int32_t> table(kTableRows * kTableWidth);
    std::iota(table.rbegin(), table.rend(), 0);
    blocks = b.ints(table);
    for (Tensor* t : {&blocks.cpu, &blocks.gpu}) t->rank = 2, t->shape = {kTableRows, kTableWidth, 1, 1};
    bias_ids = b.ints({1, 2, 3, vocab - 1, vocab / 2, 3}), bias_values = b.random(DType::kF32, {6}, 5);
  }

  // Every setting, alone and with others; logits_row, seed and table from the bench's numbers.
  std::vector<SampleRow> mixed_rows(int count) {
    std::vector<SampleRow> rows(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
      SampleRow& row = rows[static_cast<std::size_t>(i)];
      row.logits_row = b.rng.integer(0, static_cast<int>(x.cpu.rows()) - 1);
      row.state_slot = i % 9 == 8 ? -1 : i;
      row.table_row = b.rng.integer(0, kTableRows - 1);
      row.history_len = b.rng.integer(0, kTableWidth * kBlockSize);
      row.prompt_len = row.history_len / 2;
      row.top_k = i % 3 == 0 ? b.rng.integer(1, 50) : 0;
      row.top_p = i % 4 == 0 ? 0.7f : 1.0f;
      row.min_p = i % 5 == 0 ? 0.05f : 0.0f;
      row.num_top = i % 2 == 0 ? b.rng.integer(0, kSampleTop) : -1;
      row.bias_count = i % 6 == 0 ? 6 : 0;
      row.temperature = i % 7 == 0 ? 0.0f : 0.8f;
      row.repetition_penalty = i % 8 == 1 ? 1.3f : 1.0f;
      row.frequency_penalty = i % 8 == 2 ? 0.5f : 0.0f;
      row.presence_penalty = i % 8 >= 2 && i % 8 < 4 ? 0.4f : 0.0f;
      row.seed = static_cast<std::uint64_t>(i) * 1234567;
      row.position = static_cast<std::uint32_t>(i);
    }
    return rows;
  }

  struct Drawn {
    Twin ids, state, logprobs, top_ids, top_logprobs;
  };
  Drawn draw(const std::vector<SampleRow>& rows, bool on_cpu) {
    const auto n = static_cast<std::int64_t>(rows.size());
    Tensor bytes = make_tensor(*b.cpu, DType::kU8, {n, static_cast<std::int64_t>(sizeof(SampleRow))});
    std::memcpy(bytes.data, rows.data(), bytes.bytes());
    const Twin packed = b.copy_of(bytes);
    Drawn d{b.ints(std::vector<std::int32_t>(rows.size(), -5)), b.ints(std::vector<std::int32_t>(rows.size(), -5)),
            b.random(DType::kF32, {n}), b.ints(std::vector<std::int32_t>(rows.size() * kSampleTop, -5)),
            b.random(DType::kF32, {n, kSampleTop})};
    for (Tensor* t : {&d.top_ids.cpu, &d.top_ids.gpu}) t->rank = 2, t->shape = {n, kSampleTop, 1, 1};
    b.gpu->logits_sample(kStream, x.gpu, head.second, {packed.gpu, bias_ids.gpu, bias_values.gpu, blocks.gpu, d.state.gpu},
                         arena.second, d.ids.gpu, {d.logprobs.gpu, d.top_ids.gpu, d.top_logprobs.gpu});
    if (on_cpu)
      b.cpu->logits_sample(kStream, x.cpu, head.first, {packed.cpu, bias_ids.cpu, bias_values.cpu, blocks.cpu, d.state.cpu},
                           arena.first, d.ids.cpu, {d.logprobs.cpu, d.top_ids.cpu, d.top_logprobs.cpu});
    return d;
  }

  void check_against_cpu(const std::vector<SampleRow>& rows) {
    const Drawn d = draw(rows, true);
    const Doubles cpu_ids = Bench::host_values(d.ids.cpu), gpu_ids = b.result(d.ids.gpu);
    std::size_t num_equal = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      num_equal += cpu_ids[i] == gpu_ids[i];
      if (rows[i].temperature == 0) CHECK(cpu_ids[i] == gpu_ids[i]);
    }
    // A draw within float rounding of a border may fall on the other side; more than one in 64 is a fault.
    CHECK(num_equal + 1 + rows.size() / 64 >= rows.size());
    CHECK(b.result(d.state.gpu) == gpu_ids);
    if (num_equal != rows.size()) return;  // logprobs are of the chosen
    b.compare(d.logprobs, {2e-3, 1e-4}, "logprobs");
    b.compare(d.top_logprobs, {2e-3, 1e-4}, "top logprobs");
    CHECK(b.result(d.top_ids.gpu) == Bench::host_values(d.top_ids.cpu));
  }

  Bench b;
  std::pair<Weight, Weight> head;
  Twin x, blocks, bias_ids, bias_values;
  std::pair<KvArena, KvArena> arena;

 private:
  static constexpr std::int32_t kDim = 8;
  // Multiples of 1/4.
  Tensor small_numbers(std::initializer_list<std::int64_t> shape, int range) {
    Tensor t = make_tensor(*b.cpu, dtype_, shape);
    Doubles numbers(static_cast<std::size_t>(t.elements()));
    for (double& number : numbers) number = 0.25 * b.rng.integer(-range, range);
    set_values(t, numbers);
    return t;
  }
  DType dtype_;
  std::int32_t vocab_;
};

// Vocabularies under and over the size from which blocks share a row, and one whose rows 16 bytes do not divide; batches for
// eight, four, two blocks and one.
TEST_CASE("cuda: sampling of every kind equals the CPU's") {
  FG_NEEDS_GPU();
  for (std::int32_t vocab : {5003, 8192, 9001, 32000}) {
    for (int num_rows : {1, 16, 40, 64, 200}) {
      CAPTURE(vocab);
      CAPTURE(num_rows);
      Sampling s(vocab, 16, num_rows);
      s.check_against_cpu(s.mixed_rows(num_rows));
    }
  }
}

TEST_CASE("cuda: a row draws the same token in every batch") {
  FG_NEEDS_GPU();
  Sampling s(32000, 16, 300);
  std::vector<SampleRow> rows = s.mixed_rows(300);
  for (SampleRow& row : rows) row.num_top = -1;
  const Doubles all = s.b.result(s.draw(rows, false).ids.gpu);
  for (std::size_t count : {1, 5, 16, 33, 66, 130}) {
    for (std::size_t first = 0; first + count <= 140; first += count) {
      const std::vector<SampleRow> some(rows.begin() + static_cast<std::ptrdiff_t>(first),
                                        rows.begin() + static_cast<std::ptrdiff_t>(first + count));
      const Doubles ids = s.b.result(s.draw(some, false).ids.gpu);
      for (std::size_t i = 0; i < count; ++i) {
        CAPTURE(first + i);
        CHECK(ids[i] == all[first + i]);
      }
    }
  }
  // Another seed draws others.
  for (SampleRow& row : rows) row.seed += 1;
  CHECK(s.b.result(s.draw(rows, false).ids.gpu) != all);
}

TEST_CASE("cuda: the most likely of a large vocabulary, with ties, infinities and no numbers") {
  FG_NEEDS_GPU();
  Sampling s(151936, 4, 40);
  for (int count : {1, 4, 40}) {
    std::vector<SampleRow> rows(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
      SampleRow& row = rows[static_cast<std::size_t>(i)];
      row.logits_row = i % 4, row.state_slot = i, row.temperature = 0, row.num_top = 3;
    }
    s.check_against_cpu(rows);
  }
  float* x = s.x.cpu.as<float>();
  for (int i = 0; i < 8; ++i) {
    x[i] = 0;                            // all equal: the lowest id
    x[8 + i] = i == 0 ? INFINITY : 0;    // infinities of both signs and no numbers
    x[16 + i] = NAN;
  }
  s.b.gpu->upload(kStream, s.x.gpu.data, x, s.x.cpu.bytes());
  std::vector<SampleRow> rows(4);
  for (int i = 0; i < 4; ++i) {
    SampleRow& row = rows[static_cast<std::size_t>(i)];
    row.logits_row = i, row.state_slot = i, row.temperature = i == 3 ? 0.7f : 0.0f;
  }
  const Sampling::Drawn d = s.draw(rows, true);
  const Doubles ids = s.b.result(d.ids.gpu);
  CHECK(ids == Bench::host_values(d.ids.cpu));
  CHECK(ids[0] == 0);
}

void check_token_logprobs(std::int32_t vocab, int count, DType dtype) {
  CAPTURE(vocab);
  CAPTURE(count);
  Sampling s(vocab, count, 1, dtype);
  std::vector<std::int32_t> given;
  for (int i = 0; i < count; ++i) given.push_back(s.b.rng.integer(0, vocab - 1));
  if (count > 1) given[1] = vocab;  // none of the vocabulary: nothing is written
  const Twin ids = s.b.ints(given), logprobs = s.b.random(DType::kF32, {count}), top_logprobs = s.b.random(DType::kF32, {count, kSampleTop});
  Twin top_ids = s.b.ints(std::vector<std::int32_t>(given.size() * kSampleTop, -5));
  for (Tensor* t : {&top_ids.cpu, &top_ids.gpu}) t->rank = 2, t->shape = {count, kSampleTop, 1, 1};
  s.b.cpu->token_logprobs(kStream, s.x.cpu, s.head.first, ids.cpu, 5, {logprobs.cpu, top_ids.cpu, top_logprobs.cpu});
  s.b.gpu->token_logprobs(kStream, s.x.gpu, s.head.second, ids.gpu, 5, {logprobs.gpu, top_ids.gpu, top_logprobs.gpu});
  s.b.compare(logprobs, {2e-3, 1e-4}, "token_logprobs");
  s.b.compare(top_logprobs, {2e-3, 1e-4}, "top of token_logprobs");
  CHECK(s.b.result(top_ids.gpu) == Bench::host_values(top_ids.cpu));
}

TEST_CASE("cuda: token_logprobs") {
  FG_NEEDS_GPU();
  for (std::int32_t vocab : {5003, 32000})
    for (int count : {1, 16, 70}) check_token_logprobs(vocab, count, DType::kF32);
}

// One, two, four and eight blocks a row, at sizes that compute-sanitizer checks in a minute (scripts/check-gpu).
TEST_CASE("cuda: sampling, small" * doctest::test_suite("small sampling")) {
  FG_NEEDS_GPU();
  for (const auto& [vocab, num_rows] : {std::pair{5003, 24}, {9001, 9}, {9001, 24}, {9001, 50}}) {
    Sampling s(vocab, 4, num_rows, DType::kBF16);
    s.check_against_cpu(s.mixed_rows(num_rows));
  }
  for (std::int32_t vocab : {5003, 9001}) check_token_logprobs(vocab, 5, DType::kBF16);
}

}  // namespace
}  // namespace fastgen::test
