// The normalizer of tokenizer.json: what is done to text before it is cut into words.
#pragma once

#include <memory>
#include <vector>

#include "text/json_part.h"
#include "text/marked_piece.h"

namespace fastgen {

// Const after construction and safe to share.
class Normalizer {
 public:
  class Step {
   public:
    virtual ~Step() = default;
    virtual MarkedPiece apply(const MarkedPiece& piece, TextArena& arena) const = 0;
  };

  Normalizer() = default;  // leaves text as it is
  // Throws Error naming a type or option that is not supported.
  explicit Normalizer(const JsonPart& config);

  // `piece` is valid UTF-8. What comes back may be a view of the same text.
  MarkedPiece apply(MarkedPiece piece, TextArena& arena) const {
    for (const auto& step : steps_) piece = step->apply(piece, arena);
    return piece;
  }

 private:
  void add(const JsonPart& config);
  std::vector<std::unique_ptr<const Step>> steps_;
};

}  // namespace fastgen
