// fgbench offline: many unique prompts of random tokens, all there at the start, through the engine alone: no text,
// no network. What it measures is the engine's throughput and its steps.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "fastgen/engine.h"

namespace fastgen::bench {

struct OfflineOptions {
  EngineConfig engine;
  std::int32_t num_prompts = 16;
  std::int32_t prompt_len = 128;  // tokens
  std::int32_t decode_len = 128;  // tokens, exactly: the model's end of sequence does not end an answer
  std::int32_t num_warmup = 1;    // requests of the same shape before the clock starts
  float temperature = 0;
  std::uint64_t seed = 0;  // of the prompts, the sampling and dummy weights
  std::string json_path;   // empty: none
  std::string command;     // as typed, for the record
};

// Adds the subcommand; `options` must outlive the parsing.
CLI::App* add_offline(CLI::App& app, OfflineOptions& options);
// Runs it and prints the table. Throws Error.
void run_offline(const OfflineOptions& options);

}  // namespace fastgen::bench
