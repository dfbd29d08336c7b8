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

}  // namespace

std::vector<double> rope_frequencies(const RopeConfig& rope, std::int32_t head_dim) {
  FG_CHECK(head_dim > 0 && head_dim % 2 == 0, head_dim);
  std::vector<double> frequencies(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / head_dim);
    frequencies[i] = rope.scaling == RopeScaling::kLlama3 ? scale_llama3(rope, frequency) : frequency;
  }
  return frequencies;
}

void fill_rope_rows(const std::vector<double>& frequencies, std::int64_t first, std::int64_t count, float* out) {
  const std::size_t half = frequencies.size();
  for (std::int64_t position = first; position < first + count; ++position, out += 2 * half) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      out[i] = static_cast<float>(std::cos(angle));
      out[half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

Tensor make_rope_table(Backend& backend, const RopeConfig& rope, std::int32_t head_dim, std::int64_t max_positions) {
  const std::vector<double> frequencies = rope_frequencies(rope, head_dim);
  const std::int64_t rows_per_piece = std::min<std::int64_t>(max_positions, std::max<std::int64_t>(1, (1 << 18) / head_dim));
  Uploader uploader(backend, rows_per_piece * head_dim);
  const Tensor table = device_tensor(backend, DType::kF32, {max_positions, head_dim});
  for (std::int64_t first = 0; first < max_positions; first += rows_per_piece) {
    const Tensor rows = table.slice(first, std::min(rows_per_piece, max_positions - first));
    fill_rope_rows(frequencies, first, rows.rows(), uploader.staging());
    uploader.upload(rows);
  }
  return table;
}

}  // namespace fastgen
