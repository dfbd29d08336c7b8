#include "bench/machine.h"

#include <sched.h>
#include <sys/utsname.h>

#include <array>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string_view>

namespace fastgen::bench {

namespace {

// The value of the first line "name : value" of a file of /proc; empty if there is none.
std::string proc_value(const char* path, std::string_view name) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(name)) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

bool matters_to_products(std::string_view flag) {
  constexpr std::array kPrefixes = {"avx", "fma", "amx", "f16c", "sse4", "bmi2", "vaes", "gfni"};
  for (std::string_view prefix : kPrefixes) {
    if (flag.starts_with(prefix)) return true;
  }
  return false;
}

std::string cpu_flags() {
  std::istringstream all(proc_value("/proc/cpuinfo", "flags"));
  std::string kept;
  for (std::string flag; all >> flag;) {
    if (matters_to_products(flag)) kept += (kept.empty() ? "" : " ") + flag;
  }
  return kept;
}

int num_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
}

}  // namespace

Machine this_machine() {
  utsname names{};
  uname(&names);
  return {.cpu = proc_value("/proc/cpuinfo", "model name"),
          .cpu_flags = cpu_flags(),
          .num_cores = num_cores(),
          .memory_gb = std::strtod(proc_value("/proc/meminfo", "MemTotal").c_str(), nullptr) * 1024 / 1e9,
          .kernel = names.release};
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

void write_machine(JsonWriter& json, const Machine& machine) {
  json.begin_object()
      .field("cpu", machine.cpu)
      .field("cpu_flags", machine.cpu_flags)
      .field("num_cores", machine.num_cores)
      .field("memory_gb", machine.memory_gb)
      .field("kernel", machine.kernel)
      .end_object();
}

void write_record_head(JsonWriter& json, const char* benchmark, const std::string& command) {
  json.field("benchmark", benchmark).field("date", utc_now()).field("commit", commit()).field("command", command);
  json.key("machine");
  write_machine(json, this_machine());
}

}  // namespace fastgen::bench
