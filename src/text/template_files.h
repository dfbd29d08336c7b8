// Where a model's folder keeps its chat templates, as transformers looks for them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace fastgen {

struct TemplateSource {
  std::string name;    // "default", "tool_use", "rag"; empty where the folder has one template and no names
  std::string where;   // for error messages
  std::string source;  // Jinja
};

// chat_template.jinja (the default) and additional_chat_templates/NAME.jinja; where there are none of these files, chat_template in
// tokenizer_config.json, a string or a list of {name, template}. Empty if the folder has none. Throws Error naming the file.
std::vector<TemplateSource> find_template_sources(const std::filesystem::path& folder);

}  // namespace fastgen
