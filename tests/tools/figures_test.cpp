#include "bench/figures.h"

#include <string>
#include <vector>

#include "support/support.h"

namespace fastgen::bench {

TEST_CASE("percentiles are samples, by nearest rank") {
  CHECK(percentile({}, 0.5) == 0);
  CHECK(percentile({7}, 0.01) == 7);
  CHECK(percentile({7}, 1) == 7);
  CHECK(percentile({4, 1, 3, 2}, 0.5) == 2);
  CHECK(percentile({4, 1, 3, 2}, 0.51) == 3);
  CHECK(percentile({4, 1, 3, 2}, 1) == 4);
  std::vector<double> hundred;
  for (int i = 100; i > 0; --i) hundred.push_back(i);
  CHECK(percentile(hundred, 0.99) == 99);
}

TEST_CASE("figures of two requests, by hand") {
  // Milliseconds:   submit  tokens
  const std::vector<RequestTimes> requests = {{.submit_us = 1'000, .token_us = {11'000, 21'000, 41'000, 51'000}},
                                              {.submit_us = 2'000, .token_us = {21'000, 41'000}}};
  const Figures f = figures_of(requests, 100);
  CHECK(f.prompt_tokens == 200);
  CHECK(f.output_tokens == 6);
  CHECK(f.wall_s == doctest::Approx(0.050));
  CHECK(f.output_tokens_per_s == doctest::Approx(120));
  CHECK(f.total_tokens_per_s == doctest::Approx(206 / 0.050));
  CHECK(f.prefill_tokens_per_s == doctest::Approx(200 / 0.020));  // until 21 ms
  CHECK(f.decode_tokens_per_s == doctest::Approx(3 / 0.030));     // 41, 41 and 51 ms, since 21 ms
  CHECK(f.ttft_ms.p50 == doctest::Approx(10));
  CHECK(f.ttft_ms.max == doctest::Approx(19));
  CHECK(f.tpot_ms.p50 == doctest::Approx(40.0 / 3));
  CHECK(f.tpot_ms.max == doctest::Approx(20));
  CHECK(f.step_ms.p50 == doctest::Approx(10));
  CHECK(f.step_ms.max == doctest::Approx(20));
  CHECK(f.num_token_steps == 4);
}

TEST_CASE("one token each: nothing is divided by nothing") {
  const std::vector<RequestTimes> requests = {{.submit_us = 0, .token_us = {5'000}}};
  const Figures f = figures_of(requests, 1024);
  CHECK(f.prefill_tokens_per_s == doctest::Approx(1024 / 0.005));
  CHECK(f.decode_tokens_per_s == 0);
  CHECK(f.tpot_ms.max == 0);
  CHECK(f.step_ms.max == 0);
  CHECK(figures_of({}, 8).wall_s == 0);
}

}  // namespace fastgen::bench
