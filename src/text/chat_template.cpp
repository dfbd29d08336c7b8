// ChatTemplate: chooses among a model's templates, hands messages to the interpreter, takes the marked text back.
#include <algorithm>
#include <ranges>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/read_file.h"
#include "fastgen/error.h"
#include "fastgen/text.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_json.h"
#include "text/jinja_parser.h"
#include "text/template_files.h"

namespace fastgen {

namespace fs = std::filesystem;

namespace {

struct Named {
  std::string name;   // empty where there is one template and no names
  std::string where;  // for error messages
  jinja::Template tree;
};

}  // namespace

struct ChatTemplate::Impl {
  std::vector<Named> all;  // not empty
  std::string chosen;      // the name of the one that renders where the input names none; empty: as transformers chooses

  const Named* find(std::string_view name) const {
    const auto found = std::find_if(all.begin(), all.end(), [&](const Named& one) { return !one.name.empty() && one.name == name; });
    return found == all.end() ? nullptr : &*found;
  }
  std::string names() const {
    return fmt::format("{}", fmt::join(all | std::views::transform([](const Named& one) { return one.name; }), ", "));
  }
  // Null if no name was given and there is no default.
  const Named* without_name(bool has_tools) const {
    if (!chosen.empty()) return find(chosen);
    if (all.size() == 1 && all[0].name.empty()) return &all[0];
    const Named* with_tools = has_tools ? find("tool_use") : nullptr;
    return with_tools != nullptr ? with_tools : find("default");
  }
};

namespace {

jinja::Template parse_named(std::string_view source, const std::string& name) {
  try {
    return jinja::parse_template(source);
  } catch (const jinja::SyntaxError& error) {
    throw Error(fmt::format("{}:{}: {}", name, error.line, error.message));
  }
}

jinja::Value parse_part(const std::string& json, const char* what, jinja::Type wanted,
                        const char* wanted_name) {
  if (json.empty()) return {};
  jinja::Value value = jinja::parse_json(json, what);
  if (!value.is_none() && !value.is(wanted)) throw Error(fmt::format("{}: must be {}", what, wanted_name));
  return value;
}

// The variables of the template, as transformers gives them: absent tools and documents are None.
std::shared_ptr<jinja::Dict> make_globals(const RenderInput& input) {
  using jinja::Value;
  auto globals = std::make_shared<jinja::Dict>();
  auto set = [&](const char* name, Value value) { globals->set(Value::string(name), std::move(value)); };
  set("messages", parse_part(input.messages_json, "messages", jinja::Type::kList, "an array"));
  set("tools", parse_part(input.tools_json, "tools", jinja::Type::kList, "an array or null"));
  set("documents", parse_part(input.documents_json, "documents", jinja::Type::kList, "an array or null"));
  set("add_generation_prompt", Value::boolean(input.add_generation_prompt));
  set("bos_token", Value::string(jinja::Text::from_template(input.bos_token)));
  set("eos_token", Value::string(jinja::Text::from_template(input.eos_token)));
  Value kwargs =
      parse_part(input.kwargs_json, "chat_template_kwargs", jinja::Type::kDict, "an object or null");
  if (kwargs.is_dict())
    for (const auto& [name, value] : kwargs.dict().entries()) globals->set(name, value);
  return globals;
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::shared_ptr<const ChatTemplate> ChatTemplate::parse(std::string_view source, std::string_view name) {
  auto impl = std::make_unique<Impl>();
  impl->all.push_back({"", std::string(name), parse_named(source, std::string(name))});
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::unique_ptr<ChatTemplate::Impl> ChatTemplate::read_folder(const fs::path& folder) {
  auto impl = std::make_unique<Impl>();
  for (const TemplateSource& found : find_template_sources(folder)) impl->all.push_back({found.name, found.where, parse_named(found.source, found.where)});
  return impl;
}

std::shared_ptr<const ChatTemplate> ChatTemplate::load(const fs::path& folder) {
  auto impl = read_folder(folder);
  if (impl->all.empty()) return nullptr;
  if (impl->without_name(false) == nullptr)
    throw Error(fmt::format("{}: none of the chat templates is the \"default\"; choose one by --chat-template: {}", folder.string(), impl->names()));
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::shared_ptr<const ChatTemplate> ChatTemplate::choose(const fs::path& folder, const std::string& name_or_file) {
  auto impl = read_folder(folder);
  if (impl->find(name_or_file) == nullptr) {
    const std::string names = impl->names();
    if (names.empty() || fs::exists(name_or_file)) return parse(read_file(name_or_file), name_or_file);
    throw Error(fmt::format("{}: no such file, nor is it one of the model's templates: {}", name_or_file, names));
  }
  impl->chosen = name_or_file;
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::vector<std::string> ChatTemplate::names() const {
  std::vector<std::string> names;
  for (const Named& one : impl_->all)
    if (!one.name.empty()) names.push_back(one.name);
  return names;
}

MarkedText ChatTemplate::render(const RenderInput& input) const {
  std::shared_ptr<jinja::Dict> globals = make_globals(input);
  const bool has_tools = !globals->find("tools")->is_none();
  const Named* chosen = input.template_name.empty() ? impl_->without_name(has_tools) : impl_->find(input.template_name);
  if (chosen == nullptr) throw Error(fmt::format("there is no chat template \"{}\"", input.template_name));
  jinja::BudgetScope budget;
  jinja::Interpreter interpreter(chosen->tree, *globals, input.now);
  try {
    jinja::Text text = interpreter.render();
    return {std::move(text.bytes), std::move(text.trusted)};
  } catch (const jinja::RenderError& error) {
    std::string_view what = error.what();
    // What raise_exception says is for the client; anything else is a mistake that wants its place named.
    if (what.starts_with("TemplateError: ")) throw Error(std::string(what));
    throw Error(fmt::format("{} ({}:{})", what, chosen->where, interpreter.line()));
  }
}

}  // namespace fastgen
