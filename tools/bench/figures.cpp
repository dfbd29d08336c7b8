#include "bench/figures.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace fastgen::bench {

namespace {

double ms_between(std::uint64_t from_us, std::uint64_t to_us) { return (double(to_us) - double(from_us)) / 1e3; }

double per_second(double count, double ms) { return ms > 0 ? count / ms * 1e3 : 0; }

// The ends of the steps that gave tokens, each once, in order.
std::vector<std::uint64_t> step_ends(std::span<const RequestTimes> requests) {
  std::vector<std::uint64_t> ends;
  for (const RequestTimes& request : requests) ends.insert(ends.end(), request.token_us.begin(), request.token_us.end());
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return ends;
}

}  // namespace

double percentile(std::vector<double> samples, double q) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const double rank = std::ceil(q * double(samples.size()));
  return samples[std::size_t(std::clamp(rank, 1.0, double(samples.size()))) - 1];
}

Spread spread_of(const std::vector<double>& samples) {
  return {.p50 = percentile(samples, 0.50), .p99 = percentile(samples, 0.99), .max = percentile(samples, 1)};
}

Figures figures_of(std::span<const RequestTimes> requests, std::int64_t prompt_len) {
  Figures figures;
  std::uint64_t start_us = std::numeric_limits<std::uint64_t>::max(), end_us = 0, last_first_us = 0;
  std::vector<double> ttft_ms, tpot_ms, step_ms;
  for (const RequestTimes& request : requests) {
    FG_CHECK(!request.token_us.empty());
    const std::uint64_t first_us = request.token_us.front(), last_us = request.token_us.back();
    start_us = std::min(start_us, request.submit_us);
    end_us = std::max(end_us, last_us);
    last_first_us = std::max(last_first_us, first_us);
    figures.prompt_tokens += prompt_len;
    figures.output_tokens += std::int64_t(request.token_us.size());
    ttft_ms.push_back(ms_between(request.submit_us, first_us));
    const double num_gaps = double(request.token_us.size()) - 1;
    if (num_gaps > 0) tpot_ms.push_back(ms_between(first_us, last_us) / num_gaps);
  }
  if (requests.empty()) return figures;

  std::int64_t num_after = 0;
  for (const RequestTimes& request : requests) {
    num_after += std::count_if(request.token_us.begin(), request.token_us.end(),
                               [&](std::uint64_t us) { return us > last_first_us; });
  }
  const std::vector<std::uint64_t> ends = step_ends(requests);
  for (std::size_t i = 1; i < ends.size(); ++i) step_ms.push_back(ms_between(ends[i - 1], ends[i]));

  const double wall_ms = ms_between(start_us, end_us);
  figures.wall_s = wall_ms / 1e3;
  figures.output_tokens_per_s = per_second(double(figures.output_tokens), wall_ms);
  figures.total_tokens_per_s = per_second(double(figures.prompt_tokens + figures.output_tokens), wall_ms);
  figures.prefill_tokens_per_s = per_second(double(figures.prompt_tokens), ms_between(start_us, last_first_us));
  figures.decode_tokens_per_s = per_second(double(num_after), ms_between(last_first_us, end_us));
  figures.ttft_ms = spread_of(ttft_ms);
  figures.tpot_ms = spread_of(tpot_ms);
  figures.step_ms = spread_of(step_ms);
  figures.num_token_steps = std::int64_t(ends.size());
  return figures;
}

}  // namespace fastgen::bench
