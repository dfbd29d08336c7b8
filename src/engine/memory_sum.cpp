#include "engine/memory_sum.h"

#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen {
namespace {

std::string amount(std::int64_t bytes) {
  const double gb = static_cast<double>(bytes) / 1e9;
  return gb >= 0.1 ? fmt::format("{:.2f} GB", gb) : fmt::format("{:.2f} MB", gb * 1000);
}

}  // namespace

void MemorySum::add(std::string_view what, std::int64_t bytes) {
  terms_ += fmt::format("{}{} {}", terms_.empty() ? "" : " + ", what, amount(bytes));
  bytes_ += bytes;
}

std::string MemorySum::text() const { return fmt::format("{} = {}", terms_, amount(bytes_)); }

void MemorySum::check_fits(std::int64_t free_bytes, std::string_view what_is_short) const {
  if (bytes_ > free_bytes) throw Error(fmt::format("{}: {}, but {} are free", what_is_short, text(), amount(free_bytes)));
}

}  // namespace fastgen
