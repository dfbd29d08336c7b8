// fgbench offline: many unique prompts of random tokens, all there at the start, through the engine alone: no text,
// no network. What it measures is the engine's throughput and its steps.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "fastgen/engine.h"

namespace fastgen::bench {

struct OfflineOptions {
  EngineConfig engine;
  std::int32_t num_prompts = 16;
  std::int32_t prompt_len = 128;  // tokens
  std::int32_t decode_len = 128;  // tokens, exactly: the model's end of sequence does not end an answer
  std::vector<std::int32_t> decode_lens;  // a run for each, instead of decode_len
  std::vector<std::int32_t> batches;      // a run for each, instead of num_prompts
  std::vector<std::string> cases;         // runs written out, "512x1024+128", instead of all of those
  std::int32_t num_repeats = 1;           // of all the runs, one after the other
  std::int32_t num_warmup = 1;    // requests of the same shape before the clock starts
  float temperature = 0;
  std::uint64_t seed = 0;  // of the prompts, the sampling and dummy weights
  std::string ceilings_path;  // of fgbench roofline --json; empty: measured at the start
  bool no_ceilings = false;
  std::int32_t profile_steps = 0;  // > 0: so many steps of the last repeat of each run go into a trace
  std::string profile_file = "fgbench.trace.json";
  std::string profile_at = "decode";  // from when every request has its first token, or "start"
  std::string json_path;   // empty: none
  std::string command;     // as typed, for the record
};

// One run: so many prompts of so many tokens, so many decoded for each.
struct OfflineCase {
  std::int32_t num_prompts = 0, prompt_len = 0, decode_len = 0;
};
// "512x1024+128". Throws Error naming --case.
OfflineCase parse_case(const std::string& text);
// All runs of one repeat, in order. Throws Error.
std::vector<OfflineCase> cases_of(const OfflineOptions& options);

// Adds the subcommand; `options` must outlive the parsing.
CLI::App* add_offline(CLI::App& app, OfflineOptions& options);
// Runs it and prints the table. Throws Error.
void run_offline(const OfflineOptions& options);

}  // namespace fastgen::bench
