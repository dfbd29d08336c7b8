// What the tests of the CUDA backend share: the same bytes in the memory of both backends, and the comparison.
#pragma once

#include <algorithm>
#include <cstdlib>
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

// A CPU and a GPU to compare, and pinned memory that results come through.
struct Backends {
  void* pinned(std::size_t bytes) {
    if (bytes > pinned_bytes_) pinned_ = gpu->allocate(MemoryKind::kPinned, pinned_bytes_ = 2 * bytes);
    return pinned_;
  }
  std::unique_ptr<Backend> cpu = make_cpu_backend({}), gpu = make_cuda_backend({});

 private:
  void* pinned_ = nullptr;
  std::size_t pinned_bytes_ = 0;
};
// The process's: to make a pair takes longer than most cases. They keep what they allocate, so cases are small. Never destroyed, since
// the CUDA runtime may end before.
inline Backends& shared_backends() {
  static Backends& made = *[] {
    setenv("FG_CUDA_TUNE", "0", 1);  // products are timed where that is tested
    return new Backends;
  }();
  return made;
}

class Bench {
 public:
  explicit Bench(Backends& backends = shared_backends())
      : cpu(backends.cpu.get()), gpu(backends.gpu.get()), backends_(backends) {}

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
    host.data = backends_.pinned(device.bytes());
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
  Backend* cpu;
  Backend* gpu;

 private:
  Backends& backends_;
};

inline bool has_gpu() {
  static const std::string fault = [] {
    try {
      shared_backends();
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  }();
  if (!fault.empty()) MESSAGE(fault);
  return fault.empty();
}

#define FG_NEEDS_GPU() \
  if (!has_gpu()) FG_SKIP("a GPU")

inline const std::vector<DType> kTypes = {DType::kF32, DType::kBF16};

// Outputs of bf16 are rounded once more on the GPU, where a product is stored before its epilogue.
inline Tolerance loose(DType dtype, double scale = 1) {
  return dtype == DType::kF32 ? Tolerance{5e-5 * scale, 5e-5} : Tolerance{8e-3 * scale, 0x1p-6};
}

}  // namespace fastgen::test
