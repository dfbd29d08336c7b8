// How long the step that the device has begun will take at least, guessed from the last one of its kind.
#pragma once

#include <cstdint>

namespace fastgen {

class StepPace {
 public:
  void add(bool is_graph, std::uint64_t num_tokens, std::uint64_t us) { last_[is_graph] = {num_tokens, us}; }
  // As long as the last, or less in proportion if it has fewer tokens: with more it takes no less. 0: there was none yet.
  std::uint64_t at_least(bool is_graph, std::uint64_t num_tokens) const {
    const Last& last = last_[is_graph];
    return num_tokens >= last.num_tokens ? last.us : last.us * num_tokens / last.num_tokens;
  }

 private:
  struct Last {
    std::uint64_t num_tokens = 0, us = 0;
  };
  Last last_[2];  // of steps whose ops were queued one by one, and of replayed ones
};

}  // namespace fastgen
