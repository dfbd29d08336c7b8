// For tests that need a GPU.
#pragma once

#include <cstdio>

#include "backend/backend.h"
#include "fastgen/error.h"

namespace fastgen::test {

// Whether backend "cuda" works here; what stands against it goes to the log.
inline bool has_gpu() {
  try {
    make_backend("cuda", {});
    return true;
  } catch (const Error& error) {
    std::printf("%s\n", error.what());
    return false;
  }
}

}  // namespace fastgen::test
