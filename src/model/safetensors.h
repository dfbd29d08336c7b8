// Weights on disk: safetensors files, single or sharded, memory-mapped (format: huggingface/safetensors, README "Format").
//
//   | u64 N, little endian | N bytes of JSON | data ...                                     |
//                            {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
//                                              offsets count from the start of data; the tensors tile it without a gap
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/tensor.h"
#include "base/mapped_file.h"

namespace fastgen {

struct StoredTensor {
  std::string name;
  std::string dtype_text;      // as in the file: "BF16"
  std::optional<DType> dtype;  // none: a type that no weight of ours has (integers, float8, ...)
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;  // of its first byte, from the file's start
  std::uint64_t bytes = 0;   // elements * element size
};

// The tensors of one file in the order of their data. `bytes` is the whole file, or its beginning up to the end of the header, of a
// file of `file_bytes`. Every offset is checked against file_bytes. Throws Error that begins with `name` and names the tensor.
std::vector<StoredTensor> parse_safetensors_header(std::span<const std::byte> bytes, std::uint64_t file_bytes,
                                                   std::string_view name);

// All the weights of a model folder. Immutable after opening; any thread may read.
class Checkpoint {
 public:
  // model.safetensors, else the files that model.safetensors.index.json names. Throws Error naming the file.
  static Checkpoint open(const std::filesystem::path& folder);

  struct Entry {
    StoredTensor tensor;
    std::size_t file_idx = 0;
  };
  // By name, sorted.
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }

  const MappedFile& file(const Entry& entry) const { return files_[entry.file_idx]; }
  std::span<const std::byte> bytes(const Entry& entry) const;
  std::uint64_t total_bytes() const { return total_bytes_; }
  // The file to name when a tensor is missing: the single file, or the index.
  const std::filesystem::path& path() const { return path_; }

 private:
  void add_file(const std::filesystem::path& path);
  void add_shards(const std::filesystem::path& index_path);

  std::filesystem::path path_;
  std::vector<MappedFile> files_;
  std::map<std::string, Entry, std::less<>> entries_;
  std::uint64_t total_bytes_ = 0;
};

}  // namespace fastgen
