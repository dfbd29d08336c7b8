#include "base/touched_memory.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fastgen/error.h"

namespace fastgen {

namespace {

// What a thread takes at a time: small beside what there is, large beside a huge page.
constexpr std::size_t kPieceBytes = std::size_t{64} << 20;

char* map(std::size_t bytes) {
  void* const address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) throw Error(fmt::format("{:.2f} GB of memory: {}", static_cast<double>(bytes) * 1e-9, std::strerror(errno)));
  madvise(address, bytes, MADV_HUGEPAGE);  // only advice
  return static_cast<char*>(address);
}

// The kernel makes a page, of zeros, when it is first written to.
void touch(char* data, std::size_t bytes, int num_threads) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t num_pieces = (bytes + kPieceBytes - 1) / kPieceBytes;
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < num_pieces;) {
      volatile char* const begin = data + piece * kPieceBytes;
      const std::size_t size = std::min(kPieceBytes, bytes - piece * kPieceBytes);
      for (std::size_t i = 0; i < size; i += page) begin[i] = 0;
    }
  };
  std::vector<std::jthread> threads;  // their end orders what they wrote before what the caller does
  for (std::size_t i = 1; i < std::min(num_pieces, static_cast<std::size_t>(num_threads)); ++i) threads.emplace_back(work);
  work();
}

}  // namespace

TouchedMemory::TouchedMemory(std::size_t bytes, int num_threads) : bytes_(bytes), data_(map(bytes)) {
  try {
    touch(data_, bytes_, num_threads);
  } catch (...) {  // there were no more threads to be had
    munmap(data_, bytes_);
    throw;
  }
}

TouchedMemory::~TouchedMemory() { munmap(data_, bytes_); }

}  // namespace fastgen
