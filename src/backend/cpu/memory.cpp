#include "backend/cpu/memory.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <sys/mman.h>

#include "fastgen/error.h"

namespace fastgen {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t available_bytes() {
  std::ifstream in("/proc/meminfo");
  std::string key, unit;
  for (std::size_t kib = 0; in >> key >> kib; std::getline(in, unit)) {
    if (key == "MemAvailable:") return kib * 1024;
  }
  return 0;
}

std::optional<std::size_t> read_number(const char* path) {
  std::ifstream in(path);
  std::size_t value = 0;
  if (in >> value) return value;  // "max" is no number: no limit
  return std::nullopt;
}

}  // namespace

std::size_t free_memory_bytes() {
  std::size_t bytes = available_bytes();
  const auto limit = read_number("/sys/fs/cgroup/memory.max");
  const auto used = read_number("/sys/fs/cgroup/memory.current");
  if (limit && used) bytes = std::min(bytes, *limit > *used ? *limit - *used : 0);
  return bytes;
}

void* MemoryPool::allocate(std::size_t bytes) {
  // Rounded so that a huge page boundary can be chosen within the mapping.
  const bool huge = bytes >= kHugePage;
  const std::size_t mapped = bytes + (huge ? kHugePage : 64);
  const std::size_t available = free_memory_bytes();
  if (available > 0 && mapped > available) {
    throw Error(fmt::format("not enough memory: {} MB wanted, {} MB free", mapped >> 20, available >> 20));
  }
  void* address = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) throw Error(fmt::format("not enough memory: {} MB wanted", mapped >> 20));
  runs_.push_back({address, mapped});
  if (!huge) return address;
  const std::uintptr_t aligned = (reinterpret_cast<std::uintptr_t>(address) + kHugePage - 1) / kHugePage * kHugePage;
  void* result = reinterpret_cast<void*>(aligned);
  madvise(result, bytes, MADV_HUGEPAGE);  // only advice: without huge pages it is a little slower
  return result;
}

MemoryPool::~MemoryPool() {
  for (const Run& run : runs_) munmap(run.address, run.bytes);
}

}  // namespace fastgen
