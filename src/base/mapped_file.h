// A file's bytes as read-only memory. The file must not shrink while it is mapped: reading past its new end is a SIGBUS.
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

  // Hints to the kernel, page by page around the range; the range must lie in the file.
  void will_need(std::size_t offset, std::size_t size) const;  // read ahead
  void done_with(std::size_t offset, std::size_t size) const;  // drop these pages from this process

 private:
  void advise(std::size_t offset, std::size_t size, int advice) const;
  void unmap();

  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace fastgen
