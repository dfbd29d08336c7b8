// The CPU backend: every op in full, on any x86-64. It is the oracle that other backends are compared with.
//
// Ops run when called, on the calling thread and num_threads - 1 workers, so every stream is in order and every fence
// has passed. A graph is the list of its calls with their arguments by value; what they point to is read at replay.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/cpu/product.h"

namespace fastgen {

// Environment, for comparisons: FG_ONEDNN=0 leaves oneDNN out, FG_NATIVE_BF16=0 the AVX512-BF16 products.
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);
// The same with the choice of products made by the caller.
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options, const ProductTuning& tuning);

}  // namespace fastgen
