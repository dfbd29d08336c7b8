#include "base/mapped_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "fastgen/error.h"

namespace fastgen {

namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  throw Error(fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(errno)));
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  MappedFile file;  // closes what is open if this throws
  file.descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.descriptor_ < 0) fail(path, "open");
  struct stat info {};
  if (fstat(file.descriptor_, &info) != 0) fail(path, "stat");
  if (!S_ISREG(info.st_mode)) throw Error(fmt::format("{}: not a regular file", path.string()));
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size > 0) {  // mmap refuses a length of 0
    void* start = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.descriptor_, 0);
    if (start == MAP_FAILED) fail(path, "map");
    bytes_ = {static_cast<const std::byte*>(start), size};
  }
  std::swap(descriptor_, file.descriptor_);
}

MappedFile::~MappedFile() { close(); }

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this == &other) return *this;
  close();
  path_ = std::move(other.path_);
  descriptor_ = std::exchange(other.descriptor_, -1);
  bytes_ = std::exchange(other.bytes_, {});
  return *this;
}

void MappedFile::done_with(std::size_t offset, std::size_t size) const {
  FG_CHECK(offset <= bytes_.size() && size <= bytes_.size() - offset, offset, size, bytes_.size());
  if (size == 0) return;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t first = offset / page * page;
  // A hint that the kernel refuses changes nothing, so that its answer does not matter.
  madvise(const_cast<std::byte*>(bytes_.data()) + first, offset + size - first, MADV_DONTNEED);
}

void MappedFile::close() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace fastgen
