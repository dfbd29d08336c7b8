#include <simdjson.h>

#include <fstream>
#include <string>
#include <vector>

#include "fastgen/error.h"
#include "fastgen/text.h"
#include "support/support.h"

using namespace fastgen;

namespace {

namespace dom = simdjson::dom;
namespace fs = std::filesystem;

std::string field_json(const dom::object& object, const char* name) {
  dom::element value;
  return object[name].get(value) ? "" : simdjson::to_string(value);
}

// Everything else in a context is a variable of its own.
RenderInput input_of(const dom::object& context) {
  RenderInput input;
  input.messages_json = field_json(context, "messages");
  input.tools_json = field_json(context, "tools");
  input.documents_json = field_json(context, "documents");
  input.kwargs_json = field_json(context, "kwargs");
  bool add = true;
  if (!context["add_generation_prompt"].get(add)) input.add_generation_prompt = add;
  return input;
}

std::string rendered(const ChatTemplate& tmpl, const RenderInput& input) {
  try {
    return tmpl.render(input).text;
  } catch (const Error& error) {
    return std::string("ERROR ") + error.what();
  }
}

// One golden file: every case of one template. Errors must begin as the real ones do; ours go on with the
// line.
void check_goldens(const fs::path& file, const fs::path& templates, const dom::object& contexts) {
  dom::parser parser;
  dom::element golden = parser.load(file.string());
  fs::path source = templates / std::string(std::string_view(golden["template"]));
  auto tmpl = ChatTemplate::parse(test::read_file(source), source.filename().string());
  for (dom::element result : dom::array(golden["results"])) {
    std::string name{std::string_view(result["case"])};
    RenderInput input = input_of(dom::object(contexts[name]));
    input.bos_token = std::string_view(golden["bos_token"]);
    input.eos_token = std::string_view(golden["eos_token"]);
    input.now = std::string_view(golden["now"]);
    std::string text = rendered(*tmpl, input);
    INFO(file.filename().string(), " case ", name);
    std::string_view expected;
    if (!result["expected"].get(expected))
      CHECK(text == expected);
    else
      CHECK(text.starts_with("ERROR " + std::string(std::string_view(result["error"]))));
  }
}

int check_golden_folder(const fs::path& goldens, const fs::path& templates) {
  dom::parser parser;
  dom::object contexts = parser.load((goldens / "_contexts.json").string());
  int files = 0;
  for (const auto& entry : fs::directory_iterator(goldens)) {
    if (entry.path().extension() != ".json" || entry.path().filename() == "_contexts.json") continue;
    check_goldens(entry.path(), templates, contexts);
    ++files;
  }
  return files;
}

}  // namespace

TEST_CASE("chat templates: identical to Jinja2 on the models' own templates") {
  auto goldens = test::find_asset("goldens/templates");
  auto templates = test::find_asset("templates");
  if (!goldens || !templates) FG_SKIP("assets/goldens/templates");
  CHECK(check_golden_folder(*goldens, *templates) >= 17);
}

TEST_CASE("chat templates: identical to Jinja2 on the repository's own templates") {
  CHECK(check_golden_folder(test::golden() / "templates", test::golden() / "templates" / "sources") == 3);
}

TEST_CASE("chat templates: all real ones parse") {
  auto templates = test::find_asset("templates");
  if (!templates) FG_SKIP("assets/templates");
  int parsed = 0;
  for (const auto& entry : fs::recursive_directory_iterator(*templates)) {
    if (entry.path().extension() != ".jinja") continue;
    INFO(entry.path().string());
    CHECK_NOTHROW(ChatTemplate::parse(test::read_file(entry.path()), entry.path().filename().string()));
    ++parsed;
  }
  CHECK(parsed >= 80);
}

namespace {

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

std::string text_of(const fs::path& folder, const std::string& tools = "") {
  RenderInput input;
  input.messages_json = R"([{"role":"user","content":"hi"}])";
  input.tools_json = tools;
  return rendered(*ChatTemplate::load(folder), input);
}

}  // namespace

TEST_CASE("chat templates: where a model folder keeps them") {
  test::TempDir dir;
  CHECK(ChatTemplate::load(dir.path()) == nullptr);
  write(dir.path() / "tokenizer_config.json", "{}");
  CHECK(ChatTemplate::load(dir.path()) == nullptr);
  write(dir.path() / "tokenizer_config.json", R"({"chat_template": "A{{ messages[0].content }}"})");
  CHECK(text_of(dir.path()) == "Ahi");
  // As transformers writes "none": more than 64 bits.
  write(dir.path() / "tokenizer_config.json",
        R"({"model_max_length": 1000000000000000019884624838656, "chat_template": "B{{ messages[0].content }}\n\u00e9", "x": 1e999})");
  CHECK(text_of(dir.path()) == "Bhi\n\u00e9");
  write(dir.path() / "tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
  CHECK(ChatTemplate::load(dir.path()) == nullptr);
  write(dir.path() / "tokenizer_config.json", R"({"chat_template": null})");
  CHECK(ChatTemplate::load(dir.path()) == nullptr);
  write(dir.path() / "tokenizer_config.json", R"({"chat_template": "a)");
  CHECK_THROWS_WITH_AS(ChatTemplate::load(dir.path()), doctest::Contains("tokenizer_config.json: chat_template"), Error);
  write(
      dir.path() / "tokenizer_config.json",
      R"({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})");
  CHECK(text_of(dir.path()) == "D");
  CHECK(text_of(dir.path(), "[{}]") == "T");
  write(dir.path() / "chat_template.jinja", "J{{ tools is none }}{{ documents }}");
  CHECK(text_of(dir.path()) == "JTrueNone");
  write(dir.path() / "chat_template.jinja", "a\n\n{% if %}");
  CHECK_THROWS_WITH_AS(ChatTemplate::load(dir.path()), doctest::Contains("chat_template.jinja:3: "), Error);
  fs::remove(dir.path() / "chat_template.jinja");
  write(dir.path() / "tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "T"}]})");
  CHECK_THROWS_WITH_AS(ChatTemplate::load(dir.path()), doctest::Contains("no \"default\""), Error);
}

TEST_CASE("chat templates: errors, variables and time") {
  RenderInput input;
  input.messages_json = "[]";
  auto result = [&](const char* source) { return rendered(*ChatTemplate::parse(source, "name"), input); };
  CHECK(result("a\n{{ messages.x.y }}") ==
        "ERROR UndefinedError: 'list object' has no attribute 'x' (name:2)");
  CHECK(result("{{ raise_exception('No.') }}") == "ERROR TemplateError: No.");
  input.kwargs_json = R"({"enable_thinking": false, "messages": [1]})";
  CHECK(result("{{ enable_thinking }}{{ messages }}") == "False[1]");
  input.now = "2024-02-29 23:59:58";
  CHECK(result("{{ strftime_now('%A %d %B %Y, day %j, %H:%M:%S') }}") ==
        "Thursday 29 February 2024, day 060, 23:59:58");
  input.now = "yesterday";
  CHECK(result("{{ strftime_now('%d') }}").starts_with("ERROR ValueError: the time must read"));
  input.now = "";
  CHECK(result("{{ strftime_now('%Y') | int > 2000 }}") == "True");
  input.tools_json = "{}";
  CHECK(result("x") == "ERROR tools: must be an array or null");
}
