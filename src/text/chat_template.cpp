// ChatTemplate: finds a model's template, hands messages to the interpreter, takes the marked text back.
#include <fmt/format.h>
#include <simdjson.h>

#include "base/read_file.h"
#include "fastgen/error.h"
#include "fastgen/text.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_json.h"
#include "text/jinja_parser.h"

namespace fastgen {

namespace fs = std::filesystem;

struct ChatTemplate::Impl {
  std::string name;
  jinja::Template main;
  std::optional<jinja::Template> with_tools;  // "tool_use" of a list of templates
};

namespace {

jinja::Template parse_named(std::string_view source, const std::string& name) {
  try {
    return jinja::parse_template(source);
  } catch (const jinja::SyntaxError& error) {
    throw Error(fmt::format("{}:{}: {}", name, error.line, error.message));
  }
}

// The named template of a list of {name, template}; null if there is none.
const jinja::Value* named_template(const jinja::Value& list, std::string_view name) {
  for (const jinja::Value& entry : list.items()) {
    if (!entry.is_dict()) continue;
    const jinja::Value* entry_name = entry.dict().find("name");
    const jinja::Value* source = entry.dict().find("template");
    if (entry_name && entry_name->is_string() && entry_name->str() == name && source && source->is_string())
      return source;
  }
  return nullptr;
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

// The JSON of "chat_template" alone, empty if there is none. What stands beside it is stepped over, since "model_max_length" is often
// 1e30 written out, which only simdjson's on-demand parser can do.
std::string template_json(const fs::path& config) {
  namespace ondemand = simdjson::ondemand;
  const simdjson::padded_string padded(read_file(config));
  ondemand::parser parser;
  try {
    ondemand::document document = parser.iterate(padded);
    for (ondemand::field field : document.get_object()) {
      const std::string_view key = field.unescaped_key();
      if (key != "chat_template") continue;
      ondemand::value value = field.value();
      return std::string(std::string_view(simdjson::to_json_string(value)));
    }
  } catch (const simdjson::simdjson_error& error) {
    throw Error(fmt::format("{}: chat_template cannot be read: {}", config.string(), error.what()));
  }
  return {};
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::shared_ptr<const ChatTemplate> ChatTemplate::parse(std::string_view source, std::string_view name) {
  auto impl = std::make_unique<Impl>();
  impl->name = name;
  impl->main = parse_named(source, impl->name);
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::shared_ptr<const ChatTemplate> ChatTemplate::load(const fs::path& folder) {
  fs::path own_file = folder / "chat_template.jinja";
  if (fs::exists(own_file)) return parse(read_file(own_file), own_file.string());
  fs::path config = folder / "tokenizer_config.json";
  if (!fs::exists(config)) return nullptr;
  std::string json = template_json(config), name = config.string() + ": chat_template";
  jinja::Value entry = json.empty() ? jinja::Value() : jinja::parse_json(json, name);
  if (entry.is_none()) return nullptr;
  if (entry.is_string()) return parse(entry.str(), name);
  if (!entry.is_list()) throw Error(fmt::format("{}: must be a string or a list", name));
  const jinja::Value* source = named_template(entry, "default");
  if (!source) throw Error(fmt::format("{}: the list has no \"default\"", name));
  auto impl = std::make_unique<Impl>();
  impl->name = name;
  impl->main = parse_named(source->str(), name);
  if (const jinja::Value* tools = named_template(entry, "tool_use"))
    impl->with_tools = parse_named(tools->str(), name);
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

MarkedText ChatTemplate::render(const RenderInput& input) const {
  std::shared_ptr<jinja::Dict> globals = make_globals(input);
  bool has_tools = !globals->find("tools")->is_none();
  const jinja::Template& tmpl = has_tools && impl_->with_tools ? *impl_->with_tools : impl_->main;
  jinja::BudgetScope budget;
  jinja::Interpreter interpreter(tmpl, *globals, input.now);
  try {
    jinja::Text text = interpreter.render();
    return {std::move(text.bytes), std::move(text.trusted)};
  } catch (const jinja::RenderError& error) {
    std::string_view what = error.what();
    // What raise_exception says is for the client; anything else is a mistake that wants its place named.
    if (what.starts_with("TemplateError: ")) throw Error(std::string(what));
    throw Error(fmt::format("{} ({}:{})", what, impl_->name, interpreter.line()));
  }
}

}  // namespace fastgen
