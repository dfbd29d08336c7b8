// Memory of the CPU backend: big zero-filled runs, owned until the end.
#pragma once

#include <cstddef>
#include <vector>

namespace fastgen {

// What the machine, or the control group that we run in, may still give.
std::size_t free_memory_bytes();

// Zero-filled runs, aligned to 64 bytes, cut from slabs on huge pages where the kernel has them: with 4 KB pages the
// walks of page tables made decode attention over a paged arena several times slower. All is freed when destroyed.
class MemoryPool {
 public:
  MemoryPool() = default;
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  void* allocate(std::size_t bytes);  // throws Error if there is not enough

 private:
  struct Slab {
    void* address;
    std::size_t bytes;
  };
  std::byte* map_slab(std::size_t bytes);

  std::vector<Slab> slabs_;
  std::byte* next_ = nullptr;  // the rest of the newest small slab
  std::size_t left_bytes_ = 0;
};

}  // namespace fastgen
