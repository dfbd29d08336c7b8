// Launches that may start while the kernel before them on the stream still runs (programmatic dependent launch, sm_90).
//
// A kernel started by launch() calls wait_for_previous() in every thread before it reads what the kernel before it
// wrote and before its first write; until then it may load weights and compute indices. One that calls let_next_start() lets
// the next kernel's blocks take the SMs as they become free. Because every such kernel waits, its end implies the end of
// all before it, so the rule holds along any chain. A kernel started with <<<>>> or by cuBLASLt waits as ever. Captured graphs
// keep the overlap.
//
// Products let the next kernel start as soon as they have waited themselves: what begins then finds all done that came before the
// product, and decode attention, the next but for RoPE, reads K and V of earlier steps at once. Small kernels do so at their start.
// Measured on an H200 (no record), a step of one stream of Mistral 7B: 4.01 ms when products did it at their end, 3.94 after their wait;
// attention's early reads make it 3.86.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

namespace fastgen::device {

__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

inline int div_up(int x, int y) { return (x + y - 1) / y; }

// Of the card in use.
inline int device_attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, which, device);
  return value;
}

// What launchers ask about the card in use; asked once.
struct Card {
  int num_sms;
  int major;  // of the compute capability
  bool overlaps_launches() const { return major >= 9; }
};
inline const Card& card() {
  static const Card found{device_attribute(cudaDevAttrMultiProcessorCount),
                          device_attribute(cudaDevAttrComputeCapabilityMajor)};
  return found;
}

// How much of an SM's memory a kernel wants as shared memory, the rest is L1. An SM divides it anew only when it is empty, so kernels that
// follow each other ask for the same: where each left it to the driver, a block of the next kernel often found no place until the other on
// its SM had ended. In traces (no record) every third product of one stream took 1.4 times as long, and 3.7 % of a step of 256 were gaps.
// In steps of few rows, but not of one, products read x through L1; else attention and cuBLASLt set the tone, which take all they can get.
inline constexpr int kAllShared = cudaSharedmemCarveoutMaxShared, kHalfShared = 50;
inline constexpr int kFewRowsMax = 16;  // that the products of skinny_kernel.cu take
inline int shared_percent(int num_rows) { return num_rows > 1 && num_rows <= kFewRowsMax ? kHalfShared : kAllShared; }

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes = 0;
  int cluster = 1;  // > 1 (sm_90 only): so many blocks along x form a cluster
  int shared_percent = kAllShared;
};
// Of a kernel without dynamic shared memory, in a step of so many rows.
inline LaunchShape small_shape(dim3 grid, dim3 block, int num_rows) { return {grid, block, 0, 1, shared_percent(num_rows)}; }

// A failure shows at the backend's check after the launch.
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), const LaunchShape& shape, cudaStream_t stream, Args&&... args) {
  cudaLaunchAttribute attributes[3] = {};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  if (card().overlaps_launches()) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  cudaLaunchAttribute& carveout = attributes[config.numAttrs++];
  carveout.id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  carveout.val.sharedMemCarveout = static_cast<unsigned>(shape.shared_percent);
  if (shape.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

}  // namespace fastgen::device
