// The decoder of tokenizer.json, one token at a time: what comes out is certain, whatever ids follow.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_part.h"

namespace fastgen {

// How tokens become text, as plain data.
struct DecoderPlan {
  enum class Bytes {
    kPlain,         // tokens are text
    kByteLevel,     // tokens are in GPT-2's alphabet for bytes
    kByteFallback,  // tokens are text, but for <0x00> .. <0xFF>
  };
  struct Replace {
    std::string from, to;
  };
  Bytes bytes = Bytes::kPlain;
  std::vector<Replace> replaces;      // in each token, in order
  std::string metaspace;              // stands for a space; empty: nothing does
  bool drop_first_metaspace = false;  // all of them in the first token
  std::string strip;                  // up to num_strip of these at the beginning of the text are left out
  std::int64_t num_strip = 0;
  std::string separator;  // between tokens

  DecoderPlan() = default;
  // Throws Error naming a decoder, or an order of decoders, that is not supported.
  explicit DecoderPlan(const JsonPart& config);

 private:
  void add(const JsonPart& config, bool& fused);
  void add_strip(const JsonPart& config, bool fused);
};

// The value of "<0x0A>", or -1.
int byte_token_value(std::string_view name);

struct TokenText {
  std::string text;
  bool is_byte = false;  // kByteFallback: one byte of a character that other tokens complete
};
// What a token adds to the bytes of a text. `first`: it is the text's first token.
TokenText token_text(const DecoderPlan& plan, std::string_view name, bool first);

// Joined output equals Hugging Face's decode of all tokens. Work per token does not grow with the text so
// far.
class Detokenizer {
 public:
  explicit Detokenizer(const DecoderPlan& plan) : plan_(plan), strip_left_(plan.num_strip) {}

  // Appends to `out` the text that is now certain: valid UTF-8, whole characters. Byte tokens in a row (byte
  // fallback) are held until another token comes: one ill-formed byte makes U+FFFD of all of them.
  void push(std::string_view name, std::string& out);
  // Appends the rest. Nothing may follow.
  void finish(std::string& out);

 private:
  void put(std::string_view text, std::string& out);
  void put_bytes(std::string_view bytes, std::string& out);
  void end_byte_run(std::string& out);

  const DecoderPlan& plan_;
  std::string held_;  // kByteLevel: an incomplete character; kByteFallback: a run of byte tokens
  std::int64_t strip_left_;
  bool first_ = true;
};

}  // namespace fastgen
