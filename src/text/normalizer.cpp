#include "text/normalizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>

#include "base/check.h"
#include "fastgen/error.h"
#include "text/char_class.h"
#include "text/regex.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

class PrependStep : public Normalizer::Step {
 public:
  explicit PrependStep(std::string_view prefix) : prefix_(prefix) {}
  MarkedPiece apply(const MarkedPiece& piece, TextArena& arena) const override {
    if (piece.text.empty()) return piece;
    PieceRewriter out(piece);
    out.put(0, 0, prefix_);
    out.keep(0, piece.text.size());
    return out.finish(arena);
  }

 private:
  std::string prefix_;
};

class ReplaceStringStep : public Normalizer::Step {
 public:
  ReplaceStringStep(std::string_view from, std::string_view to) : from_(from), to_(to) {}
  MarkedPiece apply(const MarkedPiece& piece, TextArena& arena) const override {
    std::size_t hit = piece.text.find(from_), done = 0;
    if (hit == std::string_view::npos) return piece;
    PieceRewriter out(piece);
    for (; hit != std::string_view::npos; hit = piece.text.find(from_, done)) {
      out.keep(done, hit);
      done = hit + from_.size();
      out.put(hit, done, to_);
    }
    out.keep(done, piece.text.size());
    return out.finish(arena);
  }

 private:
  std::string from_, to_;
};

class ReplaceRegexStep : public Normalizer::Step {
 public:
  ReplaceRegexStep(Regex regex, std::string_view to) : regex_(std::move(regex)), to_(to) {}
  MarkedPiece apply(const MarkedPiece& piece, TextArena& arena) const override {
    PieceRewriter out(piece);
    Regex::Search search(regex_, piece.text);
    std::size_t done = 0;
    while (auto match = search.next()) {
      out.keep(done, match->begin);
      out.put(match->begin, match->end, to_);
      done = match->end;
    }
    out.keep(done, piece.text.size());
    return out.finish(arena);
  }

 private:
  Regex regex_;
  std::string to_;
};

class StripStep : public Normalizer::Step {
 public:
  StripStep(bool left, bool right) : left_(left), right_(right) {}
  MarkedPiece apply(const MarkedPiece& piece, TextArena&) const override {
    std::size_t begin = 0, end = piece.text.size();
    while (left_ && begin < end) {
      Utf8Char c = decode_utf8(&piece.text[begin]);
      if (!is_white_space(c.code)) break;
      begin += c.bytes;
    }
    while (right_ && begin < end) {
      std::size_t last = end - 1;
      while (is_utf8_continuation(piece.text[last])) --last;
      if (!is_white_space(decode_utf8(&piece.text[last]).code)) break;
      end = last;
    }
    MarkedPiece stripped = piece.sub(begin, end);
    stripped.at_start = piece.at_start;
    return stripped;
  }

 private:
  bool left_, right_;
};

class LowercaseStep : public Normalizer::Step {
 public:
  MarkedPiece apply(const MarkedPiece& piece, TextArena& arena) const override {
    PieceRewriter out(piece);
    for (std::size_t at = 0; at < piece.text.size();) {
      Utf8Char c = decode_utf8(&piece.text[at]);
      std::string lower;
      append_utf8(lower, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code))));
      if (c.code == 0x130) lower = "i\xcc\x87";  // the one character whose lower case is two
      out.put(at, at + c.bytes, lower);
      at += c.bytes;
    }
    return out.finish(arena);
  }
};

// Marks and characters with decompositions that Unicode has had only since the tables of Hugging Face's normalizers were made (version 9);
// those take them for letters that combine with nothing. Found by comparing all characters with `tokenizers` 0.23.
struct CodeRange {
  char32_t first, last;
};
constexpr CodeRange kUnknownToHuggingFace[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},
    {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},
    {0x10781, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

bool is_unknown_to_hugging_face(char32_t code) {
  const auto range = std::ranges::lower_bound(kUnknownToHuggingFace, code, {}, &CodeRange::last);
  return range != std::end(kUnknownToHuggingFace) && code >= range->first;
}

// NFC, NFD, NFKC, NFKD (Unicode Standard Annex 15).
class UnicodeStep : public Normalizer::Step {
 public:
  UnicodeStep(bool compose, bool compat)
      : options_(static_cast<utf8proc_option_t>(UTF8PROC_STABLE |
                                                (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                                                (compat ? UTF8PROC_COMPAT : 0))),
        // NFC leaves all below U+0300 alone unless something from there on follows; the other forms only
        // ASCII.
        first_lead_(compose && !compat ? 0xcc : 0x80) {}

  MarkedPiece apply(const MarkedPiece& piece, TextArena& arena) const override {
    std::string_view text = piece.text;
    std::size_t run = find_active(text, 0);
    if (run == text.size()) return piece;
    PieceRewriter out(piece);
    std::size_t done = 0;
    while (run < text.size()) {
      // The character before a run may be composed with it.
      std::size_t begin = run > done ? run - 1 : run;
      while (begin > done && is_utf8_continuation(text[begin])) --begin;
      std::size_t end = find_plain(text, run);
      out.keep(done, begin);
      out.put(begin, end, normalized(text.substr(begin, end - begin)));
      done = end;
      run = find_active(text, end);
    }
    out.keep(done, text.size());
    return out.finish(arena);
  }

 private:
  bool active(char c) const { return static_cast<unsigned char>(c) >= first_lead_; }
  std::size_t find_active(std::string_view text, std::size_t at) const {
    while (at < text.size() && !active(text[at])) ++at;
    return at;
  }
  std::size_t find_plain(std::string_view text, std::size_t at) const {
    while (at < text.size() && (active(text[at]) || is_utf8_continuation(text[at]))) ++at;
    return at;
  }

  std::string normalized(std::string_view text) const {
    std::string out;
    out.reserve(text.size() + 8);
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      const Utf8Char c = decode_utf8(&text[at]);
      if (is_unknown_to_hugging_face(c.code)) {
        append_normalized(out, text.substr(done, at - done));
        done = at + c.bytes;
        out += text.substr(at, c.bytes);
      }
      at += c.bytes;
    }
    append_normalized(out, text.substr(done));
    return out;
  }

  // utf8proc's own reordering of marks is quadratic in their number, so that is done here.
  void append_normalized(std::string& out, std::string_view text) const {
    std::vector<utf8proc_int32_t> codes;
    codes.reserve(text.size());
    int boundary_class = 0;
    for (std::size_t at = 0; at < text.size();) {
      Utf8Char c = decode_utf8(&text[at]);
      utf8proc_int32_t parts[32];  // the longest decomposition is 18
      auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.code), parts, 32, options_,
                                           &boundary_class);
      FG_CHECK(count >= 0 && count <= 32, count);
      codes.insert(codes.end(), parts, parts + count);
      at += c.bytes;
    }
    sort_marks(codes);
    auto size = utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), options_);
    FG_CHECK(size >= 0, size);
    for (utf8proc_ssize_t i = 0; i < size; ++i) append_utf8(out, static_cast<char32_t>(codes[i]));
  }

  static void sort_marks(std::vector<utf8proc_int32_t>& codes) {
    auto order = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
    for (auto begin = codes.begin(); begin != codes.end();) {
      begin = std::find_if(begin, codes.end(), [&](auto code) { return order(code) != 0; });
      auto end = std::find_if(begin, codes.end(), [&](auto code) { return order(code) == 0; });
      std::stable_sort(begin, end, [&](auto a, auto b) { return order(a) < order(b); });
      begin = end;
    }
  }

  utf8proc_option_t options_;
  unsigned char first_lead_;
};

std::unique_ptr<const Normalizer::Step> make_replace(const JsonPart& config) {
  JsonPart pattern = config.at("pattern");
  std::string_view to = config.at("content").string();
  if (auto regex = pattern.find("Regex")) {
    return std::make_unique<ReplaceRegexStep>(read_regex(*regex, "normalizer Replace"), to);
  }
  std::string_view from = pattern.at("String").string();
  if (from.empty()) pattern.fail("must not be empty");
  return std::make_unique<ReplaceStringStep>(from, to);
}

}  // namespace

Normalizer::Normalizer(const JsonPart& config) { add(config); }

void Normalizer::add(const JsonPart& config) {
  std::string_view type = config.at("type").string();
  if (type == "Sequence") {
    for (const JsonPart& part : config.at("normalizers").items()) add(part);
  } else if (type == "Prepend") {
    steps_.push_back(std::make_unique<PrependStep>(config.at("prepend").string()));
  } else if (type == "Replace") {
    steps_.push_back(make_replace(config));
  } else if (type == "Strip") {
    steps_.push_back(std::make_unique<StripStep>(config.boolean_or("strip_left", true),
                                                 config.boolean_or("strip_right", true)));
  } else if (type == "Lowercase") {
    steps_.push_back(std::make_unique<LowercaseStep>());
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    steps_.push_back(std::make_unique<UnicodeStep>(type.back() == 'C', type[2] == 'K'));
  } else {
    config.fail(fmt::format("normalizer {} is not supported", type));
  }
}

}  // namespace fastgen
