#include "device_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "check.h"

namespace fastgen {

namespace {

constexpr double kDefaultFraction = 0.9;
// A context with the kernels of a few libraries; what the card had in use beyond that when we came is other processes'.
constexpr std::size_t kContextBytesMax = std::size_t{800} << 20;

struct CardMemory {
  std::size_t free = 0, total = 0;
};
CardMemory card_memory() {
  CardMemory card;
  cuda_check(cudaMemGetInfo(&card.free, &card.total), "cudaMemGetInfo");
  return card;
}

// From here on it pays to make the pages by many threads.
constexpr std::size_t kTouchedBytesMin = std::size_t{256} << 20;
constexpr unsigned kTouchThreadsMax = 32;

double gb(std::size_t bytes) { return static_cast<double>(bytes) / 1e9; }

}  // namespace

DeviceMemory::DeviceMemory(double budget_gb, double fraction) {
  const CardMemory card = card_memory();
  total_bytes_ = card.total;
  const std::size_t used = card.total - card.free;
  others_bytes_ = used > kContextBytesMax ? used - kContextBytesMax : 0;
  if (budget_gb * 1e9 > static_cast<double>(total_bytes_))
    throw Error(fmt::format("--gpu-gb {}: the GPU has {:.1f} GB", budget_gb, gb(total_bytes_)));
  if (fraction <= 0) fraction = kDefaultFraction;
  budget_bytes_ = static_cast<std::size_t>(budget_gb > 0 ? budget_gb * 1e9 : fraction * static_cast<double>(total_bytes_));
}

DeviceMemory::~DeviceMemory() {
  for (void* address : device_) cudaFree(address);
  for (void* address : pinned_) cudaFreeHost(address);
  for (const auto& memory : registered_) cudaHostUnregister(memory->data());
}

std::size_t DeviceMemory::free_bytes() const {
  const CardMemory card = card_memory();
  const std::size_t used = card.total - card.free;
  const std::size_t ours = used > others_bytes_ ? used - others_bytes_ : 0;
  return std::min(card.free, budget_bytes_ > ours ? budget_bytes_ - ours : 0);
}

void* DeviceMemory::allocate(std::size_t bytes) {
  void* address = nullptr;
  bytes = std::max<std::size_t>(bytes, 16);
  const std::size_t free = free_bytes();
  if (bytes > free || cudaMalloc(&address, bytes) != cudaSuccess) {
    cudaGetLastError();
    throw Error(fmt::format("GPU memory (--gpu-gb, --gpu-fraction): {:.3f} GB wanted, {:.3f} GB left of the {:.1f} GB to use",
                            gb(bytes), gb(free), gb(budget_bytes_)));
  }
  device_.push_back(address);
  return address;
}

void* DeviceMemory::allocate_pinned(std::size_t bytes) {
  if (bytes >= kTouchedBytesMin) return allocate_registered(bytes);
  void* address = nullptr;
  bytes = std::max<std::size_t>(bytes, 16);
  cuda_check(cudaHostAlloc(&address, bytes, cudaHostAllocDefault), "pinned host memory");
  pinned_.push_back(address);
  std::memset(address, 0, bytes);
  return address;
}

// cudaHostAlloc makes the pages on one thread: with the filling 18 s for 30 GB beside an H200. Pages that are there are only pinned, in one
// piece, since no copy may cross from one registration into the next.
void* DeviceMemory::allocate_registered(std::size_t bytes) {
  const int num_threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kTouchThreadsMax));
  const std::uint64_t start_us = now_us();
  auto memory = std::make_unique<TouchedMemory>(bytes, num_threads);
  const std::uint64_t touched_us = now_us();
  cuda_check(cudaHostRegister(memory->data(), bytes, cudaHostRegisterDefault), fmt::format("pinning {:.2f} GB of host memory", gb(bytes)).c_str());
  log_debug("{:.2f} GB of pinned memory: pages made in {:.3f} s by {} threads, pinned in {:.3f} s", gb(bytes),
            static_cast<double>(touched_us - start_us) * 1e-6, num_threads, static_cast<double>(now_us() - touched_us) * 1e-6);
  registered_.push_back(std::move(memory));
  return registered_.back()->data();
}

}  // namespace fastgen
