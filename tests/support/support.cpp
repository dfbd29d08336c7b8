#include "support/support.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include <unistd.h>

namespace fastgen::test {

namespace fs = std::filesystem;

namespace {

std::string env(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path source_root() {
  if (std::string dir = env("FG_SOURCE"); !dir.empty()) return dir;
  return FG_SOURCE_ROOT;
}

fs::path cache_folder() {
  if (std::string dir = env("XDG_CACHE_HOME"); !dir.empty()) return dir;
  return fs::path(env("HOME")) / ".cache";
}

}  // namespace

fs::path assets() {
  if (std::string dir = env("FG_ASSETS"); !dir.empty()) return dir;
  return source_root() / ".." / "shared" / "assets";
}

std::optional<fs::path> find_asset(const std::string& relative) {
  fs::path path = assets() / relative;
  if (!fs::exists(path)) return std::nullopt;
  return path;
}

std::optional<fs::path> find_smollm2() {
  fs::path path = env("FG_MODEL").empty() ? cache_folder() / "fastgen" / "SmolLM2-135M-Instruct" : fs::path(env("FG_MODEL"));
  if (!fs::exists(path / "config.json")) return std::nullopt;
  return path;
}

fs::path golden() { return source_root() / "tests" / "golden"; }

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path.string());
  std::stringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

std::uint64_t seed() {
  static const std::uint64_t value = [] {
    std::string given = env("FG_TEST_SEED");
    std::uint64_t s = given.empty() ? (std::uint64_t{std::random_device{}()} << 32 | std::random_device{}())
                                    : std::strtoull(given.c_str(), nullptr, 10);
    std::printf("FG_TEST_SEED=%llu\n", static_cast<unsigned long long>(s));
    return s;
  }();
  return value;
}

void report_skip(const std::string& lacks) {
  const char* name = doctest::getContextOptions()->currentTest->m_name;
  std::printf("SKIPPED: %s: lacks %s\n", name, lacks.c_str());
}

TempDir::TempDir() {
  std::string pattern = (fs::temp_directory_path() / "fastgen-test-XXXXXX").string();
  REQUIRE(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace fastgen::test
