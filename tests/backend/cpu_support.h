// What the tests of the CPU backend share: buffers in its memory, random numbers, naive references in double, and the
// comparison with a tolerance by dtype.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/bf16.h"
#include "backend/cpu/cpu_backend.h"
#include "support/support.h"

namespace fastgen::test {

using Doubles = std::vector<double>;

// One way to run the ops: SIMD target (0: the best), and which products.
struct Variant {
  std::string name;
  std::int64_t hwy_targets = 0;
  ProductTuning tuning;
};
std::vector<Variant> variants();
// Runs the body once for each variant this CPU can run, in a subcase of its name... with the SIMD target set meanwhile.
void for_each_variant(const std::function<void(Backend&)>& body, int num_threads = 2);

class Rng {
 public:
  explicit Rng(std::uint64_t stream) : engine_(seed() + stream * 0x9E3779B97F4A7C15u) {}
  double normal(double sigma = 1) { return std::normal_distribution<double>(0, sigma)(engine_); }
  double uniform() { return std::uniform_real_distribution<double>(0, 1)(engine_); }
  int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }

 private:
  std::mt19937_64 engine_;
};

Tensor make_tensor(Backend& backend, DType dtype, std::initializer_list<std::int64_t> shape);
Tensor make_ints(Backend& backend, const std::vector<std::int32_t>& values);
// Normal numbers, rounded to the dtype.
Tensor make_random(Backend& backend, Rng& rng, DType dtype, std::initializer_list<std::int64_t> shape, double sigma = 1);
// f32, bf16 or f16 elements.
Doubles values(const Tensor& tensor);
void set_values(const Tensor& tensor, const Doubles& values);
double rounded(double value, DType dtype);

// How far `got` may be from `want`: abs + rel * |want|.
struct Tolerance {
  double absolute = 0;
  double relative = 0;
};
Tolerance tolerance(DType dtype, double scale = 1);
// The index of the first element out of tolerance, -1 if none.
std::int64_t first_difference(const Doubles& got, const Doubles& want, Tolerance tolerance);
// CHECKs that got equals want within tolerance, and that the comparison reports an element of `want` moved by five
// tolerances: a tolerance so loose that it hides that would prove nothing.
void check_close(const Doubles& got, const Doubles& want, Tolerance tolerance, const std::string& what);
// CHECKs that a wrong result is reported.
void check_differs(const Doubles& wrong, const Doubles& want, Tolerance tolerance, const std::string& what);

// [T, N] = x [T, K] w [N, K]^T
Doubles naive_product(const Doubles& x, const Doubles& w, std::int64_t rows, std::int64_t n, std::int64_t k);

}  // namespace fastgen::test
