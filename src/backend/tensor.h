// A view of a buffer: address, element type, shape. Row-major, contiguous. Owns nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/check.h"

namespace fastgen {

enum class DType : std::uint8_t { kF32, kBF16, kF16, kI32, kU8 };

constexpr std::size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kBF16:
    case DType::kF16: return 2;
    case DType::kU8: return 1;
  }
  return 0;
}

constexpr const char* dtype_name(DType dtype) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "float16", "int32", "uint8"};
  return kNames[static_cast<int>(dtype)];
}

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::int32_t rank = 0;
  std::array<std::int64_t, 4> shape{1, 1, 1, 1};

  Tensor() = default;
  Tensor(void* address, DType type, std::initializer_list<std::int64_t> dims)
      : data(address), dtype(type), rank(static_cast<std::int32_t>(dims.size())) {
    FG_CHECK(dims.size() <= 4, dims.size());
    std::size_t i = 0;
    for (std::int64_t dim : dims) shape[i++] = dim;
  }

  explicit operator bool() const { return data != nullptr; }
  std::int64_t rows() const { return shape[0]; }
  std::int64_t row_elements() const { return shape[1] * shape[2] * shape[3]; }
  std::int64_t elements() const { return rows() * row_elements(); }
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * dtype_bytes(dtype); }

  template <typename T>
  T* as() const {
    FG_CHECK(sizeof(T) == dtype_bytes(dtype), sizeof(T), dtype_name(dtype));
    return static_cast<T*>(data);
  }
  // The first `count` rows from `first`.
  Tensor slice(std::int64_t first, std::int64_t count) const {
    FG_CHECK(first >= 0 && count >= 0 && first + count <= rows(), first, count, rows());
    Tensor out = *this;
    out.data = static_cast<char*>(data) + static_cast<std::size_t>(first * row_elements()) * dtype_bytes(dtype);
    out.shape[0] = count;
    return out;
  }
};

}  // namespace fastgen
