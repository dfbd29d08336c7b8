#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <cstdint>

#include "base/check.h"
#include "fastgen/error.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

// \s is White_Space in Oniguruma. PCRE2's \s adds U+180E, so the set is written out.
constexpr std::string_view kSpaceSet = "\\t-\\r\\x{85}\\p{Z}";
constexpr std::size_t kJitStackStartBytes = 32 * 1024, kJitStackMaxBytes = 8 * 1024 * 1024;

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// Rewrites what the two dialects read differently, one escape or bracket at a time.
class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw Error(fmt::format("{}: regex construct {} is not supported", where_, what));
  }

  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  void step() {
    char c = pattern_[at_];
    if (c == '\\') return escape();
    if (in_class_) {
      if (c == '[' && !next_is("[:")) refuse("[ within [...]");
      if (next_is("&&")) refuse("&&");
      if (next_is("[:")) return posix_class();
      if (c == ']' && !class_is_empty_) in_class_ = false;
      class_is_empty_ = class_is_empty_ && c == '^';
    } else if (c == '[') {
      in_class_ = class_is_empty_ = true;
    } else if (next_is("}+")) {
      refuse("}+");  // possessive in PCRE2, a repeated repeat in Ruby
    }
    out_ += c;
    ++at_;
  }

  void braces() {  // of \p{L} and \x{85}
    std::size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos) refuse("{ without }");
    out_ += pattern_.substr(at_, end + 1 - at_);
    at_ = end + 1;
  }

  void posix_class() {
    std::size_t end = pattern_.find(":]", at_);
    if (end == std::string_view::npos) refuse("[: without :]");
    out_ += pattern_.substr(at_, end + 2 - at_);
    at_ = end + 2;
    class_is_empty_ = false;
  }

  void escape() {
    if (at_ + 1 == pattern_.size()) refuse("\\ at the end");
    char c = pattern_[at_ + 1];
    static constexpr std::string_view kDifferent = "wWbBhHRXKGgkQEyYO";
    if (kDifferent.find(c) != std::string_view::npos) refuse(fmt::format("\\{}", c));
    if (c == 'S' && in_class_) refuse("\\S within [...]");
    if (c == 's') {
      out_ += in_class_ ? std::string(kSpaceSet) : fmt::format("[{}]", kSpaceSet);
    } else if (c == 'S') {
      out_ += fmt::format("[^{}]", kSpaceSet);
    } else {
      out_ += pattern_.substr(at_, 2);
    }
    at_ += 2;
    if ((c == 'p' || c == 'P' || c == 'x') && next_is("{")) braces();
    class_is_empty_ = false;
  }

  std::string_view pattern_, where_;
  std::string out_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  bool class_is_empty_ = false;  // a ] that comes first is a literal
};

}  // namespace

std::string translate_regex(std::string_view pattern, std::string_view where) {
  return Translator(pattern, where).run();
}

struct Regex::Compiled {
  pcre2_code* code = nullptr;
  std::string where;
  ~Compiled() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern, std::string_view where) : compiled_(std::make_unique<Compiled>()) {
  compiled_->where = where;
  std::string translated = translate_regex(pattern, where);
  int code = 0;
  PCRE2_SIZE offset = 0;
  // Ruby's ^ and $ are those of lines.
  constexpr std::uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  compiled_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                  kOptions, &code, &offset, nullptr);
  if (!compiled_->code) throw Error(fmt::format("{}: regex: {} at {}", where, message_of(code), offset));
  pcre2_jit_compile(compiled_->code, PCRE2_JIT_COMPLETE);  // without JIT it is only slower
}

Regex read_regex(const JsonPart& pattern, std::string_view where) {
  try {
    return Regex(pattern.string(), where);
  } catch (const Error& error) {
    pattern.fail(error.what());
  }
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

// Where compiled patterns run. One per thread, since mapping one for each word of a text cost more than the words' matches.
struct Regex::Workplace {
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kJitStackStartBytes, kJitStackMaxBytes, nullptr);

  Workplace() { pcre2_jit_stack_assign(context, nullptr, stack); }
  ~Workplace() {
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  static Workplace& of_this_thread() {
    thread_local Workplace workplace;
    return workplace;
  }
};

struct Regex::Search::State {
  const Compiled& compiled;
  std::string_view text;
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(compiled.code, nullptr);
  pcre2_match_context* context = Workplace::of_this_thread().context;
  std::size_t at = 0;
  std::optional<std::size_t> last_end;

  State(const Compiled& c, std::string_view t) : compiled(c), text(t) {}
  ~State() { pcre2_match_data_free(data); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Regex::Search::Search(const Regex& regex, std::string_view text)
    : state_(std::make_unique<State>(*regex.compiled_, text)) {}
Regex::Search::~Search() = default;

std::optional<ByteRange> Regex::Search::next() {
  State& s = *state_;
  while (s.at <= s.text.size()) {
    int rc = pcre2_match(s.compiled.code, reinterpret_cast<PCRE2_SPTR>(s.text.data()), s.text.size(), s.at,
                         PCRE2_NO_UTF_CHECK, s.data, s.context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) throw Error(fmt::format("{}: regex on this text: {}", s.compiled.where, message_of(rc)));
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(s.data);
    ByteRange match{found[0], found[1]};
    // \K and lookbehind could move the start; refusing \K leaves begin <= end.
    FG_CHECK(match.begin <= match.end && match.begin >= s.at, match.begin, match.end, s.at);
    bool repeats = match.begin == match.end && s.last_end == match.end;
    s.at = match.end;
    if (match.begin == match.end)
      s.at += match.end < s.text.size() ? decode_utf8(&s.text[match.end]).bytes : 1;
    if (repeats) continue;
    s.last_end = match.end;
    return match;
  }
  s.at = s.text.size() + 1;
  return std::nullopt;
}

}  // namespace fastgen
