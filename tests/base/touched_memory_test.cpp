#include "base/touched_memory.h"

#include <cstdint>
#include <fstream>
#include <limits>

#include <unistd.h>

#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen {
namespace {

// What the process has in memory, not what it was promised.
std::size_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  std::size_t all = 0, resident = 0;
  in >> all >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

TEST_CASE("touched memory: every page is there, zero, and gone at the end") {
  for (const int num_threads : {1, 3, 64}) {
    CAPTURE(num_threads);
    constexpr std::size_t kBytes = (std::size_t{130} << 20) + 12'345;  // three pieces of many pages, the last one cut
    const std::size_t before = resident_bytes();
    {
      const TouchedMemory memory(kBytes, num_threads);
      CHECK(resident_bytes() + (std::size_t{4} << 20) >= before + kBytes);
      CHECK(memory.bytes() == kBytes);
      CHECK(reinterpret_cast<std::uintptr_t>(memory.data()) % 4096 == 0);
      std::size_t num_set = 0;
      for (std::size_t i = 0; i < kBytes; i += 509) num_set += memory.data()[i] != 0;
      CHECK(num_set == 0);
      memory.data()[kBytes - 1] = 1;
    }
    CHECK(resident_bytes() <= before + (std::size_t{100} << 20));
  }
  const TouchedMemory little(1, 8);
  CHECK(little.data()[0] == 0);
}

TEST_CASE("touched memory: more than there are addresses is refused with the size") {
  std::string message;
  try {
    TouchedMemory(std::numeric_limits<std::size_t>::max() / 4, 2);
  } catch (const Error& error) {
    message = error.what();
  }
  CAPTURE(message);
  CHECK(message.find("GB of memory: ") != std::string::npos);
}

}  // namespace
}  // namespace fastgen
