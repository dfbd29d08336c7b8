#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cuda_factory.h"
#include "backend/echo/echo_backend.h"
#include "backend/late/late_backend.h"
#include "fastgen/error.h"

namespace fastgen {

namespace {

// $FG_LATE_SEED chooses among the legal orders of the late backend (late_backend.h); without it nothing runs
// early.
std::uint64_t late_seed() {
  const char* text = std::getenv("FG_LATE_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}

}  // namespace

std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options) {
  if (name == "cpu") return make_cpu_backend(options);
  if (name == "echo") return make_echo_backend();
  if (name == "late") return make_late_backend(make_cpu_backend(options), late_seed());
  if (name == "late:echo") return make_late_backend(make_echo_backend(), late_seed());
  if (name == "cuda") return make_cuda_backend(options);
  throw Error(fmt::format("--backend {}: unknown, the choices are cpu, echo, late, late:echo, cuda", name));
}

}  // namespace fastgen
