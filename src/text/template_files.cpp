#include "text/template_files.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <simdjson.h>

#include "base/read_file.h"
#include "fastgen/error.h"
#include "text/jinja_json.h"

namespace fastgen {

namespace fs = std::filesystem;

namespace {

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

// Of a name that comes twice the last counts.
void add(std::vector<TemplateSource>& sources, TemplateSource source) {
  std::erase_if(sources, [&](const TemplateSource& other) { return other.name == source.name; });
  sources.push_back(std::move(source));
}

const std::string& text_field(const jinja::Value& entry, const char* name, const std::string& where) {
  const jinja::Value* value = entry.is_dict() ? entry.dict().find(name) : nullptr;
  if (value == nullptr || !value->is_string() || value->str().empty()) throw Error(fmt::format("{}: each of the list needs a name and a template", where));
  return value->str();
}

std::vector<TemplateSource> in_config(const fs::path& config) {
  const std::string json = template_json(config), where = config.string() + ": chat_template";
  const jinja::Value value = json.empty() ? jinja::Value() : jinja::parse_json(json, where);
  if (value.is_none()) return {};
  if (value.is_string()) return {{"", where, value.str()}};
  if (!value.is_list()) throw Error(fmt::format("{}: must be a string or a list", where));
  std::vector<TemplateSource> sources;
  for (const jinja::Value& entry : value.items()) {
    const std::string& name = text_field(entry, "name", where);
    add(sources, {name, fmt::format("{} \"{}\"", where, name), text_field(entry, "template", where)});
  }
  return sources;
}

std::vector<TemplateSource> in_files(const fs::path& folder) {
  std::vector<TemplateSource> sources;
  const fs::path own = folder / "chat_template.jinja", others = folder / "additional_chat_templates";
  if (fs::exists(own)) sources.push_back({"default", own.string(), read_file(own)});
  if (!fs::is_directory(others)) return sources;
  for (const auto& entry : fs::directory_iterator(others))
    if (entry.path().extension() == ".jinja") add(sources, {entry.path().stem().string(), entry.path().string(), read_file(entry.path())});
  return sources;
}

}  // namespace

std::vector<TemplateSource> find_template_sources(const fs::path& folder) {
  std::vector<TemplateSource> sources = in_files(folder);
  const fs::path config = folder / "tokenizer_config.json";
  if (sources.empty() && fs::exists(config)) sources = in_config(config);
  // As with a string in tokenizer_config.json, one template alone goes by no name.
  if (sources.size() == 1 && sources[0].name == "default") sources[0].name.clear();
  std::sort(sources.begin(), sources.end(), [](const TemplateSource& a, const TemplateSource& b) { return a.name < b.name; });
  return sources;
}

}  // namespace fastgen
