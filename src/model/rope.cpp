#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/uploader.h"

namespace fastgen {

namespace {

// Llama 3.1's scaling: wavelengths short against the original context stay, long ones are stretched by `factor`, those between are
// blended. Between the two, `smooth` runs from 0 at the long end to 1 at the short end.
double scale_llama3(const RopeConfig& rope, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double turns = rope.original_max_positions / wavelength;  // over the original context
  if (turns > rope.high_freq_factor) return frequency;
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  const double smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

// Yarn's: frequencies that turn more than beta_fast times over the original context stay, those below beta_slow turns are divided
// by `factor`, with a ramp over the index between. As in transformers the ends of the ramp are whole indices unless told otherwise.
class YarnRamp {
 public:
  YarnRamp() = default;  // interpolates nothing
  YarnRamp(const RopeConfig& rope, std::int32_t head_dim) {
    const auto index_of = [&](double turns) {
      return head_dim * std::log(rope.original_max_positions / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
    };
    const double low = index_of(rope.beta_fast), high = index_of(rope.beta_slow);
    low_ = std::max(rope.truncate ? std::floor(low) : low, 0.0);
    high_ = std::min(rope.truncate ? std::ceil(high) : high, head_dim - 1.0);
    if (low_ == high_) high_ += 0.001;
  }
  // How much of frequency i is interpolated, 0 to 1.
  double at(double i) const { return std::clamp((i - low_) / (high_ - low_), 0.0, 1.0); }

 private:
  double low_ = 1e9, high_ = 2e9;
};

double dynamic_theta(const RopeConfig& rope, std::int32_t head_dim, std::int64_t num_positions) {
  const double length = std::max(static_cast<double>(num_positions), rope.original_max_positions);
  const double stretch = rope.factor * length / rope.original_max_positions - (rope.factor - 1);
  return rope.theta * std::pow(stretch, head_dim / (head_dim - 2.0));
}

}  // namespace

std::vector<double> rope_frequencies(const RopeConfig& rope, std::int32_t head_dim, std::int64_t num_positions) {
  FG_CHECK(head_dim > 0 && head_dim % 2 == 0, head_dim);
  const bool dynamic = rope.scaling == RopeScaling::kDynamic && head_dim > 2;
  const double theta = dynamic ? dynamic_theta(rope, head_dim, num_positions) : rope.theta;
  const YarnRamp ramp = rope.scaling == RopeScaling::kYarn ? YarnRamp(rope, head_dim) : YarnRamp();
  std::vector<double> frequencies(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double plain = std::pow(theta, -2.0 * static_cast<double>(i) / head_dim);
    const double share = ramp.at(static_cast<double>(i));
    switch (rope.scaling) {
      case RopeScaling::kNone:
      case RopeScaling::kDynamic: frequencies[i] = plain; break;
      case RopeScaling::kLinear: frequencies[i] = plain / rope.factor; break;
      case RopeScaling::kLlama3: frequencies[i] = scale_llama3(rope, plain); break;
      case RopeScaling::kYarn: frequencies[i] = share * plain / rope.factor + (1 - share) * plain; break;
    }
  }
  return frequencies;
}

void fill_rope_rows(const std::vector<double>& frequencies, double factor, std::int64_t first, std::int64_t count, float* out) {
  const std::size_t half = frequencies.size();
  for (std::int64_t position = first; position < first + count; ++position, out += 2 * half) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      out[i] = static_cast<float>(factor * std::cos(angle));
      out[half + i] = static_cast<float>(factor * std::sin(angle));
    }
  }
}

Tensor make_rope_table(Backend& backend, const RopeConfig& rope, std::int32_t head_dim, std::int64_t max_positions) {
  const std::vector<double> frequencies = rope_frequencies(rope, head_dim, max_positions);
  const std::int64_t rows_per_piece = std::min<std::int64_t>(max_positions, std::max<std::int64_t>(1, (1 << 18) / head_dim));
  Uploader uploader(backend, rows_per_piece * head_dim);
  const Tensor table = device_tensor(backend, DType::kF32, {max_positions, head_dim});
  for (std::int64_t first = 0; first < max_positions; first += rows_per_piece) {
    const Tensor rows = table.slice(first, std::min(rows_per_piece, max_positions - first));
    fill_rope_rows(frequencies, rope.attention_factor, first, rows.rows(), uploader.staging());
    uploader.upload(rows);
  }
  return table;
}

}  // namespace fastgen
