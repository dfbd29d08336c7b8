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
constexpr std::size_t kSlabBytes = std::size_t{64} << 20;

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

std::byte* MemoryPool::map_slab(std::size_t bytes) {
  // Longer by a huge page, so that the slab can begin on one. Pages that nobody touches take no memory.
  const std::size_t mapped = bytes + kHugePage;
  void* address = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) throw Error(fmt::format("not enough memory: {} MB wanted", mapped >> 20));
  slabs_.push_back({address, mapped});
  const std::uintptr_t aligned = (reinterpret_cast<std::uintptr_t>(address) + kHugePage - 1) / kHugePage * kHugePage;
  auto* slab = reinterpret_cast<std::byte*>(aligned);
  madvise(slab, bytes, MADV_HUGEPAGE);  // only advice
  return slab;
}

void* MemoryPool::allocate(std::size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  const std::size_t available = free_memory_bytes();
  if (available > 0 && bytes > available) {
    throw Error(fmt::format("not enough memory: {} MB wanted, {} MB free", bytes >> 20, available >> 20));
  }
  if (bytes > kSlabBytes / 2) return map_slab(bytes);
  if (bytes > left_bytes_) {
    next_ = map_slab(kSlabBytes);
    left_bytes_ = kSlabBytes;
  }
  std::byte* result = next_;
  next_ += bytes;
  left_bytes_ -= bytes;
  return result;
}

MemoryPool::~MemoryPool() {
  for (const Slab& slab : slabs_) munmap(slab.address, slab.bytes);
}

}  // namespace fastgen
