// The pre-tokenizer of tokenizer.json: cuts normalized text into the words that BPE then merges, each alone.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "text/json_part.h"
#include "text/marked_piece.h"

namespace fastgen {

// What BPE sees as one text. Byte-level words hold the raw bytes, not the printable alphabet of
// tokenizer.json.
struct Word {
  std::string_view text;
  bool at_start = false;  // begins where the whole input begins
};

// Const after construction and safe to share.
class PreTokenizer {
 public:
  class Step {
   public:
    virtual ~Step() = default;
    // Appends the parts of `in` to `out`, none empty. Rewritten text goes to the arena.
    virtual void split(const Word& in, std::vector<Word>& out, TextArena& arena) const = 0;
  };

  PreTokenizer() = default;  // one word
  // Throws Error naming a type or option that is not supported.
  explicit PreTokenizer(const JsonPart& config);

  bool byte_level() const { return byte_level_; }

  // Replaces `words` by the words of `text` (valid UTF-8). `scratch` is only memory.
  void split(const Word& text, std::vector<Word>& words, std::vector<Word>& scratch, TextArena& arena) const;

 private:
  void add(const JsonPart& config);
  void add_byte_level(const JsonPart& config);

  std::vector<std::unique_ptr<const Step>> steps_;
  bool byte_level_ = false;
};

}  // namespace fastgen
