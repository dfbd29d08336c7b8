// Memory of one GPU within a budget, and pinned host memory beside it. Owned until the end. Engine thread only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "base/touched_memory.h"

namespace fastgen {

class DeviceMemory {
 public:
  // budget_gb > 0: all that this process may take, 1e9 bytes; else `fraction` of the card, 0: 0.9. Throws Error if the card has less.
  DeviceMemory(double budget_gb, double fraction);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // What is left of the budget, or of the card if that is less. What libraries take for themselves counts too.
  std::size_t free_bytes() const;
  // Throws Error naming the flag if there is not enough. Not zero-filled.
  void* allocate(std::size_t bytes);
  void* allocate_pinned(std::size_t bytes);  // zero-filled

 private:
  void* allocate_registered(std::size_t bytes);

  std::size_t total_bytes_ = 0;
  std::size_t others_bytes_ = 0;  // other processes' at the start
  std::size_t budget_bytes_ = 0;
  std::vector<void*> device_, pinned_;
  std::vector<std::unique_ptr<TouchedMemory>> registered_;  // pinned too, the large ones
};

}  // namespace fastgen
