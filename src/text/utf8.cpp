#include "text/utf8.h"

namespace fastgen {

namespace {

struct Lead {
  std::size_t bytes;                      // length of the character, 0 where no character begins so
  unsigned char low = 0x80, high = 0xbf;  // range of the second byte
};

// Table 3-7 of the Unicode Standard: well-formed byte sequences.
Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xc2) return {0};
  if (byte < 0xe0) return {2};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0};
}

}  // namespace

Utf8Step next_utf8(std::string_view rest) {
  Lead lead = lead_of(static_cast<unsigned char>(rest[0]));
  if (lead.bytes == 0) return {Utf8Step::Kind::kInvalid, 1};
  for (std::size_t i = 1; i < lead.bytes; ++i) {
    if (i == rest.size()) return {Utf8Step::Kind::kIncomplete, i};
    auto byte = static_cast<unsigned char>(rest[i]);
    bool fits = i == 1 ? byte >= lead.low && byte <= lead.high : is_utf8_continuation(rest[i]);
    if (!fits) return {Utf8Step::Kind::kInvalid, i};
  }
  return {Utf8Step::Kind::kChar, lead.bytes};
}

std::string to_valid_utf8(std::string_view text) {
  if (is_utf8(text)) return std::string(text);
  std::string out;
  out.reserve(text.size() + 16);
  for (std::size_t at = 0; at < text.size();) {
    Utf8Step step = next_utf8(text.substr(at));
    out += step.kind == Utf8Step::Kind::kChar ? text.substr(at, step.bytes) : kReplacementChar;
    at += step.bytes;
  }
  return out;
}

void append_utf8(std::string& out, char32_t code) {
  auto put = [&out](char32_t byte) { out += static_cast<char>(byte); };
  auto tail = [&](int shift) { put(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), tail(0);
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), tail(6), tail(0);
  } else {
    put(0xf0 | code >> 18), tail(12), tail(6), tail(0);
  }
}

}  // namespace fastgen
