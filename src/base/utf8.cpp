#include "base/utf8.h"

#include <cstdint>
#include <cstring>

namespace fastgen {

namespace {

bool in_range(unsigned char c, unsigned char low, unsigned char high) { return c >= low && c <= high; }

// Past the ASCII at `pos`, eight bytes at a time: most text is that and nothing else.
std::size_t skip_ascii(std::string_view text, std::size_t pos) {
  for (std::uint64_t bytes = 0; pos + sizeof bytes <= text.size(); pos += sizeof bytes) {
    std::memcpy(&bytes, text.data() + pos, sizeof bytes);
    if ((bytes & 0x8080808080808080u) != 0) break;
  }
  while (pos < text.size() && static_cast<unsigned char>(text[pos]) < 0x80) ++pos;
  return pos;
}

}  // namespace

std::size_t utf8_sequence_bytes(std::string_view text, std::size_t pos) {
  auto byte = [&](std::size_t i) { return pos + i < text.size() ? static_cast<unsigned char>(text[pos + i]) : 0; };
  const auto lead = static_cast<unsigned char>(text[pos]);
  if (lead < 0x80) return 1;
  if (in_range(lead, 0xC2, 0xDF)) return in_range(byte(1), 0x80, 0xBF) ? 2 : 0;
  // The second byte's range keeps out overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (!in_range(byte(1), low, high) || !in_range(byte(2), 0x80, 0xBF)) return 0;
  if (in_range(lead, 0xE0, 0xEF)) return 3;
  return in_range(lead, 0xF0, 0xF4) && in_range(byte(3), 0x80, 0xBF) ? 4 : 0;
}

bool is_utf8(std::string_view text) {
  for (std::size_t pos = skip_ascii(text, 0); pos < text.size(); pos = skip_ascii(text, pos)) {
    const std::size_t num_bytes = utf8_sequence_bytes(text, pos);
    if (num_bytes == 0) return false;
    pos += num_bytes;
  }
  return true;
}

}  // namespace fastgen
