// A file's bytes as read-only memory, and the open file itself for those who would rather read. The file must not shrink while it is mapped: reading past its new end is a SIGBUS.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace fastgen {

class MappedFile {
 public:
  MappedFile() = default;
  // Throws Error naming the file if it cannot be opened or mapped, or is no regular file. An empty file has no bytes.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }  // open as long as this lives; -1 for none

  // A hint to the kernel, page by page around the range, which must lie in the file: drop these pages from this process.
  void done_with(std::size_t offset, std::size_t size) const;

 private:
  void close();

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::span<const std::byte> bytes_;
};

}  // namespace fastgen
