#include "backend/cuda_factory.h"
#include "fastgen/error.h"

namespace fastgen {

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions&) {
  throw Error("--backend cuda: this build has no CUDA (meson -Dcuda=enabled)");
}

}  // namespace fastgen
