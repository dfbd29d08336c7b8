#include "base/mapped_file.h"

#include <unistd.h>

#include <fstream>
#include <string>
#include <utility>

#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST_CASE("a mapped file is the file's bytes, the hint changes nothing") {
  test::TempDir dir;
  const auto path = dir.path() / "data";
  std::string bytes;
  for (int i = 0; i < 20000; ++i) bytes += static_cast<char>(i * 7);
  std::ofstream(path, std::ios::binary) << bytes;

  MappedFile file(path);
  CHECK(file.path() == path);
  CHECK(text_of(file) == bytes);
  std::string read(300, ' ');
  CHECK(pread(file.descriptor(), read.data(), read.size(), 1000) == 300);
  CHECK(read == bytes.substr(1000, 300));
  file.done_with(0, bytes.size());
  file.done_with(bytes.size(), 0);
  CHECK(text_of(file) == bytes);

  MappedFile moved(std::move(file));
  CHECK(text_of(moved) == bytes);
  CHECK(file.bytes().empty());
  CHECK(file.descriptor() == -1);
  MappedFile assigned;
  assigned = std::move(moved);
  CHECK(text_of(assigned) == bytes);
  CHECK(moved.bytes().empty());
}

TEST_CASE("an empty file maps to no bytes") {
  test::TempDir dir;
  std::ofstream(dir.path() / "empty").close();
  CHECK(MappedFile(dir.path() / "empty").bytes().empty());
}

TEST_CASE("what cannot be mapped is named") {
  test::TempDir dir;
  const auto missing = dir.path() / "missing.safetensors";
  CHECK_THROWS_WITH_AS(MappedFile{missing}, (missing.string() + ": cannot open: No such file or directory").c_str(), Error);
  CHECK_THROWS_WITH_AS(MappedFile{dir.path()}, (dir.path().string() + ": not a regular file").c_str(), Error);
}

}  // namespace
}  // namespace fastgen
