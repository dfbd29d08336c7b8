// Random weights: the same bits from every instruction set, as the plain function of random_weights.h says.
#include <vector>

#include "backend/cpu/random_fill.h"
#include "backend/cpu_support.h"
#include "backend/random_weights.h"

namespace fastgen::test {
namespace {

std::vector<float> plain(std::uint64_t seed, std::uint64_t stream, std::int64_t first, std::int64_t last) {
  std::vector<float> out(static_cast<std::size_t>(last - first) + 3);
  for (std::int64_t i = first; i < last; i += 4)
    random_weights_of(seed, stream, static_cast<std::uint64_t>(i) / 4, out.data() + (i - first));
  out.resize(static_cast<std::size_t>(last - first));
  return out;
}

TEST_CASE("random weights: every instruction set makes the plain function's bits") {
  for_each_variant([](Backend&) {
    for (const std::int64_t first : {std::int64_t{0}, std::int64_t{4 * 37}, (std::int64_t{1} << 35) - 64}) {
      const std::int64_t last = first + 1003;
      const std::uint64_t seed = 0x123456789ABCDEF0u, stream = random_weight_stream("model.norm.weight");
      const std::vector<float> expected = plain(seed, stream, first, last);
      std::vector<float> floats(expected.size());
      std::vector<std::uint16_t> halves(expected.size());
      fill_random(seed, stream, first, last, floats.data() - first);
      fill_random(seed, stream, first, last, halves.data() - first);
      REQUIRE(std::memcmp(floats.data(), expected.data(), expected.size() * sizeof(float)) == 0);
      for (std::size_t i = 0; i < expected.size(); ++i) REQUIRE(halves[i] == f32_to_bf16(expected[i]));
    }
  });
}

TEST_CASE("random weights: logarithm, sine and cosine are what they stand for") {
  for (std::uint32_t k = 0; k < 100000; ++k) {
    const std::uint32_t bits = k * 42949u + 11u;
    const double u = static_cast<double>(static_cast<float>(bits >> 8) * 0x1p-24f + 0x1p-25f);
    const double radius = 0.02 * std::sqrt(-2 * std::log(u));
    REQUIRE(std::abs(static_cast<double>(random_weights::radius(bits)) - radius) < 3e-6 * (radius + 1e-4));
    float cosine = 0, sine = 0;
    random_weights::angle(bits, &cosine, &sine);
    REQUIRE(std::abs(static_cast<double>(cosine) * static_cast<double>(cosine) + static_cast<double>(sine) * static_cast<double>(sine) - 1) < 1e-6);
  }
}

TEST_CASE("random weights: a matrix made by the backend is one made of the same numbers") {
  for_each_variant([](Backend& backend) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const std::int64_t columns = 96;
      const std::vector<RandomPart> parts = {{70, columns, 5, 11}, {70, columns, 5, 12}};
      const Weight random = backend.prepare_random_weights(WeightKind::kLinear, dtype, std::span(parts).first(1));
      const Tensor same = make_tensor(backend, dtype, {70, columns});
      if (dtype == DType::kF32) fill_random(5, 11, 0, 70 * columns, same.as<float>());
      if (dtype == DType::kBF16) fill_random(5, 11, 0, 70 * columns, same.as<std::uint16_t>());
      const Weight packed = backend.prepare_weights(WeightKind::kLinear, dtype, std::vector{same});
      CHECK(random.out_dim == 70);
      const Weight joined = backend.prepare_random_weights(WeightKind::kGateUp, dtype, parts);
      CHECK(joined.out_dim == 140);
      Rng rng(3);
      const Tensor x = make_random(backend, rng, dtype, {3, columns});
      const Tensor a = make_tensor(backend, DType::kF32, {3, 70}), b = make_tensor(backend, DType::kF32, {3, 70});
      backend.linear(Stream::kCompute, x, random, Tensor(), a);
      backend.linear(Stream::kCompute, x, packed, Tensor(), b);
      CHECK(std::memcmp(a.data, b.data, a.bytes()) == 0);
    }
  });
}

TEST_CASE("fill_table: rows begin with their entries and keep what follows") {
  for (const char* name : {"cpu", "echo", "late"}) {
    CAPTURE(name);
    auto backend = make_backend(name, {.num_threads = 1});
    const Tensor entries = make_ints(*backend, {5, 6, 7, 8, 9, 9}), starts = make_ints(*backend, {0, 2, 2, 5});
    Tensor table = make_ints(*backend, std::vector<std::int32_t>(16, -1));
    table.rank = 2;
    table.shape = {4, 4, 1, 1};
    backend->fill_table(Stream::kCompute, entries, starts, table);
    backend->host_wait(backend->record(Stream::kCompute));
    const std::vector<std::int32_t> expected = {5, 6, -1, -1, -1, -1, -1, -1, 7, 8, 9, -1, -1, -1, -1, -1};
    CHECK(std::memcmp(table.data, expected.data(), 64) == 0);
  }
}

}  // namespace
}  // namespace fastgen::test
