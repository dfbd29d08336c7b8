#include "base/read_file.h"

#include <doctest/doctest.h>

#include <fstream>

#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen {

namespace {

std::string error_of(const std::filesystem::path& path) {
  try {
    read_file(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a file is read whole, whatever its size and bytes") {
  test::TempDir dir;
  for (std::size_t size : {0, 1, 65535, 65536, 65537, 200000}) {
    std::string bytes(size, '\0');
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31 % 256);
    std::ofstream(dir.path() / "file", std::ios::binary) << bytes;
    CHECK(read_file(dir.path() / "file") == bytes);
  }
}

TEST_CASE("what cannot be read is named with the reason") {
  test::TempDir dir;
  CHECK(error_of(dir.path() / "none") == (dir.path() / "none").string() + ": cannot be read: No such file or directory");
  CHECK(error_of(dir.path()) == dir.path().string() + ": cannot be read: Is a directory");
}

}  // namespace fastgen
