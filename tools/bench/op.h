// fgbench op NAME...: micro-benchmarks of single ops through the backend's interface, caches cold, each beside the ceiling.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/lab.h"

namespace fastgen::bench {

struct OpOptions {
  std::vector<std::string> names;
  std::string model;  // folder or name; empty: the default model
  std::string revision = "main";
  LabOptions lab;
  std::int32_t block_size = 64;
  std::int32_t table_tokens = 0;
  std::vector<std::int32_t> batches = {1, 32, 256};
  std::vector<std::int32_t> contexts = {1024, 4096};
  std::vector<std::string> lengths;
  std::vector<std::string> chunks = {"8x1024", "8x1024:2048", "1x2048:16384"};
  std::vector<std::int64_t> rows = {1, 16, 64, 256, 1024};
  std::vector<std::string> matrices = {"qkv", "o", "gate-up", "down", "head"};
  std::vector<std::string> draws = {"greedy", "temperature", "top-p"};
  std::string ceilings_path;  // empty: measured
  std::string json_path;
  std::string command;
};

CLI::App* add_op(CLI::App& app, OpOptions& options);
// Throws Error.
void run_op(const OpOptions& options);

}  // namespace fastgen::bench
