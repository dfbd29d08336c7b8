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

RenderInput hello() {
  RenderInput input;
  input.messages_json = R"([{"role":"user","content":"hi"}])";
  return input;
}

std::string text_of(const fs::path& folder, const std::string& tools = "") {
  RenderInput input = hello();
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
  CHECK_THROWS_WITH_AS(ChatTemplate::load(dir.path()), doctest::Contains("none of the chat templates is the \"default\"; choose one by --chat-template: rag"), Error);
  CHECK(rendered(*ChatTemplate::choose(dir.path(), "rag"), hello()) == "T");
  for (const char* entry : {"{}", R"({"name": "rag"})", R"({"name": "", "template": "T"})", R"({"name": "rag", "template": 1})", "\"T\""}) {
    write(dir.path() / "tokenizer_config.json", std::string(R"({"chat_template": [)") + entry + "]}");
    CHECK_THROWS_WITH_AS(ChatTemplate::load(dir.path()), doctest::Contains("tokenizer_config.json: chat_template: each of the list needs a name and a template"), Error);
  }
  write(dir.path() / "tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "D"}, {"name": "rag", "template": "a\n{%"}]})");
  CHECK_THROWS_WITH_AS(ChatTemplate::load(dir.path()), doctest::Contains("chat_template \"rag\":2: "), Error);
}

TEST_CASE("chat templates: one of several is chosen by its name") {
  test::TempDir dir;
  const auto write_list = [&](const char* list) { write(dir.path() / "tokenizer_config.json", std::string(R"({"chat_template": )") + list + "}"); };
  const auto by_name = [&](const ChatTemplate& tmpl, const char* name, const char* tools = "") {
    RenderInput input = hello();
    input.template_name = name;
    input.tools_json = tools;
    return rendered(tmpl, input);
  };
  write_list(R"([{"name": "rag", "template": "R{{ documents is none }}"}, {"name": "default", "template": "old"}, {"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}])");
  const auto list = ChatTemplate::load(dir.path());
  CHECK(list->names() == std::vector<std::string>{"default", "rag", "tool_use"});
  CHECK(by_name(*list, "rag") == "RTrue");
  CHECK(by_name(*list, "tool_use") == "T");
  CHECK(by_name(*list, "", "[{}]") == "T");
  CHECK(by_name(*list, "default", "[{}]") == "D");  // who names one gets it
  CHECK(by_name(*list, "") == "D");
  CHECK(by_name(*list, "x") == "ERROR there is no chat template \"x\"");
  const auto rag = ChatTemplate::choose(dir.path(), "rag");
  CHECK(by_name(*rag, "") == "RTrue");
  CHECK(by_name(*rag, "", "[{}]") == "RTrue");
  CHECK(by_name(*rag, "default") == "D");
  const fs::path file = dir.path() / "other.jinja";
  write(file, "F");
  const auto other = ChatTemplate::choose(dir.path(), file.string());
  CHECK(by_name(*other, "") == "F");
  CHECK(other->names().empty());
  CHECK(by_name(*other, "rag") == "ERROR there is no chat template \"rag\"");
  CHECK_THROWS_WITH_AS(ChatTemplate::choose(dir.path(), "rags"), "rags: no such file, nor is it one of the model's templates: default, rag, tool_use", Error);
  write_list("\"one\"");
  CHECK(ChatTemplate::load(dir.path())->names().empty());
  CHECK_THROWS_WITH_AS(ChatTemplate::choose(dir.path(), "default"), doctest::Contains("default: cannot be read: No such file"), Error);
}

TEST_CASE("chat templates: files of named ones, as newer folders keep them") {
  test::TempDir dir;
  write(dir.path() / "tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "C"}, {"name": "old", "template": "O"}]})");
  fs::create_directory(dir.path() / "additional_chat_templates");
  CHECK(ChatTemplate::load(dir.path())->names() == std::vector<std::string>{"default", "old"});  // an empty folder is no template
  write(dir.path() / "additional_chat_templates" / "tool_use.jinja", "T");
  write(dir.path() / "additional_chat_templates" / "notes.txt", "{% if");
  CHECK_THROWS_WITH_AS(ChatTemplate::load(dir.path()), doctest::Contains("none of the chat templates is the \"default\""), Error);
  write(dir.path() / "chat_template.jinja", "J");
  const auto files = ChatTemplate::load(dir.path());
  CHECK(files->names() == std::vector<std::string>{"default", "tool_use"});  // files count before tokenizer_config.json
  CHECK(text_of(dir.path()) == "J");
  CHECK(text_of(dir.path(), "[{}]") == "T");
  write(dir.path() / "additional_chat_templates" / "tool_use.jinja", "\n{% if %}");
  CHECK_THROWS_WITH_AS(ChatTemplate::load(dir.path()), doctest::Contains("tool_use.jinja:2: "), Error);
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
