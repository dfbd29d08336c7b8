// Weights are copied as they lie in the file and converted on the card, so that the host only streams bytes; random ones are made
// where they will live, bit for bit what the CPU makes.
#include "weight_kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "backend/random_weights.h"
#include "device_math.cuh"

namespace fastgen::device {

namespace {

constexpr int kThreads = 256, kBlocks = 1024;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(__half x) { return __half2float(x); }

template <typename From, typename To>
__global__ void convert_kernel(const From* from, To* to, std::int64_t n) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < n; i += std::int64_t{gridDim.x} * blockDim.x)
    to[i] = from_float<To>(widen(from[i]));
}

// One thread makes four numbers at a time, what one call of the generator gives.
template <typename To>
__global__ void fill_random_kernel(std::uint64_t seed, std::uint64_t random_stream, std::int64_t n, To* to) {
  const std::int64_t num_groups = (n + 3) / 4;
  for (std::int64_t group = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; group < num_groups;
       group += std::int64_t{gridDim.x} * blockDim.x) {
    float four[4];
    random_weights_of(seed, random_stream, static_cast<std::uint64_t>(group), four);
    for (int j = 0; j < 4; ++j)
      if (4 * group + j < n) to[4 * group + j] = from_float<To>(four[j]);
  }
}

template <typename From>
void convert_from(const void* from, void* to, DType to_dtype, std::int64_t n, cudaStream_t stream) {
  const From* source = static_cast<const From*>(from);
  if (to_dtype == DType::kF32) {
    convert_kernel<<<kBlocks, kThreads, 0, stream>>>(source, static_cast<float*>(to), n);
  } else {
    convert_kernel<<<kBlocks, kThreads, 0, stream>>>(source, static_cast<__nv_bfloat16*>(to), n);
  }
}

}  // namespace

bool has_kernels() {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, fill_random_kernel<float>);
  if (status != cudaErrorNoKernelImageForDevice && status != cudaErrorInvalidDeviceFunction) return true;
  cudaGetLastError();  // it is known now
  return false;
}

void convert(const void* from, DType from_dtype, void* to, DType to_dtype, std::int64_t n, cudaStream_t stream) {
  switch (from_dtype) {
    case DType::kF32:
      return convert_from<float>(from, to, to_dtype, n, stream);
    case DType::kBF16:
      return convert_from<__nv_bfloat16>(from, to, to_dtype, n, stream);
    case DType::kF16:
      return convert_from<__half>(from, to, to_dtype, n, stream);
    default:
      FG_CHECK(false, dtype_name(from_dtype));
  }
}

void fill_random(std::uint64_t seed, std::uint64_t random_stream, std::int64_t n, void* to, DType dtype, cudaStream_t stream) {
  if (dtype == DType::kF32) {
    fill_random_kernel<<<kBlocks, kThreads, 0, stream>>>(seed, random_stream, n, static_cast<float*>(to));
  } else {
    fill_random_kernel<<<kBlocks, kThreads, 0, stream>>>(seed, random_stream, n, static_cast<__nv_bfloat16*>(to));
  }
}

}  // namespace fastgen::device
