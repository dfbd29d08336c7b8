#include "text/stop_matcher.h"

#include "base/check.h"

namespace fastgen {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) : nodes_(1) {
  for (std::size_t i = 0; i < stops.size(); ++i) insert(stops[i], static_cast<std::int32_t>(i));
  link();
}

void StopMatcher::insert(std::string_view stop, std::int32_t stop_idx) {
  FG_CHECK(!stop.empty(), stop_idx);
  std::int32_t node = 0;
  for (char byte : stop) {
    std::int32_t next = child_of(node, byte);
    if (next < 0) {
      next = static_cast<std::int32_t>(nodes_.size());
      nodes_.push_back({.sibling = nodes_[node].child, .depth = nodes_[node].depth + 1, .byte = byte});
      nodes_[node].child = next;
    }
    node = next;
  }
  if (nodes_[node].stop_idx < 0) nodes_[node].stop_idx = stop_idx;  // of equal strings the first
}

// Breadth first, so that a node's suffixes, being shorter, are linked before it.
void StopMatcher::link() {
  std::vector<std::int32_t> queue = {0};
  for (std::size_t i = 0; i < queue.size(); ++i) {
    std::int32_t node = queue[i];
    for (std::int32_t child = nodes_[node].child; child >= 0; child = nodes_[child].sibling) {
      if (node != 0) nodes_[child].fallback = step(nodes_[node].fallback, nodes_[child].byte);
      if (nodes_[child].stop_idx < 0) nodes_[child].stop_idx = nodes_[nodes_[child].fallback].stop_idx;
      queue.push_back(child);
    }
  }
}

std::int32_t StopMatcher::child_of(std::int32_t node, char byte) const {
  std::int32_t child = nodes_[node].child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
  return child;
}

std::int32_t StopMatcher::step(std::int32_t node, char byte) const {
  for (;; node = nodes_[node].fallback) {
    std::int32_t child = child_of(node, byte);
    if (child >= 0) return child;
    if (node == 0) return 0;
  }
}

std::optional<StopMatcher::Match> StopMatcher::read(std::string_view piece) {
  for (std::size_t i = 0; i < piece.size(); ++i) {
    state_ = step(state_, piece[i]);
    std::int32_t found = nodes_[state_].stop_idx;
    if (found >= 0) return Match{static_cast<std::size_t>(found), i + 1};
  }
  return std::nullopt;
}

}  // namespace fastgen
