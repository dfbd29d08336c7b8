// Small float32 arrays to the device, at start, through one pinned buffer.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "backend/backend.h"

namespace fastgen {

// Zero-filled device memory as a tensor; before Backend::seal.
inline Tensor device_tensor(Backend& backend, DType dtype, std::initializer_list<std::int64_t> shape) {
  Tensor tensor(nullptr, dtype, shape);
  tensor.data = backend.allocate(MemoryKind::kDevice, tensor.bytes());
  return tensor;
}

// Fill staging(), then upload(): it returns when the staging may be filled again.
class Uploader {
 public:
  Uploader(Backend& backend, std::int64_t max_elements)
      : backend_(backend),
        max_elements_(max_elements),
        staging_(static_cast<float*>(
            backend.allocate(MemoryKind::kPinned, static_cast<std::size_t>(max_elements) * sizeof(float)))) {}

  float* staging() { return staging_; }

  void upload(const Tensor& to) {
    FG_CHECK(to.dtype == DType::kF32 && to.elements() <= max_elements_, dtype_name(to.dtype), to.elements(), max_elements_);
    backend_.upload(Stream::kCompute, to.data, staging_, to.bytes());
    backend_.host_wait(backend_.record(Stream::kCompute));
  }

 private:
  Backend& backend_;
  std::int64_t max_elements_;
  float* staging_;  // lives as long as the backend
};

}  // namespace fastgen
