#include "model/rope.h"

#include <cmath>

#include "support/support.h"

namespace fastgen {
namespace {

TEST_CASE("plain frequencies are powers of theta") {
  const RopeConfig rope{.theta = 10000};
  const std::vector<double> frequencies = rope_frequencies(rope, 8);
  REQUIRE(frequencies.size() == 4);
  const double expected[] = {1, 0.1, 0.01, 0.001};
  for (std::size_t i = 0; i < 4; ++i) CHECK(frequencies[i] == doctest::Approx(expected[i]).epsilon(1e-12));
}

// Llama 3.1's own numbers: head_dim 128, theta 500,000, factor 8, original context 8,192. Frequency i has wavelength
// 2 pi * 500000^(i / 64); those up to 2,048 (i <= 28) stay, those over 8,192 (i >= 35) are divided by 8.
TEST_CASE("llama3 scaling keeps short waves, stretches long ones, blends between") {
  const RopeConfig rope{.scaling = RopeScaling::kLlama3, .theta = 500000, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4,
                        .original_max_positions = 8192};
  const std::vector<double> frequencies = rope_frequencies(rope, 128);
  REQUIRE(frequencies.size() == 64);
  for (int i = 0; i < 64; ++i) {
    const double plain = std::exp(-std::log(500000.0) * i / 64);
    const double got = frequencies[static_cast<std::size_t>(i)];
    INFO("i = " << i);
    if (i <= 28) CHECK(got == doctest::Approx(plain).epsilon(1e-12));
    if (i >= 35) CHECK(got == doctest::Approx(plain / 8).epsilon(1e-12));
    if (i <= 28 || i >= 35) continue;
    // As a share of the plain one: 1/8 at 1 turn over the original context, 1 at 4 turns, a line between.
    const double turns = 8192 * plain / 6.283185307179586;
    CHECK(got / plain == doctest::Approx(0.125 + 0.875 * (turns - 1) / 3).epsilon(1e-12));
  }
  // Computed by hand for i = 32: 500000^-0.5 = 0.00141421, turns 1.84385, share 0.371123.
  CHECK(frequencies[32] == doctest::Approx(0.000524847).epsilon(1e-5));
}

TEST_CASE("rows hold cosines then sines, right even far out") {
  const RopeConfig rope{.theta = 10000};
  const std::vector<double> frequencies = rope_frequencies(rope, 4);
  std::vector<float> rows(3 * 4);
  fill_rope_rows(frequencies, 0, 1, rows.data());
  fill_rope_rows(frequencies, 131071, 2, rows.data() + 4);
  const float expected[] = {1, 1, 0, 0};
  for (std::size_t i = 0; i < 4; ++i) CHECK(rows[i] == expected[i]);
  for (int r = 0; r < 2; ++r) {
    const long double position = 131071 + r;
    const std::size_t at = 4 + 4 * static_cast<std::size_t>(r);
    CHECK(rows[at] == doctest::Approx(static_cast<double>(std::cos(position))).epsilon(1e-6));
    CHECK(rows[at + 1] == doctest::Approx(static_cast<double>(std::cos(position / 100))).epsilon(1e-6));
    CHECK(rows[at + 2] == doctest::Approx(static_cast<double>(std::sin(position))).epsilon(1e-6));
    CHECK(rows[at + 3] == doctest::Approx(static_cast<double>(std::sin(position / 100))).epsilon(1e-6));
  }
}

}  // namespace
}  // namespace fastgen
