// Memory of the CPU backend: big zero-filled runs, owned until the end.
#pragma once

#include <cstddef>
#include <vector>

namespace fastgen {

// What the machine, or the control group that we run in, may still give.
std::size_t free_memory_bytes();

// Zero-filled, aligned to 64 bytes; runs over 2 MB lie on huge pages where the kernel has them. Frees all when destroyed.
class MemoryPool {
 public:
  MemoryPool() = default;
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  void* allocate(std::size_t bytes);  // throws Error if there is not enough

 private:
  struct Run {
    void* address;
    std::size_t bytes;
  };
  std::vector<Run> runs_;
};

}  // namespace fastgen
