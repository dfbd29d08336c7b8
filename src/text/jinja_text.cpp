#include "text/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/jinja_limits.h"

namespace fastgen::jinja {

namespace {

void add_range(std::vector<ByteRange>& ranges, ByteRange range) {
  if (range.begin == range.end) return;
  if (!ranges.empty() && ranges.back().end == range.begin)
    ranges.back().end = range.end;
  else
    ranges.push_back(range);
}

// The first range that ends after `pos`.
auto range_after(const std::vector<ByteRange>& ranges, std::size_t pos) {
  return std::upper_bound(ranges.begin(), ranges.end(), pos,
                          [](std::size_t at, const ByteRange& range) { return at < range.end; });
}

char32_t mapped_code_point(char32_t c, Case to) {
  auto code = static_cast<utf8proc_int32_t>(c);
  if (to == Case::kLower) return static_cast<char32_t>(utf8proc_tolower(code));
  return static_cast<char32_t>(to == Case::kUpper ? utf8proc_toupper(code) : utf8proc_totitle(code));
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

Text Text::from_template(std::string bytes) {
  Text text(std::move(bytes));
  add_range(text.trusted, {0, text.size()});
  return text;
}

void Text::append(const Text& other, std::size_t begin, std::size_t end) {
  check_text_size(size() + (end - begin));
  std::size_t base = size();
  for (auto it = range_after(other.trusted, begin); it != other.trusted.end() && it->begin < end; ++it)
    add_range(trusted, {base + std::max(it->begin, begin) - begin, base + std::min(it->end, end) - begin});
  bytes.append(other.bytes, begin, end - begin);
}

void Text::append(std::string_view more, bool is_trusted) {
  check_text_size(size() + more.size());
  if (is_trusted) add_range(trusted, {size(), size() + more.size()});
  bytes.append(more);
}

Text Text::slice(std::size_t begin, std::size_t end) const {
  Text out;
  out.append(*this, begin, std::max(begin, end));
  return out;
}

bool Text::is_trusted(std::size_t begin, std::size_t end) const {
  auto it = range_after(trusted, begin);
  return it != trusted.end() && it->begin <= begin && end <= it->end;
}

char32_t next_code_point(std::string_view s, std::size_t& pos) {
  auto lead = static_cast<unsigned char>(s[pos]);
  if (lead < 0x80) {
    ++pos;
    return lead;
  }
  utf8proc_int32_t code_point = -1;
  auto left = static_cast<utf8proc_ssize_t>(s.size() - pos);
  auto read = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(s.data() + pos), left, &code_point);
  pos += read > 0 ? static_cast<std::size_t>(read) : 1;
  return read > 0 ? static_cast<char32_t>(code_point) : U'\uFFFD';
}

void append_utf8(std::string& out, char32_t code_point) {
  utf8proc_uint8_t buffer[4];
  auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), buffer);
  out.append(reinterpret_cast<const char*>(buffer), static_cast<std::size_t>(size));
}

std::size_t code_points(std::string_view s) {
  return static_cast<std::size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return !is_continuation(c); }));
}

std::size_t byte_offset(std::string_view s, std::size_t index) {
  std::size_t pos = 0;
  while (pos < s.size()) {
    if (!is_continuation(s[pos]) && index-- == 0) return pos;
    ++pos;
  }
  return pos;
}

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

ByteRange stripped(std::string_view s, bool left, bool right) {
  std::size_t begin = 0;
  std::size_t end = s.size();
  while (left && begin < end) {
    std::size_t pos = begin;
    if (!is_space(next_code_point(s, pos))) break;
    begin = pos;
  }
  while (right && begin < end) {
    std::size_t last = end - 1;
    while (last > begin && is_continuation(s[last])) --last;
    std::size_t pos = last;
    if (!is_space(next_code_point(s, pos))) break;
    end = last;
  }
  return {begin, end};
}

void append_mapped(Text& out, const Text& text, std::size_t begin, std::size_t end, Case to) {
  for (std::size_t pos = begin; pos < end;) {
    std::size_t from = pos;
    char32_t c = next_code_point(text.bytes, pos);
    bool mark = text.is_trusted(from, pos);
    if (to != Case::kLower && c == U'ß') {
      out.append(to == Case::kUpper ? "SS" : "Ss", mark);  // the one character of daily use that grows
      continue;
    }
    std::string mapped;
    append_utf8(mapped, mapped_code_point(c, to));
    out.append(mapped, mark);
  }
}

Text map_case(const Text& text, Case to) {
  Text out;
  append_mapped(out, text, 0, text.size(), to);
  return out;
}

}  // namespace fastgen::jinja
