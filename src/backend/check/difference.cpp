#include "backend/check/difference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "backend/bf16.h"

namespace fastgen {
namespace {

double element(const Tensor& tensor, std::int64_t i) {
  switch (tensor.dtype) {
    case DType::kF32: return static_cast<double>(tensor.as<float>()[i]);
    case DType::kBF16: return static_cast<double>(bf16_to_f32(tensor.as<std::uint16_t>()[i]));
    case DType::kF16: return static_cast<double>(f16_to_f32(tensor.as<std::uint16_t>()[i]));
    case DType::kI32: return tensor.as<std::int32_t>()[i];
    case DType::kU8: return tensor.as<std::uint8_t>()[i];
  }
  return 0;
}

// Of the numbers that are there: a block of the arena may be empty but for one token.
double root_mean_square(const Tensor& tensor) {
  double squares = 0;
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < tensor.elements(); ++i) {
    const double x = element(tensor, i);
    if (x == 0 || !std::isfinite(x)) continue;
    squares += x * x;
    ++count;
  }
  return std::sqrt(squares / static_cast<double>(std::max<std::int64_t>(count, 1)));
}

double distance(double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0;
  return std::isfinite(a) && std::isfinite(b) ? std::abs(a - b) : std::numeric_limits<double>::infinity();
}

}  // namespace

// In float32 the order of a long sum moves the last few bits; in bfloat16 a product may be rounded once more before its epilogue.
double tolerance_of(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 1e-3;
    case DType::kBF16:
    case DType::kF16: return 0x1p-5;
    default: return 0;
  }
}

std::string Difference::text() const {
  return fmt::format("{} element{}, the worst at {}: {:.6g} against {:.6g}, allowed {:.3g}", num_beyond, num_beyond == 1 ? "" : "s",
                     worst_element, reference, tested, tolerance);
}

Difference difference_of(const Tensor& reference, const Tensor& tested) {
  FG_CHECK(reference.dtype == tested.dtype && reference.elements() == tested.elements(), dtype_name(tested.dtype), tested.elements());
  const double relative = tolerance_of(reference.dtype);
  const double rms = relative > 0 ? root_mean_square(reference) : 0;
  Difference found;
  double worst = 0;
  for (std::int64_t i = 0; i < reference.elements(); ++i) {
    const double a = element(reference, i), b = element(tested, i), apart = distance(a, b);
    const double allowed = std::isfinite(a) ? relative * (std::abs(a) + rms) : 0;
    if (apart <= allowed) continue;
    ++found.num_beyond;
    if (apart <= worst) continue;
    worst = apart;
    found = {found.num_beyond, i, a, b, allowed};
  }
  return found;
}

}  // namespace fastgen
