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

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) close(fd);
  }
};

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  throw Error(fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(errno)));
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  FileDescriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail(path, "open");
  struct stat info {};
  if (fstat(file.fd, &info) != 0) fail(path, "stat");
  if (!S_ISREG(info.st_mode)) throw Error(fmt::format("{}: not a regular file", path.string()));
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) return;  // mmap refuses a length of 0
  void* start = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (start == MAP_FAILED) fail(path, "map");
  bytes_ = {static_cast<const std::byte*>(start), size};
}

MappedFile::~MappedFile() { unmap(); }

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this == &other) return *this;
  unmap();
  path_ = std::move(other.path_);
  bytes_ = std::exchange(other.bytes_, {});
  return *this;
}

void MappedFile::will_need(std::size_t offset, std::size_t size) const { advise(offset, size, MADV_WILLNEED); }

void MappedFile::done_with(std::size_t offset, std::size_t size) const { advise(offset, size, MADV_DONTNEED); }

void MappedFile::advise(std::size_t offset, std::size_t size, int advice) const {
  FG_CHECK(offset <= bytes_.size() && size <= bytes_.size() - offset, offset, size, bytes_.size());
  if (size == 0) return;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t first = offset / page * page;
  // A hint that the kernel refuses changes nothing, so that its answer does not matter.
  madvise(const_cast<std::byte*>(bytes_.data()) + first, offset + size - first, advice);
}

void MappedFile::unmap() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace fastgen
