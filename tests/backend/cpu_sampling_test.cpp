// logits_sample and token_logprobs: against a naive model that sorts, in double; statistics; determinism.
#include <algorithm>
#include <limits>
#include <numeric>

#include "backend/counter_rng.h"
#include "backend/cpu/sampling.h"
#include "backend/cpu_support.h"

namespace fastgen::test {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// A backend whose head is the identity, so that x are the logits.
struct Fixture {
  explicit Fixture(std::int64_t vocab_size, std::int64_t num_rows, std::int64_t num_slots = 512)
      : vocab(vocab_size), backend(make_cpu_backend({2, 0})) {
    const Tensor identity = make_tensor(*backend, DType::kF32, {vocab, vocab});
    for (std::int64_t i = 0; i < vocab; ++i) identity.as<float>()[i * vocab + i] = 1;
    head = backend->prepare_weights(WeightKind::kHead, DType::kF32, {{identity}});
    x = make_tensor(*backend, DType::kF32, {num_rows, vocab});
    arena.layout = {1, 1, 8, 8};
    arena.num_blocks = 64;
    arena.token_ids = make_tensor(*backend, DType::kI32, {arena.num_blocks * 8});
    batch.state_tokens = make_tensor(*backend, DType::kI32, {num_slots});
    batch.block_table = make_tensor(*backend, DType::kI32, {4, 16});
    for (int b = 0; b < 4; ++b) {
      for (int m = 0; m < 16; ++m) batch.block_table.as<std::int32_t>()[b * 16 + m] = (b * 16 + m * 5) % 64;
    }
  }

  void set_logits(std::int64_t row, const Doubles& logits) { set_values(x.slice(row, 1), logits); }
  // Writes the tokens of block table row `b`.
  void set_history(int b, const std::vector<std::int32_t>& tokens) {
    for (std::size_t p = 0; p < tokens.size(); ++p) {
      const std::int32_t block = batch.block_table.as<std::int32_t>()[b * 16 + static_cast<int>(p) / 8];
      arena.token_ids.as<std::int32_t>()[block * 8 + static_cast<int>(p) % 8] = tokens[p];
    }
  }

  std::vector<std::int32_t> sample(const std::vector<SampleRow>& rows) {
    const std::int64_t n = static_cast<std::int64_t>(rows.size());
    batch.rows = make_tensor(*backend, DType::kU8, {n, static_cast<std::int64_t>(sizeof(SampleRow))});
    std::memcpy(batch.rows.data, rows.data(), rows.size() * sizeof(SampleRow));
    ids = make_ints(*backend, std::vector<std::int32_t>(rows.size(), -7));
    out.logprobs = make_tensor(*backend, DType::kF32, {n});
    out.top_ids = make_tensor(*backend, DType::kI32, {n, kSampleTop});
    out.top_logprobs = make_tensor(*backend, DType::kF32, {n, kSampleTop});
    backend->logits_sample(Stream::kCompute, x, head, batch, arena, ids, out);
    return {ids.as<std::int32_t>(), ids.as<std::int32_t>() + n};
  }

  std::int64_t vocab;
  std::unique_ptr<Backend> backend;
  Weight head;
  Tensor x, ids;
  KvArena arena;
  SampleBatch batch;
  LogprobOutput out;
};

SampleRow make_row(std::int32_t logits_row, std::int32_t slot) {
  SampleRow row;
  row.logits_row = logits_row;
  row.state_slot = slot;
  return row;
}

struct NaiveInput {
  Doubles logits;
  std::vector<std::int32_t> history;
  std::vector<std::pair<std::int32_t, double>> bias;
};

// Unnormalised probabilities of the kept tokens, 0 for the others; sorts everything, in double.
Doubles naive_probs(const NaiveInput& in, const SampleRow& row) {
  Doubles logits = in.logits;
  for (const auto& [id, bias] : in.bias) logits[static_cast<std::size_t>(id)] += bias;
  for (std::size_t v = 0; v < logits.size(); ++v) {
    const auto id = static_cast<std::int32_t>(v);
    const auto all = std::count(in.history.begin(), in.history.begin() + row.history_len, id);
    const auto output = std::count(in.history.begin() + row.prompt_len, in.history.begin() + row.history_len, id);
    if (all > 0) logits[v] = logits[v] > 0 ? logits[v] / static_cast<double>(row.repetition_penalty) : logits[v] * static_cast<double>(row.repetition_penalty);
    if (output > 0) logits[v] -= static_cast<double>(row.frequency_penalty) * static_cast<double>(output) + static_cast<double>(row.presence_penalty);
  }
  const double largest = *std::max_element(logits.begin(), logits.end());
  Doubles probs(logits.size());
  for (std::size_t v = 0; v < probs.size(); ++v) probs[v] = std::exp((logits[v] - largest) / static_cast<double>(row.temperature));
  for (double& p : probs) p = p >= static_cast<double>(row.min_p) ? p : 0;
  const auto mass_above = [&probs](double value, bool count) {
    double sum = 0;
    for (double p : probs) sum += p > value ? (count ? 1 : p) : 0;
    return sum;
  };
  if (row.top_k > 0) {
    Doubles kept = probs;
    for (double& p : kept) p = p > 0 && mass_above(p, true) < row.top_k ? p : 0;
    probs = kept;
  }
  if (row.top_p < 1) {
    const double total = std::accumulate(probs.begin(), probs.end(), 0.0);
    Doubles kept = probs;
    for (double& p : kept) p = p > 0 && mass_above(p, false) < static_cast<double>(row.top_p) * total ? p : 0;
    probs = kept;
  }
  return probs;
}

// Whether `id` is what the draw may give: the target u * total lies within the token's interval, give or take rounding.
bool drawn_rightly(const Doubles& probs, std::int32_t id, double u) {
  const double total = std::accumulate(probs.begin(), probs.end(), 0.0), slack = 1e-5;
  const double below = std::accumulate(probs.begin(), probs.begin() + id, 0.0) / total;
  const double width = probs[static_cast<std::size_t>(id)] / total;
  return width > 0 && u >= below - slack && u <= below + width + slack;
}

TEST_CASE("cpu sampling: random parameters, the token that the naive model draws") {
  const std::int64_t vocab = 199;
  Fixture f(vocab, 4);
  Rng rng(31);
  int checked = 0, moved = 0;
  for (int round = 0; round < 150; ++round) {
    std::vector<NaiveInput> inputs(4);
    std::vector<std::int32_t> bias_ids;
    std::vector<float> bias_values;
    std::vector<SampleRow> rows;
    for (int r = 0; r < 4; ++r) {
      NaiveInput& in = inputs[static_cast<std::size_t>(r)];
      for (std::int64_t v = 0; v < vocab; ++v) in.logits.push_back(rounded(rng.normal(rng.integer(0, 1) ? 2.5 : 0.5), DType::kF32));
      for (int i = rng.integer(1, 100); i > 0; --i) in.history.push_back(rng.integer(0, 40));
      f.set_logits(r, in.logits);
      f.set_history(r, in.history);
      SampleRow row = make_row(r, r);
      row.table_row = r;
      row.history_len = static_cast<std::int32_t>(in.history.size());
      row.prompt_len = rng.integer(1, row.history_len);
      row.temperature = static_cast<float>(0.3 + rng.uniform());
      if (rng.integer(0, 1)) row.top_k = rng.integer(1, 60);
      if (rng.integer(0, 1)) row.top_p = static_cast<float>(0.05 + 0.9 * rng.uniform());
      if (rng.integer(0, 2) == 0) row.min_p = static_cast<float>(0.2 * rng.uniform());
      if (rng.integer(0, 1)) row.repetition_penalty = static_cast<float>(0.7 + rng.uniform());
      if (rng.integer(0, 1)) row.frequency_penalty = static_cast<float>(rng.uniform() - 0.3);
      if (rng.integer(0, 1)) row.presence_penalty = static_cast<float>(rng.uniform() - 0.3);
      row.seed = static_cast<std::uint64_t>(rng.integer(0, 1 << 30));
      row.choice_idx = static_cast<std::uint32_t>(rng.integer(0, 5));
      row.position = static_cast<std::uint32_t>(rng.integer(0, 1000));
      row.bias_start = static_cast<std::int32_t>(bias_ids.size());
      for (int i = rng.integer(0, 3); i > 0; --i) {
        const double bias = rng.integer(0, 3) ? rng.normal(3) : -kInf;
        in.bias.emplace_back(static_cast<std::int32_t>(60 + 3 * i), static_cast<double>(static_cast<float>(bias)));
        bias_ids.push_back(in.bias.back().first);
        bias_values.push_back(static_cast<float>(bias));
      }
      row.bias_count = static_cast<std::int32_t>(in.bias.size());
      rows.push_back(row);
    }
    f.batch.bias_ids = make_ints(*f.backend, bias_ids);
    f.batch.bias_values = make_tensor(*f.backend, DType::kF32, {static_cast<std::int64_t>(bias_values.size())});
    std::copy(bias_values.begin(), bias_values.end(), f.batch.bias_values.as<float>());
    const std::vector<std::int32_t> got = f.sample(rows);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const Doubles probs = naive_probs(inputs[r], rows[r]);
      const double u = sampling_uniform(rows[r].seed, rows[r].choice_idx, rows[r].position);
      CAPTURE(round);
      CAPTURE(r);
      CHECK(drawn_rightly(probs, got[r], u));
      CHECK(f.batch.state_tokens.as<std::int32_t>()[r] == got[r]);
      ++checked;
      // Sabotage: without its penalties or truncation the model would draw another token now and then.
      SampleRow plain = rows[r];
      plain.top_k = 0;
      plain.top_p = 1;
      plain.min_p = 0;
      plain.repetition_penalty = 1;
      moved += !drawn_rightly(naive_probs(inputs[r], plain), got[r], u);
    }
  }
  CHECK(checked == 600);
  CHECK(moved > 100);
}

TEST_CASE("cpu sampling: greedy takes the lowest id among equals, after bias and penalties") {
  Fixture f(70, 1);
  Doubles logits(70, 0.0);
  logits[20] = logits[45] = 3;
  logits[60] = 2.5;
  f.set_logits(0, logits);
  f.set_history(1, {20, 45, 20});
  SampleRow row = make_row(0, 3);
  row.temperature = 0;
  CHECK(f.sample({row})[0] == 20);
  row.table_row = 1;
  row.history_len = 3;
  row.prompt_len = 1;  // output: 45, 20
  row.presence_penalty = 1;
  CHECK(f.sample({row})[0] == 60);
  row.presence_penalty = 0;
  row.frequency_penalty = 0.1f;
  CHECK(f.sample({row})[0] == 20);
  row.prompt_len = 2;  // output: 20
  CHECK(f.sample({row})[0] == 45);
  row.frequency_penalty = 0;
  row.repetition_penalty = 2;  // prompt counts: 20 and 45 fall to 1.5
  CHECK(f.sample({row})[0] == 60);
  f.batch.bias_ids = make_ints(*f.backend, {60, 7});
  f.batch.bias_values = make_tensor(*f.backend, DType::kF32, {2});
  f.batch.bias_values.as<float>()[0] = -std::numeric_limits<float>::infinity();
  f.batch.bias_values.as<float>()[1] = 1.75f;
  row.bias_count = 2;
  CHECK(f.sample({row})[0] == 7);
}

TEST_CASE("cpu sampling: frequencies follow the distribution") {
  const std::int64_t vocab = 24;
  const int draws = 20000;
  Fixture f(vocab, 1, draws);
  Rng rng(32);
  Doubles logits;
  for (std::int64_t v = 0; v < vocab; ++v) logits.push_back(rounded(rng.normal(1.5), DType::kF32));
  f.set_logits(0, logits);
  std::vector<SampleRow> rows;
  for (int i = 0; i < draws; ++i) {
    rows.push_back(make_row(0, i));
    rows.back().seed = seed();
    rows.back().temperature = 0.8f;
    rows.back().position = static_cast<std::uint32_t>(i % 100);
    rows.back().choice_idx = static_cast<std::uint32_t>(i / 100);
  }
  const std::vector<std::int32_t> got = f.sample(rows);
  const Doubles probs = naive_probs({logits, {}, {}}, rows[0]);
  const double total = std::accumulate(probs.begin(), probs.end(), 0.0);
  const auto chi_squared = [&](double shift) {
    double sum = 0;
    for (std::int64_t v = 0; v < vocab; ++v) {
      const double expected = probs[static_cast<std::size_t>(v)] / total * draws;
      const double seen = static_cast<double>(std::count(got.begin(), got.end(), v)) + (v == 0 ? shift : v == 1 ? -shift : 0);
      if (expected >= 5) sum += (seen - expected) * (seen - expected) / expected;
    }
    return sum;
  };
  // 23 degrees of freedom: over 65 in one of 10^5 runs. Moving a twentieth of all draws must show.
  CHECK(chi_squared(0) < 65);
  CHECK(chi_squared(draws / 20.0) > 65);
  // The same rows in another order and company give the same tokens.
  std::vector<SampleRow> reversed(rows.rbegin(), rows.rend());
  reversed.resize(333);
  const std::vector<std::int32_t> again = f.sample(reversed);
  for (std::size_t i = 0; i < again.size(); ++i) CHECK(again[i] == got[got.size() - 1 - i]);
}

TEST_CASE("cpu sampling: limits of one, all equal, flat and wide vocabularies") {
  const std::int64_t vocab = 1500;
  Fixture f(vocab, 3);
  Rng rng(33);
  Doubles flat(static_cast<std::size_t>(vocab), 1.0), peaked(static_cast<std::size_t>(vocab), -40.0), mixed;
  peaked[777] = 5;
  for (std::int64_t v = 0; v < vocab; ++v) mixed.push_back(rounded(rng.normal(1), DType::kF32));
  f.set_logits(0, flat);
  f.set_logits(1, peaked);
  f.set_logits(2, mixed);
  const std::size_t best = static_cast<std::size_t>(std::max_element(mixed.begin(), mixed.end()) - mixed.begin());
  for (int i = 0; i < 50; ++i) {
    SampleRow a = make_row(0, 0), b = make_row(1, 1), c = make_row(2, 2), d = make_row(2, 3), e = make_row(2, 4);
    for (SampleRow* row : {&a, &b, &c, &d, &e}) row->position = static_cast<std::uint32_t>(i);
    a.top_k = 1;  // ties are treated alike: all stay
    b.top_p = 0.5f;
    c.top_k = 1;
    d.top_p = 1e-6f;
    e.min_p = 1;
    const std::vector<std::int32_t> got = f.sample({a, b, c, d, e});
    CHECK(drawn_rightly(Doubles(flat.size(), 1.0), got[0], sampling_uniform(0, 0, a.position)));
    CHECK(got[1] == 777);
    CHECK(got[2] == static_cast<std::int32_t>(best));
    CHECK(got[3] == static_cast<std::int32_t>(best));
    CHECK(got[4] == static_cast<std::int32_t>(best));
  }
}

TEST_CASE("cpu sampling: padding rows are left alone, banned and NaN logits give some token") {
  Fixture f(40, 2);
  f.set_logits(0, Doubles(40, std::nan("")));
  f.set_logits(1, Doubles(40, -kInf));  // times the identity's zeros: NaN as well
  std::vector<SampleRow> rows = {make_row(0, 0), make_row(1, 1), make_row(1, -1)};
  for (float temperature : {0.0f, 1.0f}) {
    for (SampleRow& row : rows) {
      row.temperature = temperature;
      row.top_p = 0.9f;
      row.top_k = 5;
      row.num_top = 3;
    }
    const std::vector<std::int32_t> got = f.sample(rows);
    CHECK(got[0] >= 0);
    CHECK(got[0] < 40);
    CHECK(got[1] >= 0);
    CHECK(got[1] < 40);
    CHECK(got[2] == -7);
  }
}

TEST_CASE("cpu sampling: a NaN logit is never drawn, an infinite one always") {
  std::vector<float> logits(100, std::nanf("")), scratch(400);
  std::vector<std::int32_t> marks(100);
  logits[12] = 1;
  logits[70] = 0.5f;
  SampleInput in;
  in.logits = logits.data();
  in.vocab = 100;
  for (float temperature : {0.0f, 1.0f}) {
    for (float top_p : {1.0f, 0.6f}) {
      in.row.temperature = temperature;
      in.row.top_p = top_p;
      for (in.row.position = 0; in.row.position < 20; ++in.row.position) {
        const std::int32_t id = sample_token(in, scratch.data(), marks.data());
        CHECK((id == 12 || (id == 70 && temperature > 0 && top_p == 1)));
      }
    }
  }
  logits[90] = std::numeric_limits<float>::infinity();
  CHECK(sample_token(in, scratch.data(), marks.data()) == 90);
}

TEST_CASE("cpu sampling: the vector loops equal plain ones for every SIMD target and length") {
  for_each_variant([](Backend&) {
    Rng rng(35);
    for (std::int64_t n : {1, 2, 3, 15, 16, 17, 64, 1000, 1023}) {
      CAPTURE(n);
      std::vector<float> x, e(static_cast<std::size_t>(n)), found(e.size());
      std::vector<std::int32_t> ids(e.size());
      for (std::int64_t i = 0; i < n; ++i) x.push_back(static_cast<float>(std::round(rng.normal(2) * 8) / 8));
      const MaxAt max = find_max(x.data(), n);
      const auto want_max = std::max_element(x.begin(), x.end());  // the first of equals
      CHECK(max.value == *want_max);
      CHECK(max.idx == want_max - x.begin());
      CHECK(std::fabs(sum(x.data(), n) - std::accumulate(x.begin(), x.end(), 0.0)) < 1e-9);
      exp_scaled(x.data(), n, 1.5f, 0.7f, e.data());
      Doubles got, want;
      for (std::size_t i = 0; i < e.size(); ++i) {
        got.push_back(static_cast<double>(e[i]));
        want.push_back(std::exp((static_cast<double>(x[i]) - 1.5) * static_cast<double>(0.7f)));
      }
      check_close(got, want, {0, 2e-6}, "exp_scaled");
      const std::int64_t count = collect_at_least(x.data(), n, 0.5f, ids.data(), found.data());
      std::vector<std::int32_t> want_ids;
      for (std::int64_t i = 0; i < n; ++i) {
        if (x[static_cast<std::size_t>(i)] >= 0.5f) want_ids.push_back(static_cast<std::int32_t>(i));
      }
      CHECK(std::vector<std::int32_t>(ids.begin(), ids.begin() + count) == want_ids);
    }
  });
}

Doubles log_softmax(const Doubles& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (double l : logits) total += std::exp(l - largest);
  Doubles out = logits;
  for (double& l : out) l -= largest + std::log(total);
  return out;
}

// The most likely ids, lower first among equals.
std::vector<std::int32_t> top_of(const Doubles& logits) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  return ids;
}

void check_top(const LogprobOutput& out, std::int64_t row, const Doubles& logits, std::int32_t num_top) {
  const Doubles want = log_softmax(logits);
  const std::vector<std::int32_t> ids = top_of(logits);
  for (std::int32_t i = 0; i < num_top; ++i) {
    const std::int32_t id = out.top_ids.as<std::int32_t>()[row * kSampleTop + i];
    CHECK(id == ids[static_cast<std::size_t>(i)]);
    CHECK(std::fabs(static_cast<double>(out.top_logprobs.as<float>()[row * kSampleTop + i]) - want[static_cast<std::size_t>(id)]) < 1e-5);
  }
}

TEST_CASE("cpu logprobs: of drawn tokens and of given ones, of the raw distribution, with the likeliest") {
  const std::int64_t vocab = 300, rows = 150;  // more than one chunk of logits
  Fixture f(vocab, rows);
  Rng rng(34);
  std::vector<Doubles> logits(static_cast<std::size_t>(rows));
  std::vector<std::int32_t> targets;
  std::vector<SampleRow> sample_rows;
  for (std::int64_t r = 0; r < rows; ++r) {
    // Quarters, so that there are equals.
    for (std::int64_t v = 0; v < vocab; ++v) logits[static_cast<std::size_t>(r)].push_back(std::round(rng.normal(3) * 4) / 4);
    f.set_logits(r, logits[static_cast<std::size_t>(r)]);
    targets.push_back(rng.integer(0, static_cast<int>(vocab) - 1));
    sample_rows.push_back(make_row(static_cast<std::int32_t>(r), static_cast<std::int32_t>(r)));
    sample_rows.back().num_top = static_cast<std::int32_t>(r % 21);
    sample_rows.back().temperature = 0.5f;
    sample_rows.back().top_k = 10;
  }
  const std::vector<std::int32_t> got = f.sample(sample_rows);
  for (std::int64_t r = 0; r < rows; ++r) {
    const Doubles want = log_softmax(logits[static_cast<std::size_t>(r)]);
    const double logprob = f.out.logprobs.as<float>()[r];
    CHECK(std::fabs(logprob - want[static_cast<std::size_t>(got[static_cast<std::size_t>(r)])]) < 1e-5);
    check_top(f.out, r, logits[static_cast<std::size_t>(r)], static_cast<std::int32_t>(r % 21));
  }
  f.backend->token_logprobs(Stream::kCompute, f.x, f.head, make_ints(*f.backend, targets), 20, f.out);
  for (std::int64_t r = 0; r < rows; ++r) {
    const Doubles want = log_softmax(logits[static_cast<std::size_t>(r)]);
    const double logprob = f.out.logprobs.as<float>()[r];
    CHECK(std::fabs(logprob - want[static_cast<std::size_t>(targets[static_cast<std::size_t>(r)])]) < 1e-5);
    check_top(f.out, r, logits[static_cast<std::size_t>(r)], 20);
  }
}

}  // namespace
}  // namespace fastgen::test
