// What one event of an answer's stream says, for the figures: completions and chats.
#pragma once

#include <cstdint>
#include <string_view>

#include <simdjson.h>

namespace fastgen::bench {

struct ChunkFacts {
  bool has_token = false;  // by the definition of load_figures.h
  bool failed = false;     // an error event, or not JSON
  std::int64_t prompt_tokens = -1, completion_tokens = -1;  // -1: it does not say
};

class ChunkReader {
 public:
  ChunkFacts read(std::string_view data);

 private:
  simdjson::dom::parser parser_;
};

}  // namespace fastgen::bench
