// What every test may need: skipping by name, the optional assets, printed seeds, temporary folders.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <doctest/doctest.h>

namespace fastgen::test {

// The folder of optional assets: $FG_ASSETS, else ../shared/assets beside the source tree.
std::filesystem::path assets();
// assets()/relative if it exists.
std::optional<std::filesystem::path> find_asset(const std::string& relative);
// The converted SmolLM2 folder that scripts/get-model makes ($FG_MODEL, else the user's cache), if it is there.
std::optional<std::filesystem::path> find_smollm2();
// The repository's own tests/golden folder, in $FG_SOURCE (a program may run where it was not built), else where it was built.
std::filesystem::path golden();

std::string read_file(const std::filesystem::path& path);

// $FG_TEST_SEED or a fresh random seed; printed, so that a failure can be repeated.
std::uint64_t seed();

// Says that the running test case lacks something; scripts/test counts it as skipped.
void report_skip(const std::string& lacks);

// A fresh folder, removed with all it holds at the end of the scope.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace fastgen::test

// Leaves the test case, counted as skipped: FG_SKIP("assets/models/qwen3").
#define FG_SKIP(lacks)                    \
  do {                                    \
    ::fastgen::test::report_skip(lacks);  \
    return;                               \
  } while (false)
