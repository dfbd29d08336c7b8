// What the programs' command lines have in common: the layout of --help, errors in one line, flags from the environment.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace fastgen {

// Names the program and lays its --help out. Before the flags and commands are added: commands take it over.
void set_up_command_line(CLI::App& app, const std::string& program);

// From now on every flag that `app` has also reads FG_ITS_NAME: --max-batch is FG_MAX_BATCH. A word in a configuration file that
// is no flag becomes an error.
void add_environment_and_file(CLI::App& app);

// The exit status, if the program has to end: after --help, or after a line on stderr that names what is wrong.
std::optional<int> parse_command_line(CLI::App& app, int argc, char** argv);

// FG_ names of the environment that neither a flag of `app` nor anything else here reads: mistyped ones, likely.
std::vector<std::string> unknown_environment(const CLI::App& app);

}  // namespace fastgen
