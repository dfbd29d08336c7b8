// The echo backend: exact integers instead of a model. Each slot holds a hash of its token and position,
// attend adds up every slot it reads through the block table, and the next token is the published function
// (echo_function.h) of all tokens before it. So anyone can check each token, and a mix-up of sequences,
// blocks or positions changes the text.
//
// It reads no weights: the vocabulary's size comes from OpLimits::vocab. It wants the dims of EchoShape,
// whatever the model; of the model's own config only the vocabulary and the longest context matter. Ops run
// when called.
//
// A row of activations is two 64-bit words in the bytes of EchoShape::kModelDim floats:
//
//   [ kTokenRow | token id ][ hash of the context, from attend on ]      all zero: a padding row
//
// K and V of a slot are one word each, xor kUnwritten: a slot that was never written reads as kUnwritten, and
// zero-filled memory cannot pass for an empty context.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"

namespace fastgen {

struct EchoShape {
  static constexpr std::int32_t kNumLayers = 1;
  static constexpr std::int32_t kModelDim = 4;
  static constexpr std::int32_t kNumHeads = 1;
  static constexpr std::int32_t kNumKvHeads = 1;
  static constexpr std::int32_t kHeadDim = 2;
  static constexpr std::int32_t kFfnDim = 2;
};

std::unique_ptr<Backend> make_echo_backend();

}  // namespace fastgen
