// fgbench: how fast this engine is on this machine.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/log.h"
#include "bench/offline.h"
#include "fastgen/error.h"

int main(int argc, char** argv) {
  using namespace fastgen;
  CLI::App app("fgbench: measures the engine on this machine", "fgbench");
  app.require_subcommand(1);
  bench::OfflineOptions offline;
  bench::add_offline(app, offline);
  CLI11_PARSE(app, argc, argv);

  set_log_level(LogLevel::kWarn);
  for (int i = 0; i < argc; ++i) offline.command += (i > 0 ? " " : "") + std::string(argv[i]);
  try {
    bench::run_offline(offline);
  } catch (const Error& error) {
    fmt::print(stderr, "fgbench: {}\n", error.what());
    return 1;
  }
  return 0;
}
