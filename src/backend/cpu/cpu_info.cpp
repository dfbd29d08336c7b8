#include "backend/cpu/cpu_info.h"

#include <algorithm>
#include <cstdint>
#include <fstream>

#include <cpuid.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace fastgen {

namespace {

struct Cpuid {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Cpuid cpuid(unsigned leaf, unsigned subleaf) {
  Cpuid r;
  if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) return {};
  return r;
}

// The register state that the kernel saves: bits 5-7 are AVX-512's, 17 and 18 AMX's.
std::uint64_t enabled_state() {
  if (!(cpuid(1, 0).c & (1u << 27))) return 0;
  std::uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

bool has_state(std::uint64_t bits) { return (enabled_state() & bits) == bits; }

// AVX-512 F, DQ, BW and VL, with their state.
bool has_avx512() {
  const unsigned wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
  return (cpuid(7, 0).b & wanted) == wanted && has_state(0xE6);
}

bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

int num_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

bool cpu_has_avx512_bf16() {
  static const bool value = has_avx512() && (cpuid(7, 1).a & (1u << 5)) != 0;
  return value;
}

bool cpu_has_amx_bf16() {
  static const bool value = has_avx512() && (cpuid(7, 0).d & (1u << 22)) != 0 && has_state(0x60000) && may_use_tiles();
  return value;
}

std::string cpu_features_text() {
  if (cpu_has_amx_bf16()) return "AMX BF16";
  if (cpu_has_avx512_bf16()) return "AVX-512 BF16";
  if (has_avx512()) return "AVX-512";
  return cpuid(7, 0).b & (1u << 5) ? "AVX2" : "SSE";
}

}  // namespace fastgen
