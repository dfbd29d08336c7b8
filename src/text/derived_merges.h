// Merges of vocabularies that come without them: a pair is mergeable where the joined text is a token, the best token first.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_writer.h"

namespace fastgen {

// A token that merging may make.
struct Mergeable {
  std::string_view name;  // valid UTF-8; cut only between characters
  std::int32_t id = 0;
  double priority = 0;  // higher is merged first
};

// Writes "merges" of tokenizer.json's model as an array of pairs, in the order that transformers' converters give them: by priority, of
// one token's ways by the ids of the parts. `parts` may be made of others that no merge makes (single characters).
void write_derived_merges(JsonWriter& json, const std::vector<Mergeable>& tokens, const std::vector<Mergeable>& parts);

}  // namespace fastgen
