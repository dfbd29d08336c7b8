#include "tensor_map.h"

#include <cuda_runtime_api.h>

namespace fastgen::device {

namespace {

// From the driver by name, so that programs need not link it and start without one.
decltype(&cuTensorMapEncodeTiled) find_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  constexpr unsigned kSince = 12000;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, kSince, cudaEnableDefault, &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess)
    return nullptr;
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

}  // namespace

std::optional<CUtensorMap> row_map(const void* data, std::int64_t rows, std::int64_t cols, int box_rows) {
  static const auto encode = find_encoder();
  if (encode == nullptr) return std::nullopt;
  const cuuint64_t dims[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)}, stride = static_cast<cuuint64_t>(cols) * 2;
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows)}, one[] = {1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), dims, &stride, box, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return std::nullopt;
  return map;
}

}  // namespace fastgen::device
