// Strings and ids: flat tables that load fast and look up with one probe or two.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fastgen/types.h"

namespace fastgen {

// Maps ids to strings and, where asked, strings to ids. Ids may have gaps.
class StringTable {
 public:
  StringTable() = default;
  // entries[id] is the string of id; one without data() is a gap. Equal strings: the larger id is found.
  explicit StringTable(const std::vector<std::string_view>& entries);

  std::int32_t size() const { return static_cast<std::int32_t>(begin_.size()) - 1; }  // largest id + 1
  std::string_view at(TokenId id) const {
    return std::string_view(bytes_).substr(begin_[id], begin_[id + 1] - begin_[id]);
  }
  bool has(TokenId id) const { return id >= 0 && id < size() && present_[id] != 0; }
  std::optional<TokenId> find(std::string_view text) const;

 private:
  // Open addressing, a power of two, at most half full; `tag` is the hash's upper half, id -1 is empty.
  struct Slot {
    std::uint32_t tag = 0;
    TokenId id = -1;
  };
  void insert(std::string_view text, TokenId id);

  std::string bytes_;
  std::vector<std::uint32_t> begin_ = {0};  // [size + 1] into bytes_
  std::vector<std::uint8_t> present_;       // [size] 0 for a gap
  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
};

// GPT-2's printable alphabet for bytes, in which byte-level vocabularies are written ("Ġthe" is " the").
// The character that stands for a byte.
char32_t byte_to_char(unsigned char byte);
// The bytes that a name stands for; nothing if one of its characters (valid UTF-8) is not of the alphabet.
bool append_name_bytes(std::string& out, std::string_view name);

}  // namespace fastgen
