// Tells a model's thinking from its answer: what stands between <think> and </think> at the beginning (DeepSeek R1, Qwen3).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fastgen::server {

// A part of an answer.
struct SplitText {
  std::string reasoning;
  std::string content;
  bool empty() const { return reasoning.empty() && content.empty(); }
  std::size_t num_bytes() const { return reasoning.size() + content.size(); }
  SplitText& operator+=(const SplitText& more) {
    reasoning += more.reasoning;
    content += more.content;
    return *this;
  }
};

// Whether the prompt ends within the thinking: its last text but white space is <think>, so that the answer begins with thoughts.
bool ends_thinking_open(std::string_view prompt);

// Text comes in as it is generated, in pieces of any size, and comes out as soon as it is certain.
//
// Invariants: 1. all that is pushed, joined, decides what comes out, joined: pieces do not matter; 2. the tags and the white space
// around the thinking and before the answer are in neither part; 3. only thinking that stands first counts: a tag within the answer
// is text, and so is a second one; 4. thinking that never ends is all reasoning.
// Not thread-safe. Work per byte does not grow with the text, but for runs of white space.
class ReasoningSplitter {
 public:
  // `open`: the text begins within the thinking (ends_thinking_open).
  explicit ReasoningSplitter(bool open) : place_(open ? Place::kOpened : Place::kStart) {}

  SplitText push(std::string_view text);
  // What was held back. Once, at the end.
  SplitText finish();

 private:
  enum class Place {
    kStart,           // nothing but white space yet
    kOpened,          // the same, after a prompt that opened the thinking; R1 may open it again
    kBeforeThoughts,  // after <think>, nothing but white space
    kThoughts,
    kBeforeAnswer,  // after </think>, nothing but white space
    kAnswer,
  };
  // Moves on through held_ as far as it is certain; false if more text is needed.
  bool advance(SplitText& out);
  bool skip_space();
  bool find_open_tag();
  bool drop_repeated_tag();
  bool take_thoughts(SplitText& out);

  Place place_;
  std::string held_;  // not yet decided: white space, or what may become a tag
};

}  // namespace fastgen::server
