// The figures of a load test, by the definitions and names of `vllm bench serve`. Pure, so that they can be tested.
//
// A token chunk is an event with choices, but for one that only names the role and one that only ends the choice. TTFT: request sent to
// first token chunk. ITL: between two token chunks. E2EL: request sent to the last token chunk. TPOT: (E2EL - TTFT) / (output tokens
// - 1), for requests with at least two.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json_writer.h"

namespace fastgen::bench {

// What was seen of one request. Times in nanoseconds of the steady clock.
struct LoadRecord {
  bool ok = false;
  std::string error;  // why not
  std::uint64_t send_ns = 0;
  std::uint64_t first_ns = 0;           // the first token chunk
  std::uint64_t last_ns = 0;            // the last one
  std::vector<float> itl_ms;
  std::int64_t input_tokens = 0;
  std::int64_t output_tokens = 0;
  double ttft_ms() const { return double(first_ns - send_ns) * 1e-6; }
  double e2el_ms() const { return double(last_ns - send_ns) * 1e-6; }
  double tpot_ms() const { return output_tokens > 1 ? (e2el_ms() - ttft_ms()) / double(output_tokens - 1) : 0; }
};

// Mean, median, standard deviation and percentiles, interpolated as numpy does.
struct Distribution {
  double mean = 0, median = 0, std = 0;
  std::map<double, double> percentiles;
};
Distribution distribution_of(std::vector<double> samples, std::span<const double> percentiles);

// Limits that a good request keeps, in ms; a missing one is no limit. Keys: ttft, tpot, e2el.
using Goodput = std::map<std::string, double>;
// "ttft:200". Throws Error naming --goodput.
void add_goodput(Goodput& goodput, const std::string& text);

struct LoadFigures {
  std::int64_t completed = 0, failed = 0;
  double duration_s = 0;
  std::int64_t total_input_tokens = 0, total_output_tokens = 0;
  double request_throughput = 0;  // per second
  double request_goodput = 0;     // of those within the limits
  double output_throughput = 0;   // tokens per second
  double total_token_throughput = 0;
  double max_output_tokens_per_s = 0;       // of the best second
  std::int64_t max_concurrent_requests = 0;
  Distribution ttft_ms, tpot_ms, itl_ms, e2el_ms;
};
LoadFigures load_figures_of(std::span<const LoadRecord> records, double duration_s, const Goodput& goodput,
                            std::span<const double> percentiles);

// The fields of vLLM's result file, into an open object.
void write_load_figures(JsonWriter& json, const LoadFigures& figures, bool has_goodput);
void print_load_figures(const LoadFigures& figures, bool has_goodput);

}  // namespace fastgen::bench
