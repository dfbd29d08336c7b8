// Mutations of JSON that leave it JSON. The parser is a library without coverage counters, so a fuzzer that only flips bytes seldom
// gets past it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace fastgen::fuzz {

// Where a value of a JSON text stands, the text of a string with its quotes.
struct JsonSpan {
  std::size_t begin = 0, end = 0;
  bool is_key = false;
};

// All values and keys, outer ones before what is in them; none where `text` is no JSON. Lenient: what only a parser sees may pass.
std::vector<JsonSpan> json_spans(std::string_view text);

// `text` with one value replaced, doubled, dropped, wrapped, or swapped for another of the text's.
std::string mutate_json(std::string_view text, std::minstd_rand& random);

}  // namespace fastgen::fuzz
