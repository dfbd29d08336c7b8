#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "backend/check/check_backend.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cuda_factory.h"
#include "backend/echo/echo_backend.h"
#include "backend/failing/failing_backend.h"
#include "backend/late/late_backend.h"
#include "backend/stall/stall_backend.h"
#include "fastgen/error.h"

namespace fastgen {

namespace {

// $FG_LATE_SEED chooses among the legal orders of the late backend (late_backend.h); without it nothing runs
// early.
std::uint64_t late_seed() {
  const char* text = std::getenv("FG_LATE_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}

// The number in "PREFIXnumberSUFFIX"; none where the name is another.
std::optional<std::int64_t> number_between(std::string_view name, std::string_view prefix, std::string_view suffix) {
  if (!name.starts_with(prefix) || !name.ends_with(suffix) || name.size() < prefix.size() + suffix.size()) return std::nullopt;
  const std::string_view digits = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || number < 0 || number > 1'000'000'000) return std::nullopt;
  return number;
}

}  // namespace

std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options) {
  if (name == "cpu") return make_cpu_backend(options);
  if (name == "echo") return make_echo_backend();
  if (name == "check") return make_check_backend(make_cpu_backend(options), make_cuda_backend(options));
  if (name == "check:cpu") return make_check_backend(make_cpu_backend(options), make_cpu_backend(options));
  if (name == "late") return make_late_backend(make_cpu_backend(options), late_seed());
  if (name == "late:echo") return make_late_backend(make_echo_backend(), late_seed());
  if (name == "cuda") return make_cuda_backend(options);
  if (const std::optional<std::int64_t> steps = number_between(name, "stall-after:", ":echo"))
    return make_stall_backend(make_echo_backend(), {.num_steps = *steps});
  if (const std::optional<std::int64_t> delay = number_between(name, "slow:", ":echo"))
    return make_stall_backend(make_echo_backend(), {.delay = std::chrono::milliseconds(*delay)});
  if (const std::optional<std::int64_t> steps = number_between(name, "fail-after:", ":echo"))
    return make_failing_backend(make_echo_backend(), *steps);
  throw Error(fmt::format("--backend {}: unknown, the choices are cpu, cuda, check, echo, late, late:echo", name));
}

}  // namespace fastgen
