#include "server/reasoning.h"

#include <random>
#include <vector>

#include "support/support.h"

namespace fastgen::server {

namespace {

SplitText split(const std::vector<std::string>& pieces, bool open) {
  ReasoningSplitter splitter(open);
  SplitText all;
  const auto add = [&](const SplitText& part) { all.reasoning += part.reasoning, all.content += part.content; };
  for (const std::string& piece : pieces) add(splitter.push(piece));
  add(splitter.finish());
  return all;
}

struct Example {
  std::string text;
  bool open;
  std::string reasoning;
  std::string content;
};

const std::vector<Example>& examples() {
  static const std::vector<Example> all = {
      {"<think>\nadd\n</think>\n\n4", false, "add", "4"},
      {"add them \n</think>\n\nFour.\n", true, "add them", "Four.\n"},
      {"<think>\nadd</think>4", true, "add", "4"},  // the prompt opened it, the model again
      {"\n<think></think>\n\nyes", false, "", "yes"},
      {"no thoughts", false, "", "no thoughts"},
      {"  kept white space", false, "", "  kept white space"},
      {"<thinking> is text", false, "", "<thinking> is text"},
      {"answer <think>not a thought</think>", false, "", "answer <think>not a thought</think>"},
      {"a</think>b</think>c<think>d", true, "a", "b</think>c<think>d"},
      {"cut off in the mid", true, "cut off in the mid", ""},
      {"<think>cut off </thin", false, "cut off </thin", ""},
      {"<think>a < b </ c </thin d</think>e", false, "a < b </ c </thin d", "e"},
      {"<think>two  words\n\n\n lines  </think>", false, "two  words\n\n\n lines", ""},
      {"<think><think>a</think>b", false, "<think>a", "b"},
      {"<thi", true, "<thi", ""},
      {"<thi", false, "", "<thi"},
      {"", false, "", ""},
      {" \n ", false, "", " \n "},
      {"", true, "", ""},
      {" \n ", true, "", ""},
      {"<<think>x", false, "", "<<think>x"},
      {"<</think>x", true, "<", "x"},
      {"</</think>x", true, "</", "x"},
  };
  return all;
}

}  // namespace

TEST_CASE("thinking and answer are told apart") {
  for (const Example& example : examples()) {
    CAPTURE(example.text);
    const SplitText parts = split({example.text}, example.open);
    CHECK(parts.reasoning == example.reasoning);
    CHECK(parts.content == example.content);
  }
}

TEST_CASE("the split does not depend on the pieces that the text comes in") {
  std::mt19937_64 random(test::seed());
  for (const Example& example : examples()) {
    CAPTURE(example.text);
    for (int round = 0; round < 40; ++round) {
      const std::size_t longest = 1 + random() % 6;
      std::vector<std::string> pieces;
      for (std::size_t at = 0; at < example.text.size(); at += pieces.back().size()) {
        pieces.push_back(example.text.substr(at, round == 0 ? 1 : random() % longest + 1));
      }
      const SplitText parts = split(pieces, example.open);
      REQUIRE(parts.reasoning == example.reasoning);
      REQUIRE(parts.content == example.content);
    }
  }
}

TEST_CASE("random texts of tags: pieces do not matter, and no text is lost") {
  std::mt19937_64 random(test::seed());
  const std::vector<std::string> words = {"<think>", "</think>", "<", "</", "think>", " ", "\n", "a", "bc", "</thin"};
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> pieces;
    std::string text;
    for (std::size_t i = random() % 12; i > 0; --i) text += pieces.emplace_back(words[random() % words.size()]);
    const bool open = random() % 2 == 0;
    const SplitText whole = split({text}, open), parts = split(pieces, open);
    CAPTURE(text);
    REQUIRE(whole.reasoning == parts.reasoning);
    REQUIRE(whole.content == parts.content);
    if (!whole.content.empty()) REQUIRE(text.ends_with(whole.content));
    REQUIRE(text.find(whole.reasoning) != std::string::npos);
  }
}

TEST_CASE("thoughts come out while they are thought: only a possible tag and white space are held back") {
  ReasoningSplitter splitter(true);
  CHECK(splitter.push("I add").reasoning == "I add");
  CHECK(splitter.push(" them").reasoning == " them");
  CHECK(splitter.push("\n\n").empty());
  CHECK(splitter.push("</th").empty());
  CHECK(splitter.push("ink>\n\n").empty());
  CHECK(splitter.push("4").content == "4");
  CHECK(splitter.push(" </think>").content == " </think>");
  CHECK(splitter.finish().empty());
}

TEST_CASE("a prompt that ends with the opening tag leaves the thinking open") {
  CHECK(ends_thinking_open("<|Assistant|><think>\n"));
  CHECK(ends_thinking_open("<think>"));
  CHECK_FALSE(ends_thinking_open("<|Assistant|>"));
  CHECK_FALSE(ends_thinking_open("<think>\n\n</think>\n\n"));  // Qwen3 told not to think
  CHECK_FALSE(ends_thinking_open(""));
}

}  // namespace fastgen::server
