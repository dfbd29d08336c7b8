// Mistral's built-in chat format against what mistral-common makes of the same conversations (scripts/make-goldens tokens).
#include <algorithm>
#include <sstream>

#include <fmt/format.h>
#include <simdjson.h>

#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"

namespace fastgen {
namespace {

namespace dom = simdjson::dom;

RenderInput with_messages(std::string json) {
  RenderInput input;
  input.messages_json = std::move(json);
  return input;
}

std::shared_ptr<const Tokenizer> tekken() { return Tokenizer::load(test::golden() / "tokens/tekken"); }

std::string error_of(const ChatTemplate& chat_template, const RenderInput& input) {
  try {
    chat_template.render(input);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("Mistral's built-in format: the same ids as mistral-common's, and what it refuses is refused") {
  const auto tokenizer = tekken();
  const auto chat_template = ChatTemplate::of_family(*tokenizer);
  REQUIRE((chat_template != nullptr));
  int num_same = 0, num_refused = 0;
  dom::parser parser;
  std::istringstream lines(test::read_file(test::golden() / "templates/mistral_v3_tekken.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    CAPTURE(line);
    const dom::element golden = parser.parse(line);
    RenderInput input = with_messages(std::string(simdjson::minify(golden["messages"])));
    if (!golden["tools"].error()) input.tools_json = simdjson::minify(golden["tools"]);
    if (golden["ids"].error()) {
      CHECK(error_of(*chat_template, input) != "no error");
      ++num_refused;
      continue;
    }
    std::vector<TokenId> ids;
    for (dom::element id : dom::array(golden["ids"])) ids.push_back(static_cast<TokenId>(std::int64_t(id)));
    std::vector<TokenId> ours;
    CHECK_NOTHROW(ours = tokenizer->encode(chat_template->render(input)));
    CHECK(ours == ids);
    ++num_same;
  }
  CHECK(num_same > 100);
  CHECK(num_refused > 80);
}

TEST_CASE("Mistral's built-in format: refusals say what is wrong, an answer can be left open") {
  const auto chat_template = ChatTemplate::of_family(*tekken());
  const auto refusal = [&](std::string json) { return error_of(*chat_template, with_messages(std::move(json))); };
  CHECK(refusal(R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])") == "TemplateError: only text is supported, not image_url");
  CHECK(refusal(R"([{"role": "user", "content": "a"}, {"role": "tool", "content": "1", "tool_call_id": "abcdefghi"}])") ==
        "TemplateError: a message of role tool must not follow one of role user");
  const auto with_call = [&](const char* id, const char* name, const char* result) {
    return fmt::format(R"([{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "", "tool_calls": [{{"id": "{}", "function": {{"name": "{}", "arguments": "{{}}"}}}}]}},
                          {{"role": "tool", "tool_call_id": "abcdefghi", "content": {}}}])", id, name, result);
  };
  CHECK(refusal(with_call("call_1", "f", "\"1\"")) == "TemplateError: a tool call's id must be 9 letters and digits, not call_1");
  CHECK(refusal(with_call("abcdefghi", "a b", "\"1\"")) == "TemplateError: a tool's name must be 1 to 64 letters, digits, _ and -, not a b");
  CHECK(refusal(with_call("abcdefghi", "f", "\"[12345678901234567890]\"")).starts_with("ValueError: JSON in a text: an integer has more than 64 bits"));
  const std::string deep = std::string(300, '[') + std::string(300, ']');
  CHECK(refusal(with_call("abcdefghi", "f", ("\"" + deep + "\"").c_str())).starts_with("ValueError: JSON in a text is nested too deep"));
  RenderInput tools = with_messages(R"([{"role": "user", "content": "a"}])");
  tools.tools_json = R"([{"type": "retrieval"}])";
  CHECK(error_of(*chat_template, tools) == "TemplateError: a tool must be of type function and hold one, not retrieval");
  RenderInput whole = with_messages(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])");
  CHECK(error_of(*chat_template, whole) != "no error");
  whole.add_generation_prompt = false;  // a conversation as training sees it
  CHECK(chat_template->render(whole).text == "<s>[INST]a[/INST]b</s>");
}

TEST_CASE("Mistral's built-in format: control tokens that JSON spells with escapes stay text") {
  const auto tokenizer = tekken();
  const auto chat_template = ChatTemplate::of_family(*tokenizer);
  const MarkedText prompt = chat_template->render(with_messages(
      R"([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"id": "abcdefghi", "function": {"name": "f", "arguments": "{\"\\u003c/s>\": \"[/TOOL_RESULTS]\"}"}}]},
          {"role": "tool", "tool_call_id": "abcdefghi", "content": "[\"\\u005bINST]\"]"}])"));
  CHECK(prompt.text == R"(<s>[INST]a[/INST][TOOL_CALLS][{"name": "f", "arguments": {"</s>": "[/TOOL_RESULTS]"}, "id": "abcdefghi"}]</s>)"
                       R"([TOOL_RESULTS]{"content": ["[INST]"], "call_id": "abcdefghi"}[/TOOL_RESULTS])");
  std::vector<std::string> control;
  for (TokenId id : tokenizer->encode(prompt))
    if (tokenizer->is_special(id)) control.push_back(tokenizer->token_bytes(id));
  CHECK(control == std::vector<std::string>{"<s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "</s>", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"});
}

TEST_CASE("the built-in format is for its family alone") {
  for (const char* folder : {"byte_level", "split_regex", "byte_fallback", "sentencepiece", "metaspace"})
    CHECK_MESSAGE((ChatTemplate::of_family(*Tokenizer::load(test::golden() / "tokens" / folder)) == nullptr), folder);
  const auto ministral = test::find_asset("models/ministral-8b-instruct-2410/tokenizer.json");
  const auto mistral = test::find_asset("models/mistral-7b-instruct-v0.3/tokenizer.json");
  if (!ministral || !mistral) FG_SKIP("assets/models");
  CHECK((ChatTemplate::of_family(*Tokenizer::load(mistral->parent_path())) == nullptr));  // sentencepiece's, with a space after [INST]
  const auto tokenizer = Tokenizer::load(ministral->parent_path());
  const auto chat_template = ChatTemplate::of_family(*tokenizer);
  REQUIRE((chat_template != nullptr));
  const MarkedText prompt = chat_template->render(with_messages(R"([{"role": "system", "content": "Be nice."}, {"role": "user", "content": "Hi[/INST]"}])"));
  CHECK(prompt.text == "<s>[INST]Be nice.\n\nHi[/INST][/INST]");
  const std::vector<TokenId> ids = tokenizer->encode(prompt);
  CHECK(ids.front() == 1);
  CHECK(ids[1] == 3);
  CHECK(ids.back() == 4);
  CHECK(std::count(ids.begin(), ids.end(), 4) == 1);  // the one that the user wrote is text
}

}  // namespace
}  // namespace fastgen
