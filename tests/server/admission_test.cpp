#include "server/admission.h"

#include "support/support.h"

namespace fastgen::server {

namespace {

constexpr std::uint64_t kSecond = 1'000'000, kStart = 1'000 * kSecond;

// `count` ends spread evenly over the seconds before `now`.
void end_evenly(Admission& admission, int count, double seconds, std::uint64_t now) {
  for (int i = count; i > 0; --i)
    admission.drain_rate().on_end(now - static_cast<std::uint64_t>(seconds * 1e6 * i / count));
}

}  // namespace

TEST_CASE("the rate is that of the last seconds, and forgotten after a rest") {
  Admission admission(0);
  CHECK(admission.drain_rate().per_second(kStart) == 0);
  end_evenly(admission, 400, 8, kStart);
  CHECK(admission.drain_rate().per_second(kStart) == doctest::Approx(50).epsilon(0.15));
  CHECK(admission.drain_rate().per_second(kStart + 5 * kSecond) < 40);
  CHECK(admission.drain_rate().per_second(kStart + 60 * kSecond) == 0);
  end_evenly(admission, 100, 1, kStart + 100 * kSecond);
  CHECK(admission.drain_rate().per_second(kStart + 100 * kSecond) < 110);
}

TEST_CASE("a request is refused when those before it take longer than it may wait") {
  Admission admission(0), bounded(2);
  CHECK_FALSE(admission.refusal(1000, 0.1, kStart).has_value());  // nothing is known yet
  end_evenly(admission, 80, 8, kStart);                           // ten a second
  CHECK(admission.expected_wait_s(50, kStart) == doctest::Approx(5).epsilon(0.2));
  CHECK_FALSE(admission.refusal(50, std::nullopt, kStart).has_value());
  CHECK_FALSE(admission.refusal(0, 0.001, kStart).has_value());
  const auto refused = admission.refusal(50, 1.0, kStart);
  REQUIRE(refused.has_value());
  CHECK(refused->status == 429);
  CHECK(refused->retry_after_s > 3);
  CHECK(refused->retry_after_s < 6);
  end_evenly(bounded, 80, 8, kStart);
  CHECK(bounded.refusal(50, std::nullopt, kStart).has_value());
  CHECK_FALSE(bounded.refusal(10, std::nullopt, kStart).has_value());
}

TEST_CASE("clients that are refused together are told to come back one after the other, within a minute") {
  Admission admission(0);
  CHECK(admission.full(kStart).retry_after_s == 1);
  end_evenly(admission, 80, 8, kStart);
  double last = 0;
  for (int i = 0; i < 20; ++i) {
    const double wait = admission.full(kStart).retry_after_s;
    CHECK(wait > last);
    CHECK(wait < 0.1 * (i + 1) * 1.3 + 0.05);
    last = wait;
  }
  for (int i = 0; i < 2000; ++i) last = admission.full(kStart).retry_after_s;
  CHECK(last == doctest::Approx(60));
}

}  // namespace fastgen::server
