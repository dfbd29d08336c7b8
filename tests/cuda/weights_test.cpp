// How weights reach the card: through the loader's threads and conversions, or made there; and the backend's memory within its budget.
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "backend/cpu/random_fill.h"
#include "backend/random_weights.h"
#include "base/mapped_file.h"
#include "cuda_support.h"

namespace fastgen::test {
namespace {

// What a matrix prepared by the CUDA backend holds: its handle is the address of the rows of its parts, one after the other.
std::vector<char> bytes_of(Backend& gpu, const Weight& weight) {
  const std::size_t bytes = static_cast<std::size_t>(weight.out_dim * weight.in_dim) * dtype_bytes(weight.dtype);
  char* host = static_cast<char*>(gpu.allocate(MemoryKind::kPinned, bytes));
  gpu.download(kStream, host, weight.handle, bytes);
  gpu.host_wait(gpu.record(kStream));
  return {host, host + bytes};
}

std::vector<char> converted(const Tensor& part, DType dtype) {
  std::vector<char> out(static_cast<std::size_t>(part.elements()) * dtype_bytes(dtype));
  const Doubles numbers = values(part);
  Tensor to(out.data(), dtype, {part.elements()});
  set_values(to, numbers);
  return out;
}

TEST_CASE("cuda: weights of every dtype arrive whole, in pieces and converted") {
  FG_NEEDS_GPU();
  for (const DType from : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType to : kTypes) {
      CAPTURE(dtype_name(from));
      CAPTURE(dtype_name(to));
      Bench b;
      // The second is more than the loader's pieces hold, and no multiple of anything.
      const Tensor small = make_random(*b.cpu, b.rng, from, {3, 1037}), large = make_random(*b.cpu, b.rng, from, {4099, 1037});
      const Weight weight = b.gpu->prepare_weights(WeightKind::kGateUp, to, std::vector{small, large});
      std::vector<char> expected = converted(small, to);
      const std::vector<char> rest = converted(large, to);
      expected.insert(expected.end(), rest.begin(), rest.end());
      CHECK(bytes_of(*b.gpu, weight) == expected);
    }
  }
}

TEST_CASE("cuda: weights are read from the file where there is one") {
  FG_NEEDS_GPU();
  Bench b;
  TempDir dir;
  const Tensor part = make_random(*b.cpu, b.rng, DType::kBF16, {2111, 1037});
  const std::string before = "seventeen bytes !";
  std::ofstream(dir.path() / "weights", std::ios::binary) << before << std::string(static_cast<const char*>(part.data), part.bytes());
  const MappedFile file(dir.path() / "weights");
  // The mapping's place in memory is not looked at: here it is another tensor.
  const Tensor other = make_tensor(*b.cpu, DType::kBF16, {2111, 1037});
  const FilePlace place{file.descriptor(), before.size()};
  for (const DType dtype : kTypes)
    CHECK(bytes_of(*b.gpu, b.gpu->prepare_weights(WeightKind::kLinear, dtype, {{other}}, {{place}})) == converted(part, dtype));
  const FilePlace beyond{file.descriptor(), before.size() + 2};
  CHECK_THROWS_AS(b.gpu->prepare_weights(WeightKind::kLinear, DType::kBF16, {{other}}, {{beyond}}), Error);
}

TEST_CASE("cuda: random weights are the CPU's, bit for bit" * doctest::test_suite("small rows")) {
  FG_NEEDS_GPU();
  for (const DType dtype : kTypes) {
    Bench b;
    const std::vector<RandomPart> parts = {{301, 517, 9, random_weight_stream("q")}, {77, 517, 9, random_weight_stream("k")}};
    const Weight weight = b.gpu->prepare_random_weights(WeightKind::kGateUp, dtype, parts);
    std::vector<char> expected;
    for (const RandomPart& part : parts) {
      const std::int64_t count = part.rows * part.columns;
      std::vector<char> bytes(static_cast<std::size_t>(count) * dtype_bytes(dtype));
      if (dtype == DType::kF32) {
        fill_random(part.seed, part.stream, 0, count, reinterpret_cast<float*>(bytes.data()));
      } else {
        fill_random(part.seed, part.stream, 0, count, reinterpret_cast<std::uint16_t*>(bytes.data()));
      }
      expected.insert(expected.end(), bytes.begin(), bytes.end());
    }
    const std::vector<char> got = bytes_of(*b.gpu, weight);
    std::size_t num_different = 0;
    for (std::size_t i = 0; i < got.size(); ++i) num_different += got[i] != expected[i];
    CHECK(num_different == 0);
  }
}

TEST_CASE("cuda: fill_table is the CPU's" * doctest::test_suite("small rows")) {
  FG_NEEDS_GPU();
  Bench b;
  std::vector<std::int32_t> entries, starts = {0};
  for (int row = 0; row < 300; ++row) {
    for (int i = b.rng.integer(0, 700); i > 0; --i) entries.push_back(b.rng.integer(0, 1 << 20));
    starts.push_back(static_cast<std::int32_t>(entries.size()));
  }
  const Twin e = b.ints(entries), s = b.ints(starts);
  Twin table = b.ints(std::vector<std::int32_t>(300 * 701, -5));
  for (Tensor* tensor : {&table.cpu, &table.gpu}) *tensor = Tensor(tensor->data, DType::kI32, {300, 701});
  b.cpu->fill_table(kStream, e.cpu, s.cpu, table.cpu);
  b.gpu->fill_table(kStream, e.gpu, s.gpu, table.gpu);
  CHECK(b.result(table.gpu) == Bench::host_values(table.cpu));
}

TEST_CASE("cuda: memory stays within --gpu-gb, and says so") {
  FG_NEEDS_GPU();
  auto gpu = make_cuda_backend({.gpu_gb = 2});
  const std::size_t before = gpu->free_bytes();
  CHECK(before < 2'000'000'000);
  gpu->allocate(MemoryKind::kDevice, 512u << 20);
  CHECK(gpu->free_bytes() <= before - (512u << 20));
  std::string message;
  try {
    gpu->allocate(MemoryKind::kDevice, 3'000'000'000);
  } catch (const Error& error) {
    message = error.what();
  }
  CAPTURE(message);
  CHECK(message.find("--gpu-gb") != std::string::npos);
  CHECK_THROWS_AS(make_cuda_backend({.gpu_gb = 10'000}), Error);
}

}  // namespace
}  // namespace fastgen::test
