// Which algorithm won for which product, kept in a file of the user's cache folder so that a second start need not time
// them again. Host code that knows nothing of cuBLASLt: an algorithm is its 64 opaque bytes.
//
//   fastgen products 1 | NVIDIA H200 | 132 SMs | cuBLASLt 130200 | driver 13000      the key: for another the file is not read
//   bfloat16 float32 4096 14336 1 256 0000000000000042 ...                           operands, result, N, K, adds, rows, 8 words
//   end 1 8c5f...                                                                    how many lines, and the hash of what is above
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "backend/tensor.h"

namespace fastgen {

// out [T, N] = (or +=) x [T, K] w [N, K]^T. x and w of one dtype.
struct ProductShape {
  DType dtype = DType::kBF16, out_dtype = DType::kF32;
  std::int64_t out_dim = 0, in_dim = 0;
  bool add = false;

  bool operator<(const ProductShape& other) const {
    const auto fields = [](const ProductShape& s) { return std::tuple(s.dtype, s.out_dtype, s.out_dim, s.in_dim, s.add); };
    return fields(*this) < fields(other);
  }
};

using AlgorithmWords = std::array<std::uint64_t, 8>;
// By shape and bucket of rows.
using AlgorithmTable = std::map<std::pair<ProductShape, std::int64_t>, AlgorithmWords>;

std::string algorithm_text(const std::string& key, const AlgorithmTable& table);
// Nothing if the text is for another key, cut short or changed anywhere.
std::optional<AlgorithmTable> parse_algorithms(const std::string& text, const std::string& key);

// The file for a key in `folder`; its name is the key's hash.
std::filesystem::path algorithm_file(const std::filesystem::path& folder, const std::string& key);
// An absent, unreadable or corrupt file is an empty table: it is only a cache.
AlgorithmTable load_algorithms(const std::filesystem::path& file, const std::string& key);
// Written beside and renamed, so that no reader sees half a file. False if that fails, which costs time at the next start and
// nothing else.
bool save_algorithms(const std::filesystem::path& file, const std::string& key, const AlgorithmTable& table);

}  // namespace fastgen
