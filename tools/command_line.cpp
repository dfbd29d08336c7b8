#include "command_line.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string_view>

#include <fmt/format.h>

namespace fastgen {

namespace {

constexpr std::size_t kNameColumns = 32;
constexpr std::size_t kTextColumns = 76;

// Read by other parts of the programs, by the scripts, or by the tests.
constexpr std::string_view kOtherNames[] = {
    "FG_ASSETS", "FG_BUILD", "FG_CUDA_TUNE", "FG_FRONT", "FG_LATE_SEED", "FG_MODEL", "FG_NATIVE_BF16",
    "FG_PROFILE_DIR", "FG_PROFILE_ITERS", "FG_QUESTION", "FG_SKIP", "FG_SOAK_SECONDS", "FG_STRESS_ROUNDS", "FG_VENV"};
constexpr std::string_view kOtherPrefixes[] = {"FG_REPLICA_", "FG_TEST_"};

bool is_read_elsewhere(std::string_view name) {
  return std::ranges::find(kOtherNames, name) != std::ranges::end(kOtherNames) ||
         std::ranges::any_of(kOtherPrefixes, [&](std::string_view prefix) { return name.starts_with(prefix); });
}

// "UINT:INT in [0 - 65535]" is a number, "TEXT:{auto,none}" a choice of two.
std::string value_label(const std::string& type) {
  const std::string first = type.substr(0, type.find(':'));
  const std::size_t open = type.find('{');
  if (open != std::string::npos && type.size() - open < 28) {
    std::string choices = type.substr(open + 1, type.find('}') - open - 1);
    std::replace(choices.begin(), choices.end(), ',', '|');
    return choices;
  }
  return first == "INT" || first == "UINT" || first == "FLOAT" ? "N" : first;
}

std::string wrapped(const std::string& text, std::size_t columns) {
  std::string out;
  std::size_t used = 0;
  for (std::size_t pos = 0; pos < text.size();) {
    const std::size_t end = std::min(text.find_first_of(" \n", pos), text.size());
    if (used > 0 && used + 1 + (end - pos) > columns) {
      out += '\n';
      used = 0;
    } else if (used > 0) {
      out += ' ';
      ++used;
    }
    out.append(text, pos, end - pos);
    used += end - pos;
    if (end < text.size() && text[end] == '\n') {
      out += '\n';
      used = 0;
    }
    pos = end + 1;
  }
  return out;
}

// One flag: its name and what it takes, then the sentence and the default. Ranges are told by the errors, the names in the
// environment by the footer.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(kNameColumns); }

  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_type_size() == 0 || option->get_items_expected_max() == 0) return "";
    const bool many = option->get_expected_max() == CLI::detail::expected_max_vector_size;
    if (option->get_positional()) return many ? "..." : "";
    const std::string label = value_label(option->get_type_name());
    return " " + (label.empty() ? "FILE" : label) + (many ? "..." : "");
  }

  std::string make_option_desc(const CLI::Option* option) const override {
    std::string text = option->get_description();
    const std::string& value = option->get_default_str();
    const bool is_told = value.empty() || value == "[]" || (value == "0" && text.find("0:") != std::string::npos);
    if (!is_told) text += fmt::format(" (default {})", value);
    return wrapped(text, kTextColumns);
  }

  std::string make_description(const CLI::App* app) const override {
    return wrapped(Formatter::make_description(app), kNameColumns + kTextColumns);
  }

  std::string make_subcommand(const CLI::App* command) const override {
    std::stringstream out;
    CLI::detail::format_help(out, command->get_name(), wrapped(command->get_description(), kTextColumns), kNameColumns);
    return out.str();
  }

  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    std::string text = Formatter::make_help(app, std::move(name), mode);
    if (const std::size_t usage = text.find("\nUsage:"); usage != std::string::npos) text.insert(usage, 1, '\n');
    for (std::size_t at; (at = text.find("\n\n\n")) != std::string::npos;) text.erase(at, 1);
    while (text.ends_with("\n\n")) text.pop_back();
    return text;
  }
};

std::string environment_name(const CLI::Option& option) {
  std::string name = "FG_" + option.get_lnames().front();
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

// What CLI11 says leaves out where a value came from.
std::string explained(const CLI::App& app, const CLI::ParseError& error) {
  constexpr std::string_view kUnknownKey = "INI was not able to parse ";
  std::string text = error.what();
  if (text.starts_with(kUnknownKey)) return fmt::format("--config: there is no flag --{}", text.substr(kUnknownKey.size()));
  while (text.ends_with('\n')) text.pop_back();
  for (const CLI::Option* option : app.get_options()) {
    const char* value = option->get_envname().empty() ? nullptr : std::getenv(option->get_envname().c_str());
    const std::string flag = value ? "--" + option->get_lnames().front() : "";
    if (value && (text.find(flag + ":") != std::string::npos || text.find(flag + " =") != std::string::npos))
      text += fmt::format("; the environment has {}={}", option->get_envname(), value);
  }
  return text;
}

}  // namespace

void set_up_command_line(CLI::App& app, const std::string& program) {
  app.name(program);
  app.formatter(std::make_shared<HelpFormatter>());
  app.get_help_ptr()->description("This text");
}

void add_environment_and_file(CLI::App& app) {
  app.allow_config_extras(CLI::config_extras_mode::error);
  for (CLI::Option* option : app.get_options())
    if (!option->get_lnames().empty() && option != app.get_help_ptr()) option->envname(environment_name(*option));
}

std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    fmt::print(stderr, "{}: {} (--help lists the flags)\n", app.get_name(), explained(app, error));
    return 2;
  }
}

std::vector<std::string> unknown_environment(const CLI::App& app) {
  std::vector<std::string> unknown;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    const std::string name(text.substr(0, text.find('=')));
    if (!name.starts_with("FG_")) continue;
    const auto reads = [&](const CLI::Option* option) { return option->get_envname() == name; };
    const std::vector<const CLI::Option*> options = app.get_options();
    if (std::ranges::none_of(options, reads) && !is_read_elsewhere(name)) unknown.push_back(name);
  }
  return unknown;
}

}  // namespace fastgen
