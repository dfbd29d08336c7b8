#include "server/reasoning.h"

#include <algorithm>
#include <utility>

namespace fastgen::server {

namespace {

constexpr std::string_view kOpen = "<think>", kClose = "</think>";
constexpr std::string_view kSpace = " \t\r\n";

// Length of the longest end of `text` that is a beginning of `tag`.
std::size_t partial_tag(std::string_view text, std::string_view tag) {
  for (std::size_t length = std::min(text.size(), tag.size() - 1); length > 0; --length) {
    if (text.ends_with(tag.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

bool ends_thinking_open(std::string_view prompt) {
  const std::size_t last = prompt.find_last_not_of(kSpace);
  return last != std::string_view::npos && prompt.substr(0, last + 1).ends_with(kOpen);
}

SplitText ReasoningSplitter::push(std::string_view text) {
  SplitText out;
  held_ += text;
  while (advance(out)) {
  }
  return out;
}

bool ReasoningSplitter::advance(SplitText& out) {
  switch (place_) {
    case Place::kStart: return find_open_tag();
    case Place::kOpened: return drop_repeated_tag();
    case Place::kBeforeThoughts:
      if (!skip_space()) return false;
      place_ = Place::kThoughts;
      return true;
    case Place::kThoughts: return take_thoughts(out);
    case Place::kBeforeAnswer:
      if (!skip_space()) return false;
      place_ = Place::kAnswer;
      return true;
    case Place::kAnswer:
      out.content += std::exchange(held_, {});
      return false;
  }
  return false;
}

// Drops white space at the beginning of what is held; false if nothing else is there yet.
bool ReasoningSplitter::skip_space() {
  held_.erase(0, std::min(held_.find_first_not_of(kSpace), held_.size()));
  return !held_.empty();
}

// White space before the tag goes with it; before anything else it is the answer's own.
bool ReasoningSplitter::find_open_tag() {
  const std::size_t first = held_.find_first_not_of(kSpace);
  if (first == std::string::npos) return false;
  const std::string_view text = std::string_view(held_).substr(first);
  if (text.size() < kOpen.size() && kOpen.starts_with(text)) return false;
  const bool opens = text.starts_with(kOpen);
  if (opens) held_.erase(0, first + kOpen.size());
  place_ = opens ? Place::kBeforeThoughts : Place::kAnswer;
  return true;
}

bool ReasoningSplitter::drop_repeated_tag() {
  if (!skip_space() || (held_.size() < kOpen.size() && kOpen.starts_with(held_))) return false;
  if (held_.starts_with(kOpen)) held_.erase(0, kOpen.size());
  place_ = Place::kBeforeThoughts;
  return true;
}

// White space is held back with what may be the closing tag: before the tag it is dropped.
bool ReasoningSplitter::take_thoughts(SplitText& out) {
  const std::size_t close = held_.find(kClose);
  std::string_view certain = std::string_view(held_).substr(0, close);
  if (close == std::string::npos) certain.remove_suffix(partial_tag(certain, kClose));
  const std::size_t last = certain.find_last_not_of(kSpace);
  certain = certain.substr(0, last == std::string_view::npos ? 0 : last + 1);
  out.reasoning += certain;
  held_.erase(0, close == std::string::npos ? certain.size() : close + kClose.size());
  if (close != std::string::npos) place_ = Place::kBeforeAnswer;
  return close != std::string::npos;
}

SplitText ReasoningSplitter::finish() {
  SplitText out;
  const std::size_t last = held_.find_last_not_of(kSpace);
  if (place_ == Place::kOpened || place_ == Place::kBeforeThoughts || place_ == Place::kThoughts) {
    out.reasoning = held_.substr(0, last == std::string::npos ? 0 : last + 1);
  } else if (place_ != Place::kBeforeAnswer) {
    out.content = std::move(held_);
  }
  held_.clear();
  return out;
}

}  // namespace fastgen::server
