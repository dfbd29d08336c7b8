// The only thing that code outside cuda/ knows of the CUDA backend. Defined there, or in cuda_absent.cpp by a
// build without CUDA.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace fastgen {

// Throws Error if the build has no CUDA or the machine has no device.
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options);

}  // namespace fastgen
