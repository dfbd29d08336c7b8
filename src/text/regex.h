// Regular expressions of tokenizer.json: Oniguruma's (Ruby) dialect, carried out by PCRE2 with JIT.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "fastgen/text.h"
#include "text/json_part.h"

namespace fastgen {

// Const after construction; may be used from several threads, each with its own Search.
class Regex {
 public:
  // `where` stands in error messages. Throws Error on a syntax error and on constructs that mean another
  // thing in the two dialects and are not translated (\w, \b, \h, nested classes, ...).
  Regex(std::string_view pattern, std::string_view where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // Walks over the matches in one text (valid UTF-8), as find_iter does in Rust: not overlapping, left to
  // right; an empty match right after another match is left out. Stays on the thread that made it.
  class Search {
   public:
    Search(const Regex& regex, std::string_view text);
    ~Search();
    Search(const Search&) = delete;
    Search& operator=(const Search&) = delete;
    std::optional<ByteRange> next();  // throws Error where PCRE2's limits are hit

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Compiled;
  struct Workplace;
  std::unique_ptr<Compiled> compiled_;
};

// Of a tokenizer.json, which the error for a bad pattern then names. `where` stands in errors about texts, which clients see.
Regex read_regex(const JsonPart& pattern, std::string_view where);

// The pattern in PCRE2's dialect (for tests).
std::string translate_regex(std::string_view pattern, std::string_view where);

}  // namespace fastgen
