#include "json_mutator.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace fastgen::fuzz {

namespace {

constexpr std::size_t kMaxDepth = 64;

// What breaks programs: limits of types, other types, and text that is not as it seems.
constexpr std::array<std::string_view, 28> kValues = {
    "null", "true", "false", "0", "1", "-1", "2", "0.5", "-0.0", "1e-300", "1e308", "1e400", "255", "2147483647", "2147483648", "-2147483649",
    "9007199254740993", "18446744073709551615", "9223372036854775808", "\"\"", "\"x\"", "\"1\"", R"("\u0000")", R"("\ud83d\ude00")", R"("\ud83d")",
    "\"<|im_end|>\"", "[]", "{}"};

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  std::vector<JsonSpan> spans() {
    if (!value(false, 0)) return {};
    skip_space();
    if (pos_ != text_.size()) spans_.clear();
    return std::move(spans_);
  }

 private:
  void skip_space() {
    while (pos_ < text_.size() && std::memchr(" \t\r\n", text_[pos_], 4) != nullptr) ++pos_;
  }

  bool take(char c) {
    skip_space();
    if (pos_ >= text_.size() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }

  bool value(bool is_key, std::size_t depth) {
    skip_space();
    if (pos_ >= text_.size() || depth > kMaxDepth) return false;
    const std::size_t idx = spans_.size();
    spans_.push_back({pos_, pos_, is_key});
    const char c = text_[pos_];
    const bool is_good = c == '"' ? string() : is_key ? false : c == '{' ? members('}', depth) : c == '[' ? members(']', depth) : word();
    spans_[idx].end = pos_;
    return is_good;
  }

  bool string() {
    for (++pos_; pos_ < text_.size(); ++pos_) {
      if (text_[pos_] == '\\') {
        ++pos_;
      } else if (text_[pos_] == '"') {
        ++pos_;
        return true;
      }
    }
    return false;
  }

  bool word() {
    const std::size_t begin = pos_;
    while (pos_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[pos_])) != 0 || std::memchr("+-.", text_[pos_], 3) != nullptr)) ++pos_;
    return pos_ > begin;
  }

  bool members(char close, std::size_t depth) {
    ++pos_;
    if (take(close)) return true;
    do {
      if (close == '}' && !(value(true, depth + 1) && take(':'))) return false;
      if (!value(false, depth + 1)) return false;
    } while (take(','));
    return take(close);
  }

  std::string_view text_;
  std::size_t pos_ = 0;
  std::vector<JsonSpan> spans_;
};

std::string_view at(std::string_view text, const JsonSpan& span) { return text.substr(span.begin, span.end - span.begin); }

std::string with(std::string_view text, std::size_t begin, std::size_t end, std::string_view put) {
  return std::string(text.substr(0, begin)) + std::string(put) + std::string(text.substr(end));
}

// What is between quotes, changed byte by byte; quotes and what is no text are left out, so that it stays a string.
std::string mutate_string(std::string_view quoted, std::size_t seed) {
  std::string inner(quoted.substr(1, quoted.size() - 2));
  const std::size_t size = inner.size();
  inner.resize(size + 8 + seed % 8);
  inner.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(inner.data()), size, inner.size()));
  std::erase_if(inner, [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20; });
  return '"' + inner + '"';
}

// From the start of `span` to where the next member or element starts: what goes with it when it is dropped or doubled. For a key, its
// value too.
std::size_t end_of_member(std::string_view text, const std::vector<JsonSpan>& spans, std::size_t idx) {
  const std::size_t end = spans[idx].is_key ? spans[idx + 1].end : spans[idx].end;
  const std::size_t comma = text.find_first_not_of(" \t\r\n", end);
  return comma != text.npos && text[comma] == ',' ? comma + 1 : end;
}

}  // namespace

std::vector<JsonSpan> json_spans(std::string_view text) { return Scanner(text).spans(); }

std::string mutate_json(std::string_view text, std::minstd_rand& random) {
  const std::vector<JsonSpan> spans = json_spans(text);
  if (spans.empty()) return std::string(text);
  const std::size_t idx = random() % spans.size();
  const JsonSpan& span = spans[idx];
  const std::string_view old = at(text, span);
  const JsonSpan& other = spans[random() % spans.size()];
  switch (random() % 7) {
    case 0: return with(text, span.begin, end_of_member(text, spans, idx), "");
    case 1: return with(text, span.begin, span.begin, std::string(text.substr(span.begin, end_of_member(text, spans, idx) - span.begin)) + ",");
    case 2:
      if (other.is_key == span.is_key) return with(text, span.begin, span.end, at(text, other));
      break;
    case 3:
      if (!span.is_key) return with(text, span.begin, span.end, "[" + std::string(old) + "," + std::string(old) + "]");
      break;
    case 4:
      if (!span.is_key) return with(text, span.begin, span.end, R"({"type":)" + std::string(old) + "}");
      break;
    default: break;
  }
  if (old.front() == '"' && (span.is_key || random() % 2 == 0)) return with(text, span.begin, span.end, mutate_string(old, random()));
  return span.is_key ? std::string(text) : with(text, span.begin, span.end, kValues[random() % kValues.size()]);
}

}  // namespace fastgen::fuzz

// What is before the first brace (a choice of the target's) and behind the first zero byte is left alone.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned int seed) {
  std::minstd_rand random(seed);
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t begin = std::min(bytes.find('{'), size), end = std::min(bytes.find('\0', begin), size);
  std::string json(bytes.substr(begin, end - begin));
  if (random() % 4 == 0 || fastgen::fuzz::json_spans(json).empty()) return LLVMFuzzerMutate(data, size, max_size);
  for (std::size_t count = 1 + random() % 4; count > 0; --count) json = fastgen::fuzz::mutate_json(json, random);
  const std::string out = std::string(bytes.substr(0, begin)) + json + std::string(bytes.substr(end));
  if (out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, out.data(), out.size());
  return out.size();
}
