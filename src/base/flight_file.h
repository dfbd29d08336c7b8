// The flight recorder into a file when something is wrong: a stall, a failure, a crash.
#pragma once

#include <cstdint>
#include <string>

namespace fastgen {

// The last ten seconds into $FG_PROFILE_DIR (the working directory); the log says the file's name, which holds `reason`, a word.
// Returns the name; empty if the file cannot be written, or in a build without the profiler. Any thread.
std::string write_flight_file(const char* reason);

// From now on a crash (SIGSEGV and its kin, or an abort, as of a failed FG_CHECK) first writes one. Once, at the program's start;
// does nothing in a sanitizer's build, which has its own report.
void write_flight_file_on_crash();

}  // namespace fastgen
