// The part of sentencepiece's model file that a tokenizer is made of (format: google/sentencepiece, sentencepiece_model.proto).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fastgen {

// Views into the file's bytes.
struct SentencePieceFile {
  enum class Kind { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string_view name;
    float score = 0;
    Kind kind = Kind::kNormal;
  };
  std::vector<Piece> pieces;  // by id
  bool is_bpe = false;        // else unigram, words or characters
  bool byte_fallback = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool has_charsmap = false;  // text is normalized, by NFKC for example
};

// Throws Error that begins with `name`. Every length is checked against the bytes there are.
SentencePieceFile read_sentencepiece_file(std::string_view bytes, std::string_view name);

}  // namespace fastgen
