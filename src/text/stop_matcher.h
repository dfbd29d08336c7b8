// Finds the first of several strings in text that comes in pieces (Aho and Corasick 1975).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fastgen {

// Not thread-safe.
class StopMatcher {
 public:
  // `stops`: none empty.
  explicit StopMatcher(const std::vector<std::string>& stops);

  struct Match {
    std::size_t stop_idx = 0;
    std::size_t end = 0;  // just behind the match, in the piece that completed it
  };
  // Reads on until a string ends: the one that ends first, and of those that end together the longest.
  // Nothing may be read after a match.
  std::optional<Match> read(std::string_view piece);
  // How many of the last bytes read might begin a string that later text completes.
  std::size_t num_open_bytes() const { return nodes_[state_].depth; }

 private:
  struct Node {
    std::int32_t child = -1, sibling = -1;  // the trie's edges
    std::int32_t fallback = 0;              // node of the longest proper suffix
    std::int32_t stop_idx = -1;             // longest string that ends here
    std::uint32_t depth = 0;
    char byte = 0;
  };
  std::int32_t child_of(std::int32_t node, char byte) const;
  std::int32_t step(std::int32_t node, char byte) const;
  void insert(std::string_view stop, std::int32_t stop_idx);
  void link();

  std::vector<Node> nodes_;
  std::int32_t state_ = 0;
};

}  // namespace fastgen
