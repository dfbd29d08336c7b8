#include "bench/load_figures.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include <fmt/format.h>

#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

// numpy's default: linear between the two nearest samples. `sorted` is not empty.
double quantile(const std::vector<double>& sorted, double percent) {
  const double place = percent / 100 * double(sorted.size() - 1);
  const std::size_t below = std::size_t(place), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - double(below)) * (sorted[above] - sorted[below]);
}

bool is_good(const LoadRecord& record, const Goodput& goodput) {
  const auto within = [&](const char* name, double value) {
    const auto found = goodput.find(name);
    return found == goodput.end() || value <= found->second;
  };
  return within("ttft", record.ttft_ms()) && within("tpot", record.tpot_ms()) && within("e2el", record.e2el_ms());
}

// The chunks of each second after the first request; and how many requests overlap in each.
void find_peaks(std::span<const LoadRecord> records, LoadFigures& figures) {
  std::uint64_t start = ~std::uint64_t{0};
  for (const LoadRecord& record : records)
    if (record.ok) start = std::min(start, record.send_ns);
  const auto second_of = [&](double ns) { return std::size_t((ns - double(start)) * 1e-9); };
  std::vector<double> tokens;
  std::vector<std::int64_t> overlaps;
  for (const LoadRecord& record : records) {
    if (!record.ok) continue;
    const std::size_t last = second_of(double(record.last_ns));
    if (tokens.size() <= last) tokens.resize(last + 1), overlaps.resize(last + 1);
    for (std::size_t second = second_of(double(record.send_ns)); second <= last; ++second) ++overlaps[second];
    double ns = double(record.first_ns);
    ++tokens[second_of(ns)];
    for (float itl : record.itl_ms) ++tokens[std::min(second_of(ns += double(itl) * 1e6), last)];
  }
  for (double count : tokens) figures.max_output_tokens_per_s = std::max(figures.max_output_tokens_per_s, count);
  for (std::int64_t count : overlaps) figures.max_concurrent_requests = std::max(figures.max_concurrent_requests, count);
}

struct Named {
  const char* name;   // in the file
  const char* title;  // in the table
  const Distribution LoadFigures::*distribution;
};
constexpr Named kNamed[] = {{"ttft", "Time to first token", &LoadFigures::ttft_ms},
                            {"tpot", "Time per output token", &LoadFigures::tpot_ms},
                            {"itl", "Inter-token latency", &LoadFigures::itl_ms},
                            {"e2el", "End-to-end latency", &LoadFigures::e2el_ms}};

}  // namespace

Distribution distribution_of(std::vector<double> samples, std::span<const double> percentiles) {
  Distribution d;
  for (double percent : percentiles) d.percentiles[percent] = 0;
  if (samples.empty()) return d;
  std::sort(samples.begin(), samples.end());
  const double count = double(samples.size());
  d.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / count;
  d.median = quantile(samples, 50);
  double squares = 0;
  for (double sample : samples) squares += (sample - d.mean) * (sample - d.mean);
  d.std = std::sqrt(squares / count);
  for (auto& [percent, value] : d.percentiles) value = quantile(samples, percent);
  return d;
}

void add_goodput(Goodput& goodput, const std::string& text) {
  const std::size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  char* end = nullptr;
  const double limit = colon == std::string::npos ? 0 : std::strtod(text.c_str() + colon + 1, &end);
  if ((name != "ttft" && name != "tpot" && name != "e2el") || !(limit > 0) || end == nullptr || *end != '\0')
    throw Error(fmt::format("--goodput {}: needs ttft:MS, tpot:MS or e2el:MS", text));
  goodput[name] = limit;
}

LoadFigures load_figures_of(std::span<const LoadRecord> records, double duration_s, const Goodput& goodput,
                            std::span<const double> percentiles) {
  LoadFigures figures;
  figures.duration_s = duration_s;
  std::vector<double> ttft, tpot, itl, e2el;
  std::int64_t num_good = 0;
  for (const LoadRecord& record : records) {
    if (!record.ok) {
      ++figures.failed;
      continue;
    }
    ++figures.completed;
    figures.total_input_tokens += record.input_tokens;
    figures.total_output_tokens += record.output_tokens;
    ttft.push_back(record.ttft_ms());
    e2el.push_back(record.e2el_ms());
    if (record.output_tokens > 1) tpot.push_back(record.tpot_ms());
    itl.insert(itl.end(), record.itl_ms.begin(), record.itl_ms.end());
    num_good += is_good(record, goodput);
  }
  const auto per_second = [&](double count) { return duration_s > 0 ? count / duration_s : 0; };
  figures.request_throughput = per_second(double(figures.completed));
  figures.request_goodput = per_second(double(num_good));
  figures.output_throughput = per_second(double(figures.total_output_tokens));
  figures.total_token_throughput = per_second(double(figures.total_input_tokens + figures.total_output_tokens));
  figures.ttft_ms = distribution_of(std::move(ttft), percentiles);
  figures.tpot_ms = distribution_of(std::move(tpot), percentiles);
  figures.itl_ms = distribution_of(std::move(itl), percentiles);
  figures.e2el_ms = distribution_of(std::move(e2el), percentiles);
  if (figures.completed > 0) find_peaks(records, figures);
  return figures;
}

void write_load_figures(JsonWriter& json, const LoadFigures& f, bool has_goodput) {
  json.field("duration", f.duration_s)
      .field("completed", f.completed)
      .field("failed", f.failed)
      .field("total_input_tokens", f.total_input_tokens)
      .field("total_output_tokens", f.total_output_tokens)
      .field("request_throughput", f.request_throughput)
      .field("output_throughput", f.output_throughput)
      .field("total_token_throughput", f.total_token_throughput)
      .field("max_output_tokens_per_s", f.max_output_tokens_per_s)
      .field("max_concurrent_requests", f.max_concurrent_requests);
  if (has_goodput) json.field("request_goodput", f.request_goodput);
  for (const Named& named : kNamed) {
    const Distribution& d = f.*named.distribution;
    json.field(fmt::format("mean_{}_ms", named.name), d.mean)
        .field(fmt::format("median_{}_ms", named.name), d.median)
        .field(fmt::format("std_{}_ms", named.name), d.std);
    for (const auto& [percent, value] : d.percentiles) json.field(fmt::format("p{}_{}_ms", percent, named.name), value);
  }
}

void print_load_figures(const LoadFigures& f, bool has_goodput) {
  const auto line = [](const char* name, double value, int digits) { fmt::print("{:<36}{:>14.{}f}\n", name, value, digits); };
  line("Successful requests", double(f.completed), 0);
  line("Failed requests", double(f.failed), 0);
  line("Benchmark duration (s)", f.duration_s, 2);
  line("Total input tokens", double(f.total_input_tokens), 0);
  line("Total generated tokens", double(f.total_output_tokens), 0);
  line("Request throughput (req/s)", f.request_throughput, 2);
  if (has_goodput) line("Request goodput (req/s)", f.request_goodput, 2);
  line("Output token throughput (tok/s)", f.output_throughput, 2);
  line("Total token throughput (tok/s)", f.total_token_throughput, 2);
  line("Peak output of a second (tok/s)", f.max_output_tokens_per_s, 0);
  line("Peak concurrent requests", double(f.max_concurrent_requests), 0);
  fmt::print("\n{:<36}{:>14}{:>14}{:>14}", "milliseconds", "mean", "median", "std");
  for (const auto& [percent, value] : f.ttft_ms.percentiles) fmt::print("{:>14}", fmt::format("p{}", percent));
  for (const Named& named : kNamed) {
    const Distribution& d = f.*named.distribution;
    fmt::print("\n{:<36}{:>14.3f}{:>14.3f}{:>14.3f}", fmt::format("{} ({})", named.title, named.name), d.mean, d.median, d.std);
    for (const auto& [percent, value] : d.percentiles) fmt::print("{:>14.3f}", value);
  }
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace fastgen::bench
