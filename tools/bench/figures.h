// From what was seen of each request to the figures of a run. Pure, so that the figures can be tested.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fastgen::bench {

// One request, in microseconds of the steady clock. Its tokens came at the ends of steps.
struct RequestTimes {
  std::uint64_t submit_us = 0;
  std::vector<std::uint64_t> token_us;  // one for each token, in order
};

struct Spread {
  double p50 = 0;
  double p99 = 0;
  double max = 0;
};

// The value that a share q of the samples does not exceed: the nearest rank, no interpolation. 0 without samples.
double percentile(std::vector<double> samples, double q);
Spread spread_of(const std::vector<double>& samples);

struct Figures {
  std::int64_t prompt_tokens = 0;
  std::int64_t output_tokens = 0;
  double wall_s = 0;               // the first submit to the last token
  double output_tokens_per_s = 0;  // over the wall time
  double total_tokens_per_s = 0;   // prompt and output, over the wall time
  // Prompt tokens over the time to the last first token. With several waves of requests, decoding shares that time.
  double prefill_tokens_per_s = 0;
  // Tokens after the last first token, over the time that they took: pure decoding. 0 if there were none.
  double decode_tokens_per_s = 0;
  Spread ttft_ms;  // submit to first token, waiting for a place included
  Spread tpot_ms;  // time per output token after the first, the mean of each request
  Spread step_ms;  // between the ends of two steps that both gave tokens
  std::int64_t num_token_steps = 0;
};

// `prompt_len`: tokens of each request's prompt. Every request has at least one token.
Figures figures_of(std::span<const RequestTimes> requests, std::int64_t prompt_len);

}  // namespace fastgen::bench
