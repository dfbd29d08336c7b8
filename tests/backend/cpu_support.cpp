#include "backend/cpu_support.h"

#include <hwy/highway.h>

#include <cmath>

namespace fastgen::test {

std::vector<Variant> variants() {
  ProductTuning plain;
  plain.native_bf16 = plain.onednn = false;
  ProductTuning native = plain;
  native.native_bf16 = true;
  ProductTuning onednn = plain;
  onednn.onednn = true;
  onednn.onednn_min_rows = 1;
  return {{"best", 0, {}},         {"native bf16", 0, native},  {"onednn from one row", 0, onednn},
          {"highway", 0, plain},   {"AVX2", HWY_AVX2, plain},
          {"SSE4", HWY_SSE4, plain}, {"baseline", HWY_STATIC_TARGET, plain}};
}

void for_each_variant(const std::function<void(Backend&)>& body, int num_threads) {
  const std::int64_t supported = hwy::SupportedTargets();
  for (const Variant& variant : variants()) {
    if (variant.hwy_targets != 0 && (supported & variant.hwy_targets) == 0) continue;
    CAPTURE(variant.name);
    hwy::SetSupportedTargetsForTest(variant.hwy_targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    BackendOptions options;
    options.num_threads = num_threads;
    auto backend = make_cpu_backend(options, variant.tuning);
    body(*backend);
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

Tensor make_tensor(Backend& backend, DType dtype, std::initializer_list<std::int64_t> shape) {
  Tensor tensor(nullptr, dtype, shape);
  tensor.data = backend.allocate(MemoryKind::kDevice, std::max<std::size_t>(tensor.bytes(), 1));
  return tensor;
}

Tensor make_ints(Backend& backend, const std::vector<std::int32_t>& values) {
  Tensor tensor = make_tensor(backend, DType::kI32, {static_cast<std::int64_t>(values.size())});
  if (!values.empty()) std::memcpy(tensor.data, values.data(), values.size() * 4);
  return tensor;
}

Tensor make_random(Backend& backend, Rng& rng, DType dtype, std::initializer_list<std::int64_t> shape, double sigma) {
  Tensor tensor = make_tensor(backend, dtype, shape);
  Doubles numbers(static_cast<std::size_t>(tensor.elements()));
  for (double& number : numbers) number = rng.normal(sigma);
  set_values(tensor, numbers);
  return tensor;
}

Doubles values(const Tensor& tensor) {
  Doubles out(static_cast<std::size_t>(tensor.elements()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    switch (tensor.dtype) {
      case DType::kF32: out[i] = static_cast<const float*>(tensor.data)[i]; break;
      case DType::kBF16: out[i] = bf16_to_f32(static_cast<const std::uint16_t*>(tensor.data)[i]); break;
      case DType::kF16: out[i] = f16_to_f32(static_cast<const std::uint16_t*>(tensor.data)[i]); break;
      default: FAIL("not a float tensor");
    }
  }
  return out;
}

// Half precision, rounded to nearest; of magnitudes below 65,504.
std::uint16_t f16_of(double value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  int exponent = 0;
  const double fraction = std::frexp(std::abs(value), &exponent);  // 0.5 .. 1, or 0
  if (exponent < -13) return static_cast<std::uint16_t>(sign + std::lround(std::ldexp(std::abs(value), 24)));  // subnormal
  return static_cast<std::uint16_t>(sign + ((exponent + 14) << 10) + std::lround(fraction * 2048) - 1024);
}

void set_values(const Tensor& tensor, const Doubles& values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    switch (tensor.dtype) {
      case DType::kF32: static_cast<float*>(tensor.data)[i] = static_cast<float>(values[i]); break;
      case DType::kBF16: static_cast<std::uint16_t*>(tensor.data)[i] = f32_to_bf16(static_cast<float>(values[i])); break;
      case DType::kF16: static_cast<std::uint16_t*>(tensor.data)[i] = f16_of(values[i]); break;
      default: FAIL("not a float tensor");
    }
  }
}

double rounded(double value, DType dtype) {
  if (dtype == DType::kF32) return static_cast<double>(static_cast<float>(value));
  return static_cast<double>(bf16_to_f32(f32_to_bf16(static_cast<float>(value))));
}

Tolerance tolerance(DType dtype, double scale) {
  // float32: sums of some hundred terms in another order; bf16: half a step of rounding (2^-9) and a little.
  if (dtype == DType::kF32) return {2e-5 * scale, 2e-5};
  return {1e-3 * scale, 0x1p-8};
}

std::int64_t first_difference(const Doubles& got, const Doubles& want, Tolerance tolerance) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double allowed = tolerance.absolute + tolerance.relative * std::fabs(want[i]);
    if (!(std::fabs(got[i] - want[i]) <= allowed)) return static_cast<std::int64_t>(i);
  }
  return -1;
}

void check_close(const Doubles& got, const Doubles& want, Tolerance tolerance, const std::string& what) {
  const std::int64_t at = first_difference(got, want, tolerance);
  CHECK_MESSAGE(at < 0, what, " differs at ", at, ": got ", at < 0 ? 0 : got[static_cast<std::size_t>(at)], ", want ",
                at < 0 ? 0 : want[static_cast<std::size_t>(at)]);
  if (want.empty()) return;
  Doubles moved = got;
  const std::size_t victim = want.size() / 2;
  moved[victim] = want[victim] + 5 * (tolerance.absolute + tolerance.relative * std::fabs(want[victim]));
  CHECK_MESSAGE(first_difference(moved, want, tolerance) >= 0, what, ": the comparison misses a wrong element");
}

void check_differs(const Doubles& wrong, const Doubles& want, Tolerance tolerance, const std::string& what) {
  CHECK_MESSAGE(first_difference(wrong, want, tolerance) >= 0, what, ": the comparison misses a wrong result");
}

Doubles naive_product(const Doubles& x, const Doubles& w, std::int64_t rows, std::int64_t n, std::int64_t k) {
  Doubles out(static_cast<std::size_t>(rows * n));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < n; ++c) {
      double sum = 0;
      for (std::int64_t i = 0; i < k; ++i) {
        sum += x[static_cast<std::size_t>(r * k + i)] * w[static_cast<std::size_t>(c * k + i)];
      }
      out[static_cast<std::size_t>(r * n + c)] = sum;
    }
  }
  return out;
}

}  // namespace fastgen::test
