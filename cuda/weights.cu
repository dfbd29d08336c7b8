// Weights are copied as they lie in the file and converted on the card, so that the host only streams bytes.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "check.h"
#include "device_math.cuh"
#include "weights.h"

namespace fastgen {

namespace {

constexpr std::int64_t kPieceElements = 16 << 20;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(__half x) { return __half2float(x); }

template <typename From, typename To>
__global__ void convert_kernel(const From* from, To* to, std::int64_t n) {
  for (std::int64_t i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; i < n;
       i += std::int64_t{gridDim.x} * blockDim.x)
    to[i] = device::from_float<To>(widen(from[i]));
}

template <typename From>
void convert(const void* from, DType dtype, void* to, std::int64_t n) {
  const From* source = static_cast<const From*>(from);
  if (dtype == DType::kF32) {
    convert_kernel<<<1024, 256>>>(source, static_cast<float*>(to), n);
  } else {
    convert_kernel<<<1024, 256>>>(source, static_cast<__nv_bfloat16*>(to), n);
  }
}

// A device buffer for the unconverted piece, given back at the end of the scope.
class Piece {
 public:
  explicit Piece(std::size_t bytes) {
    cuda_check(cudaMalloc(&data_, bytes), "buffer for converting weights");
  }
  ~Piece() { cudaFree(data_); }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

}  // namespace

void upload_converted(const Tensor& part, DType dtype, void* device) {
  if (part.dtype == dtype) {
    cuda_check(cudaMemcpy(device, part.data, part.bytes(), cudaMemcpyHostToDevice), "upload of weights");
    return;
  }
  const std::size_t from_bytes = dtype_bytes(part.dtype), to_bytes = dtype_bytes(dtype);
  const Piece piece(static_cast<std::size_t>(std::min(kPieceElements, part.elements())) * from_bytes);
  for (std::int64_t first = 0; first < part.elements(); first += kPieceElements) {
    const std::int64_t n = std::min(kPieceElements, part.elements() - first);
    const char* from = static_cast<const char*>(part.data) + static_cast<std::size_t>(first) * from_bytes;
    char* to = static_cast<char*>(device) + static_cast<std::size_t>(first) * to_bytes;
    cuda_check(
        cudaMemcpy(piece.data(), from, static_cast<std::size_t>(n) * from_bytes, cudaMemcpyHostToDevice),
        "upload of weights");
    switch (part.dtype) {
      case DType::kF32:
        convert<float>(piece.data(), dtype, to, n);
        break;
      case DType::kBF16:
        convert<__nv_bfloat16>(piece.data(), dtype, to, n);
        break;
      case DType::kF16:
        convert<__half>(piece.data(), dtype, to, n);
        break;
      default:
        FG_CHECK(false, dtype_name(part.dtype));
    }
    cuda_check(cudaDeviceSynchronize(), "conversion of weights");
  }
}

}  // namespace fastgen
