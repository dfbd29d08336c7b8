#include "model/rope.h"

#include <algorithm>
#include <cmath>

#include "support/support.h"

namespace fastgen {
namespace {

TEST_CASE("plain frequencies are powers of theta") {
  const RopeConfig rope{.theta = 10000};
  const std::vector<double> frequencies = rope_frequencies(rope, 8, 100);
  REQUIRE(frequencies.size() == 4);
  const double expected[] = {1, 0.1, 0.01, 0.001};
  for (std::size_t i = 0; i < 4; ++i) CHECK(frequencies[i] == doctest::Approx(expected[i]).epsilon(1e-12));
}

// Llama 3.1's own numbers: head_dim 128, theta 500,000, factor 8, original context 8,192. Frequency i has wavelength
// 2 pi * 500000^(i / 64); those up to 2,048 (i <= 28) stay, those over 8,192 (i >= 35) are divided by 8.
TEST_CASE("llama3 scaling keeps short waves, stretches long ones, blends between") {
  const RopeConfig rope{.scaling = RopeScaling::kLlama3, .theta = 500000, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4,
                        .original_max_positions = 8192};
  const std::vector<double> frequencies = rope_frequencies(rope, 128, 100);
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

TEST_CASE("linear scaling divides every frequency") {
  const RopeConfig rope{.scaling = RopeScaling::kLinear, .theta = 10000, .factor = 4};
  const std::vector<double> frequencies = rope_frequencies(rope, 8, 100);
  const double expected[] = {0.25, 0.025, 0.0025, 0.00025};
  for (std::size_t i = 0; i < 4; ++i) CHECK(frequencies[i] == doctest::Approx(expected[i]).epsilon(1e-12));
}

// theta * (2 * 2 - 1)^(8 / 6) for a context twice the trained one with factor 2: the last frequency, theta^(-6/8), falls by
// 3^(8/6 * 6/8) = 3 and so turns over the longer context about as far as it did over the trained one.
TEST_CASE("dynamic scaling changes nothing up to the trained context, beyond it theta grows") {
  const RopeConfig rope{.scaling = RopeScaling::kDynamic, .theta = 10000, .factor = 2, .original_max_positions = 64};
  const std::vector<double> plain = rope_frequencies({.theta = 10000}, 8, 64);
  CHECK(rope_frequencies(rope, 8, 64) == plain);
  CHECK(rope_frequencies(rope, 8, 10) == plain);
  const std::vector<double> longer = rope_frequencies(rope, 8, 128);
  CHECK(longer[0] == 1);
  CHECK(longer[3] == doctest::Approx(plain[3] / 3).epsilon(1e-12));
}

// Qwen2.5's numbers: theta 1e6, head_dim 128, trained at 32,768, factor 4. Turns over the trained context fall below 32 behind
// i = 23.6 and below 1 behind i = 39.7, so that the ramp runs from 23 to 40.
TEST_CASE("yarn keeps fast frequencies, divides slow ones, with a ramp between") {
  const RopeConfig rope{.scaling = RopeScaling::kYarn, .theta = 1e6, .factor = 4, .original_max_positions = 32768};
  const std::vector<double> frequencies = rope_frequencies(rope, 128, 100);
  for (std::size_t i = 0; i < 64; ++i) {
    INFO("i = " << i);
    const double ratio = frequencies[i] / std::pow(1e6, -static_cast<double>(i) / 64);
    const double ramp = std::clamp((static_cast<double>(i) - 23) / 17, 0.0, 1.0);
    CHECK(ratio == doctest::Approx(1 - ramp * 0.75).epsilon(1e-12));
  }
}

TEST_CASE("rows carry the attention factor") {
  std::vector<float> rows(4);
  fill_rope_rows({0.5, 0.25}, 1.5, 2, 1, rows.data());
  CHECK(rows[0] == doctest::Approx(1.5 * std::cos(1.0)).epsilon(1e-6));
  CHECK(rows[3] == doctest::Approx(1.5 * std::sin(0.5)).epsilon(1e-6));
}

TEST_CASE("rows hold cosines then sines, right even far out") {
  const RopeConfig rope{.theta = 10000};
  const std::vector<double> frequencies = rope_frequencies(rope, 4, 100);
  std::vector<float> rows(3 * 4);
  fill_rope_rows(frequencies, 1, 0, 1, rows.data());
  fill_rope_rows(frequencies, 1, 131071, 2, rows.data() + 4);
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
