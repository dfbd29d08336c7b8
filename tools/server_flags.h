// fgserve's flags of the HTTP side: from the command line to a ServerConfig.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "server/server.h"

namespace fastgen {

struct ServerFlags {
  server::ServerConfig config;
  std::vector<std::string> api_key_files;
  std::string metrics_compat;
  double drain_s = 30;
  std::string log_level = "info";
  bool verbose = false;
};

// Adds the flags to `app`; they are written to `flags`, which must outlive the parsing.
void add_server_flags(CLI::App& app, ServerFlags& flags);

// After the parsing: reads the key files, works out what depends on several flags. Throws Error naming the flag.
void finish_server_flags(ServerFlags& flags);

}  // namespace fastgen
