// How long the step that the device has begun will take at least, guessed from the last ones of its kind.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace fastgen {

class StepPace {
 public:
  void add(bool is_graph, std::uint64_t num_tokens, std::uint64_t us) {
    Kind& kind = kinds_[is_graph];
    kind.steps[kind.count++ % kKept] = {num_tokens, us};
  }
  // As long as the shortest of the last few, each taken in proportion if it had more tokens: with more a step takes no less. 0: there was
  // none yet. The shortest, since a chunk far into a long prompt takes longer than one at the beginning of another.
  std::uint64_t at_least(bool is_graph, std::uint64_t num_tokens) const {
    const Kind& kind = kinds_[is_graph];
    std::uint64_t least = kind.count == 0 ? 0 : UINT64_MAX;
    for (std::size_t i = 0; i < std::min(kind.count, kKept); ++i) {
      const Taken& step = kind.steps[i];
      least = std::min(least, num_tokens >= step.num_tokens ? step.us : step.us * num_tokens / step.num_tokens);
    }
    return least;
  }

 private:
  static constexpr std::size_t kKept = 4;
  struct Taken {
    std::uint64_t num_tokens = 0, us = 0;
  };
  struct Kind {
    std::array<Taken, kKept> steps;
    std::size_t count = 0;
  };
  std::array<Kind, 2> kinds_;  // steps whose ops were queued one by one, and replayed ones
};

}  // namespace fastgen
