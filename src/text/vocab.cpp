#include "text/vocab.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

// Multiply-fold over eight bytes at a time. Keys come from the model's own file, so floods are no concern.
std::uint64_t hash_bytes(std::string_view text) {
  constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15;
  auto fold = [](std::uint64_t h) { return (h ^ h >> 32) * kOdd; };
  std::uint64_t hash = text.size() * kOdd, part = 0;
  const char* p = text.data();
  std::size_t left = text.size();
  for (; left >= 8; p += 8, left -= 8) {
    std::memcpy(&part, p, 8);
    hash = fold(hash ^ part);
  }
  part = 0;
  if (left > 0) std::memcpy(&part, p, left);
  hash = fold(hash ^ part);
  return hash ^ hash >> 29;
}

// Latin-1's printable characters stand for themselves; the other 68 bytes are U+0100 on, in order.
bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

constexpr int kNumAlphabet = 0x100 + 68;

struct Alphabet {
  std::array<char32_t, 256> of_byte{};
  std::array<std::int16_t, kNumAlphabet> to_byte{};  // -1: not of the alphabet

  Alphabet() {
    to_byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      of_byte[byte] = stands_for_itself(byte) ? byte : next++;
      to_byte[of_byte[byte]] = static_cast<std::int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet value;
  return value;
}

}  // namespace

StringTable::StringTable(const std::vector<std::string_view>& entries) {
  std::size_t num_bytes = 0;
  for (std::string_view entry : entries) num_bytes += entry.size();
  FG_CHECK(num_bytes < UINT32_MAX && entries.size() < INT32_MAX, num_bytes);
  bytes_.reserve(num_bytes);
  begin_.reserve(entries.size() + 1);
  slots_.resize(std::bit_ceil(entries.size() * 2 + 2));
  mask_ = slots_.size() - 1;
  for (std::string_view entry : entries) {
    bytes_ += entry;
    begin_.push_back(static_cast<std::uint32_t>(bytes_.size()));
    present_.push_back(entry.data() != nullptr);
    if (entry.data()) insert(entry, size() - 1);
  }
}

void StringTable::insert(std::string_view text, TokenId id) {
  std::uint64_t hash = hash_bytes(text);
  auto tag = static_cast<std::uint32_t>(hash >> 32);
  std::size_t i = hash & mask_;
  while (slots_[i].id >= 0 && !(slots_[i].tag == tag && at(slots_[i].id) == text)) i = (i + 1) & mask_;
  slots_[i] = {tag, id};
}

std::optional<TokenId> StringTable::find(std::string_view text) const {
  if (slots_.empty()) return std::nullopt;
  std::uint64_t hash = hash_bytes(text);
  auto tag = static_cast<std::uint32_t>(hash >> 32);
  for (std::size_t i = hash & mask_; slots_[i].id >= 0; i = (i + 1) & mask_) {
    if (slots_[i].tag == tag && at(slots_[i].id) == text) return slots_[i].id;
  }
  return std::nullopt;
}

char32_t byte_to_char(unsigned char byte) { return alphabet().of_byte[byte]; }

bool append_name_bytes(std::string& out, std::string_view name) {
  std::size_t before = out.size();
  for (std::size_t at = 0; at < name.size();) {
    Utf8Char c = decode_utf8(name.data() + at);
    int byte = c.code < kNumAlphabet ? alphabet().to_byte[c.code] : -1;
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(byte);
    at += c.bytes;
  }
  return true;
}

}  // namespace fastgen
