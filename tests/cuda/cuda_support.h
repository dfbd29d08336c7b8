// What the tests of the CUDA backend share: the same bytes in the memory of both backends, and the comparison.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu_support.h"
#include "backend/cuda_factory.h"
#include "fastgen/error.h"

namespace fastgen::test {

inline constexpr Stream kStream = Stream::kCompute;

// The same bytes in both backends' memory.
struct Twin {
  Tensor cpu, gpu;
};

class Bench {
 public:
  Bench() : cpu(make_cpu_backend({})), gpu(make_cuda_backend({})) {}

  Twin copy_of(Tensor cpu_tensor) {
    Twin twin{cpu_tensor, cpu_tensor};
    twin.gpu.data = gpu->allocate(MemoryKind::kDevice, std::max<std::size_t>(cpu_tensor.bytes(), 4));
    gpu->upload(kStream, twin.gpu.data, cpu_tensor.data, cpu_tensor.bytes());
    gpu->host_wait(gpu->record(kStream));
    return twin;
  }
  Twin random(DType dtype, std::initializer_list<std::int64_t> shape, double sigma = 1) {
    return copy_of(make_random(*cpu, rng, dtype, shape, sigma));
  }
  Twin ints(const std::vector<std::int32_t>& numbers) { return copy_of(make_ints(*cpu, numbers)); }
  Doubles result(const Tensor& device) {
    Tensor host = device;
    host.data = gpu->allocate(MemoryKind::kPinned, device.bytes());
    gpu->download(kStream, host.data, device.data, device.bytes());
    gpu->host_wait(gpu->record(kStream));
    if (device.dtype != DType::kI32) return values(host);
    const std::int32_t* numbers = host.as<std::int32_t>();
    return Doubles(numbers, numbers + host.elements());
  }
  static Doubles host_values(const Tensor& tensor) {
    if (tensor.dtype != DType::kI32) return values(tensor);
    return Doubles(tensor.as<std::int32_t>(), tensor.as<std::int32_t>() + tensor.elements());
  }
  void compare(const Twin& twin, Tolerance allowed, const std::string& what) {
    check_close(result(twin.gpu), host_values(twin.cpu), allowed, what);
  }
  std::pair<Weight, Weight> weights(WeightKind kind, DType dtype,
                                    std::vector<std::array<std::int64_t, 2>> shapes) {
    std::vector<Tensor> parts;
    for (const auto& shape : shapes)
      parts.push_back(make_random(*cpu, rng, dtype, {shape[0], shape[1]}, 0.05));
    return {cpu->prepare_weights(kind, dtype, parts), gpu->prepare_weights(kind, dtype, parts)};
  }
  std::pair<Weight, Weight> copy_of_weights(WeightKind kind, Tensor part) {
    return {cpu->prepare_weights(kind, part.dtype, {{part}}), gpu->prepare_weights(kind, part.dtype, {{part}})};
  }
  // A paged arena of random K and V, with token ids.
  std::pair<KvArena, KvArena> arenas(DType dtype, KvLayout layout, std::int64_t num_blocks,
                                     std::int32_t vocab) {
    const Twin data = random(dtype, {num_blocks * layout.block_elements()});
    std::vector<std::int32_t> ids(static_cast<std::size_t>(num_blocks * layout.block_size));
    for (std::int32_t& id : ids) id = rng.integer(0, vocab - 1);
    const Twin token_ids = ints(ids);
    return {KvArena{data.cpu.data, dtype, num_blocks, layout, token_ids.cpu},
            KvArena{data.gpu.data, dtype, num_blocks, layout, token_ids.gpu}};
  }
  Doubles arena_values(const KvArena& arena, bool on_gpu) {
    const Tensor all(arena.data, arena.dtype, {arena.num_blocks * arena.layout.block_elements()});
    return on_gpu ? result(all) : values(all);
  }

  Rng rng{77};
  std::unique_ptr<Backend> cpu, gpu;
};

inline bool has_gpu() {
  try {
    make_cuda_backend({});
    return true;
  } catch (const Error& error) {
    MESSAGE(error.what());
    return false;
  }
}

#define FG_NEEDS_GPU() \
  if (!has_gpu()) FG_SKIP("a GPU")

inline const std::vector<DType> kTypes = {DType::kF32, DType::kBF16};

// Outputs of bf16 are rounded once more on the GPU, where a product is stored before its epilogue.
inline Tolerance loose(DType dtype, double scale = 1) {
  return dtype == DType::kF32 ? Tolerance{5e-5 * scale, 5e-5} : Tolerance{8e-3 * scale, 0x1p-6};
}

}  // namespace fastgen::test
