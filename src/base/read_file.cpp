#include "base/read_file.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen {

std::string read_file(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::string bytes;
  std::array<char, 1 << 16> buffer{};
  while (in.read(buffer.data(), buffer.size()), in.gcount() > 0) bytes.append(buffer.data(), static_cast<std::size_t>(in.gcount()));
  // A folder opens like a file, and fails at the first read.
  if (!in.eof() || in.bad()) throw Error(fmt::format("{}: cannot be read: {}", path.string(), std::strerror(errno)));
  return bytes;
}

}  // namespace fastgen
