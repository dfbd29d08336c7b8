// fgbench serve: a load generator against any server of OpenAI's API, open loop (requests come at a rate) or closed (so many at a time).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/load_plan.h"

namespace fastgen::bench {

struct ServeOptions {
  std::string url = "http://127.0.0.1:5678";
  std::string endpoint = "completions";  // or chat
  std::string model;                     // empty: the first that the server lists
  std::string api_key;
  DatasetOptions dataset;
  std::int32_t num_prompts = 1000;
  std::vector<double> request_rates;     // per second, a run for each; none: all at once
  double burstiness = 1;
  std::vector<std::int32_t> concurrencies;  // requests at a time, a run for each; none: no limit
  std::int32_t num_warmup = 0;
  std::vector<std::string> goodput;      // "ttft:200"
  std::vector<double> percentiles = {99};
  float temperature = 0;
  bool stops_at_eos = false;             // else ignore_eos
  std::string extra_json;
  double timeout_s = 600;
  std::string label;
  bool quiet = false;
  std::string json_path;
  std::string command;
};

CLI::App* add_serve(CLI::App& app, ServeOptions& options);
// Runs and prints. Throws Error; also if every request of a run failed.
void run_serve(const ServeOptions& options);

}  // namespace fastgen::bench
