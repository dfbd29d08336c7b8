#include "bench/load_figures.h"

#include <vector>

#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen::bench {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
const std::vector<double> kPercents = {50, 99};

LoadRecord record(std::uint64_t send_ms, std::uint64_t first_ms, std::vector<float> itl_ms, std::int64_t output_tokens) {
  LoadRecord r;
  r.ok = true;
  r.send_ns = send_ms * kMs;
  r.first_ns = first_ms * kMs;
  r.last_ns = r.first_ns;
  for (float itl : itl_ms) r.last_ns += std::uint64_t(itl * float(kMs));
  r.itl_ms = std::move(itl_ms);
  r.input_tokens = 10;
  r.output_tokens = output_tokens;
  return r;
}

TEST_CASE("distributions as numpy computes them") {
  // np.mean, median, std and percentile([1, 2, 4, 8], [25, 99]) = 3.75, 3, 2.6809513, [1.75, 7.88]
  const Distribution d = distribution_of({8, 1, 4, 2}, std::vector<double>{25, 99});
  CHECK(d.mean == doctest::Approx(3.75));
  CHECK(d.median == doctest::Approx(3));
  CHECK(d.std == doctest::Approx(2.6809513));
  CHECK(d.percentiles.at(25) == doctest::Approx(1.75));
  CHECK(d.percentiles.at(99) == doctest::Approx(7.88));
  CHECK(distribution_of({5}, kPercents).percentiles.at(99) == 5);
  CHECK(distribution_of({}, kPercents).mean == 0);
}

TEST_CASE("figures by vllm's definitions, by hand") {
  LoadRecord failed;
  failed.error = "no";
  // Sent, first token, gaps, tokens: TTFT 100, E2EL 160, TPOT 20; TTFT 50, E2EL 50, no TPOT; TTFT 20, E2EL 1520, TPOT 500 of 4 tokens in 3 chunks.
  const std::vector<LoadRecord> records = {record(0, 100, {20, 20, 20}, 4), record(200, 250, {}, 1), failed, record(500, 520, {500, 1000}, 4)};
  Goodput goodput;
  add_goodput(goodput, "ttft:60");
  add_goodput(goodput, "e2el:1000");
  const LoadFigures f = load_figures_of(records, 2, goodput, kPercents);
  CHECK(f.completed == 3);
  CHECK(f.failed == 1);
  CHECK(f.total_input_tokens == 30);
  CHECK(f.total_output_tokens == 9);
  CHECK(f.request_throughput == doctest::Approx(1.5));
  CHECK(f.request_goodput == doctest::Approx(0.5));
  CHECK(f.output_throughput == doctest::Approx(4.5));
  CHECK(f.total_token_throughput == doctest::Approx(19.5));
  CHECK(f.ttft_ms.mean == doctest::Approx((100 + 50 + 20) / 3.0));
  CHECK(f.ttft_ms.median == doctest::Approx(50));
  CHECK(f.e2el_ms.median == doctest::Approx(160));
  CHECK(f.tpot_ms.mean == doctest::Approx((20 + 500) / 2.0));
  CHECK(f.itl_ms.mean == doctest::Approx((3 * 20 + 500 + 1000) / 5.0));
  CHECK(f.max_output_tokens_per_s == 6);  // chunks of the first second: 4, 1 and 1
  CHECK(f.max_concurrent_requests == 3);  // that touch the first second
}

TEST_CASE("the record has vllm's names") {
  const std::vector<LoadRecord> records = {record(0, 100, {20, 20}, 3)};
  std::string text;
  JsonWriter json(text);
  json.begin_object();
  write_load_figures(json, load_figures_of(records, 1, {}, kPercents), true);
  json.end_object();
  for (const char* name : {"duration", "completed", "total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput",
                           "output_throughput", "total_token_throughput", "mean_ttft_ms", "median_ttft_ms", "std_ttft_ms", "p99_ttft_ms",
                           "p50_tpot_ms", "mean_tpot_ms", "p99_itl_ms", "p99_e2el_ms"})
    CHECK(text.find("\"" + std::string(name) + "\":") != std::string::npos);
}

TEST_CASE("limits that make no sense are refused") {
  Goodput goodput;
  for (const char* bad : {"", "ttft", "ttft:", "ttft:0", "ttft:-1", "ttft:5x", "itl:5"}) CHECK_THROWS_AS(add_goodput(goodput, bad), Error);
}

}  // namespace
}  // namespace fastgen::bench
