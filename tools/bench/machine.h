// Where and when a figure was measured, so that it means something later.
#pragma once

#include <string>

#include "base/json_writer.h"

namespace fastgen::bench {

struct Machine {
  std::string cpu;        // model name, as the kernel gives it
  std::string cpu_flags;  // those that matter to products: avx, fma, amx and their kin; separated by blanks
  int num_cores = 0;      // that this process may use
  double memory_gb = 0;   // 1e9 bytes
  std::string kernel;
};

Machine this_machine();
std::string utc_now();  // "2024-07-26T12:00:00Z"
// The commit that the program was built from, "-dirty" behind it if tracked files had changed; "unknown" outside a repository.
const char* commit();

// The fields of `machine`, as one JSON object.
void write_machine(JsonWriter& json, const Machine& machine);
// Into an open object, how every record begins: which benchmark, when, of which commit, how it was called, on what machine.
void write_record_head(JsonWriter& json, const char* benchmark, const std::string& command);

}  // namespace fastgen::bench
