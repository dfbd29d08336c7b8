// fgbench: how fast this engine is on this machine.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <string>

#include "base/log.h"
#include "base/step_trace.h"
#include "bench/ceilings.h"
#include "bench/offline.h"
#include "bench/op.h"
#include "bench/serve.h"
#include "command_line.h"
#include "fastgen/error.h"

int main(int argc, char** argv) {
  using namespace fastgen;
  CLI::App app("Measures the engine, its ops, this machine, and servers.");
  set_up_command_line(app, "fgbench");
  app.require_subcommand(1);
  bench::OfflineOptions offline;
  bench::OpOptions op;
  bench::RooflineOptions roofline;
  const CLI::App* run_offline = bench::add_offline(app, offline);
  const CLI::App* run_op = bench::add_op(app, op);
  bench::add_roofline(app, roofline);
  bench::ServeOptions serve;
  const CLI::App* run_serve = bench::add_serve(app, serve);
  if (const auto status = parse_command_line(app, argc, argv)) return *status;

  set_log_level(LogLevel::kWarn);
  std::signal(SIGUSR2, [](int) { request_step_trace(); });
  std::string command;
  for (int i = 0; i < argc; ++i) command += (i > 0 ? " " : "") + std::string(argv[i]);
  offline.command = op.command = roofline.command = serve.command = command;
  try {
    if (run_offline->parsed()) bench::run_offline(offline);
    else if (run_op->parsed()) bench::run_op(op);
    else if (run_serve->parsed()) bench::run_serve(serve);
    else bench::run_roofline(roofline);
  } catch (const Error& error) {
    fmt::print(stderr, "fgbench: {}\n", error.what());
    return 1;
  }
  return 0;
}
