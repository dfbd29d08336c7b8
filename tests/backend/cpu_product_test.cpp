// linear, linear_add, gate_up_silu and the packing of weights, against sums in double.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <thread>

#include "backend/cpu_support.h"

namespace fastgen::test {
namespace {

struct Shape {
  std::int64_t rows, out, in;
};
// One row, tile sizes and one beside them, more than one block of rows; outputs and inputs that fill no panel.
const Shape kShapes[] = {{1, 64, 64},  {1, 576, 192}, {2, 100, 62}, {5, 17, 33},   {7, 129, 96},
                         {16, 200, 172}, {49, 80, 66},  {131, 72, 130}, {3, 1, 2}, {64, 128, 576}};

TEST_CASE("cpu product: linear and linear_add equal sums in double") {
  for_each_variant([](Backend& backend) {
    Rng rng(1);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (const Shape& shape : kShapes) {
        CAPTURE(std::string(dtype_name(dtype)));
        CAPTURE(shape.rows);
        CAPTURE(shape.out);
        CAPTURE(shape.in);
        const Tensor x = make_random(backend, rng, dtype, {shape.rows, shape.in});
        const Tensor w = make_random(backend, rng, dtype, {shape.out, shape.in});
        const Tensor bias = make_random(backend, rng, DType::kF32, {shape.out});
        const Tensor out = make_tensor(backend, DType::kF32, {shape.rows, shape.out});
        const Tensor residual = make_random(backend, rng, DType::kF32, {shape.rows, shape.out});
        const Weight weight = backend.prepare_weights(WeightKind::kLinear, dtype, {{w}});
        CHECK(weight.out_dim == shape.out);
        CHECK(weight.in_dim == shape.in);

        Doubles want = naive_product(values(x), values(w), shape.rows, shape.out, shape.in);
        const Tolerance allowed = tolerance(DType::kF32, std::sqrt(static_cast<double>(shape.in)));
        backend.linear(Stream::kCompute, x, weight, Tensor(), out);
        check_close(values(out), want, allowed, "linear");
        const Doubles before = values(residual), b = values(bias);
        backend.linear_add(Stream::kCompute, x, weight, Tensor(), residual);
        Doubles sum = want;
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += before[i];
        check_close(values(residual), sum, allowed, "linear_add");
        for (std::size_t i = 0; i < sum.size(); ++i) want[i] += b[i % b.size()];
        backend.linear(Stream::kCompute, x, weight, bias, out);
        check_close(values(out), want, allowed, "linear with bias");
        if (shape.out > 1) {  // sabotage: outputs rotated by one
          Doubles wrong = values(out);
          std::rotate(wrong.begin(), wrong.begin() + 1, wrong.end());
          check_differs(wrong, want, allowed, "linear");
        }
      }
    }
  });
}

TEST_CASE("cpu product: gate_up_silu equals silu(gate) * up in double") {
  for_each_variant([](Backend& backend) {
    Rng rng(2);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (const Shape& shape : kShapes) {
        CAPTURE(std::string(dtype_name(dtype)));
        CAPTURE(shape.rows);
        CAPTURE(shape.out);
        CAPTURE(shape.in);
        const double sigma = 1 / std::sqrt(static_cast<double>(shape.in));
        const Tensor x = make_random(backend, rng, dtype, {shape.rows, shape.in});
        const Tensor gate = make_random(backend, rng, dtype, {shape.out, shape.in}, 4 * sigma);
        const Tensor up = make_random(backend, rng, dtype, {shape.out, shape.in}, 4 * sigma);
        const Tensor out = make_tensor(backend, dtype, {shape.rows, shape.out});
        const Weight weight = backend.prepare_weights(WeightKind::kGateUp, dtype, {{gate, up}});
        CHECK(weight.out_dim == 2 * shape.out);
        backend.gate_up_silu(Stream::kCompute, x, weight, out);
        const Doubles g = naive_product(values(x), values(gate), shape.rows, shape.out, shape.in);
        const Doubles u = naive_product(values(x), values(up), shape.rows, shape.out, shape.in);
        Doubles want(g.size()), swapped(g.size());
        for (std::size_t i = 0; i < g.size(); ++i) {
          want[i] = g[i] / (1 + std::exp(-g[i])) * u[i];
          swapped[i] = u[i] / (1 + std::exp(-u[i])) * g[i];
        }
        check_close(values(out), want, tolerance(dtype, 4), "gate_up_silu");
        check_differs(swapped, want, tolerance(dtype, 4), "gate_up_silu, gate and up exchanged");
      }
    }
  });
}

TEST_CASE("cpu product: weights of any dtype are rounded to the wanted one") {
  for_each_variant([](Backend& backend) {
    Rng rng(3);
    const Tensor x = make_random(backend, rng, DType::kBF16, {3, 40});
    const Tensor w = make_random(backend, rng, DType::kF32, {24, 40});
    Tensor half = make_tensor(backend, DType::kF16, {24, 40});
    for (int i = 0; i < 24 * 40; ++i) half.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(rng.integer(0, 0x7BFF) | (i % 2 << 15));
    half.as<std::uint16_t>()[0] = 1;  // the least subnormal
    for (const Tensor& source : {w, half}) {
      const Weight weight = backend.prepare_weights(WeightKind::kLinear, DType::kBF16, {{source}});
      Doubles numbers = values(source);
      double largest = 0;
      for (double& number : numbers) {
        number = rounded(number, DType::kBF16);
        largest = std::max(largest, std::fabs(number));
      }
      const Tensor out = make_tensor(backend, DType::kF32, {3, 24});
      backend.linear(Stream::kCompute, x, weight, Tensor(), out);
      check_close(values(out), naive_product(values(x), numbers, 3, 24, 40), tolerance(DType::kF32, 6 * largest), "rounded weights");
    }
  });
}

TEST_CASE("cpu product: no thread beside the pool's own, oneDNN included") {
  // The least of a while: a thread that has been joined may stand in the list for a moment longer.
  const auto count_threads = [] {
    std::ptrdiff_t least = std::numeric_limits<std::ptrdiff_t>::max();
    for (int i = 0; i < 50; ++i, std::this_thread::sleep_for(std::chrono::milliseconds(2))) {
      std::ptrdiff_t count = 0;
      for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) count += !entry.path().empty();
      least = std::min(least, count);
    }
    return least;
  };
  const std::ptrdiff_t before = count_threads();
  ProductTuning tuning;
  tuning.onednn_min_rows = 1;
  auto backend = make_cpu_backend({3, 0}, tuning);
  Rng rng(5);
  const Tensor w = make_random(*backend, rng, DType::kBF16, {1024, 64});
  const Tensor x = make_random(*backend, rng, DType::kBF16, {200, 64});
  const Tensor out = make_tensor(*backend, DType::kF32, {200, 1024});
  const Weight weight = backend->prepare_weights(WeightKind::kLinear, DType::kBF16, {{w}});
  backend->linear(Stream::kCompute, x, weight, Tensor(), out);
  CHECK(count_threads() == before + 2);
  check_close(values(out), naive_product(values(x), values(w), 200, 1024, 64), tolerance(DType::kF32, 8), "linear on three threads");
}

TEST_CASE("cpu product: a row's result does not depend on the rows beside it") {
  // Not promised of oneDNN, which chooses its order of summation by the shape.
  for (bool native : {false, true}) {
    ProductTuning tuning;
    tuning.onednn = false;
    tuning.native_bf16 = native;
    auto backend = make_cpu_backend({2, 0}, tuning);
    Rng rng(4);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor w = make_random(*backend, rng, dtype, {144, 96});
      const Tensor x = make_random(*backend, rng, dtype, {61, 96});
      const Tensor out = make_tensor(*backend, DType::kF32, {61, 144});
      const Tensor one = make_tensor(*backend, DType::kF32, {1, 144});
      const Weight weight = backend->prepare_weights(WeightKind::kLinear, dtype, {{w}});
      backend->linear(Stream::kCompute, x, weight, Tensor(), out);
      for (std::int64_t r = 0; r < 61; ++r) {
        backend->linear(Stream::kCompute, x.slice(r, 1), weight, Tensor(), one);
        CHECK(values(one) == values(out.slice(r, 1)));
      }
    }
  }
}

}  // namespace
}  // namespace fastgen::test
