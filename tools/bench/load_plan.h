// What a load test sends, and when: prompts of a dataset as request bodies, and the gaps between arrivals.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "fastgen/text.h"

namespace fastgen::bench {

struct DatasetOptions {
  std::string name = "random";  // random, chats, jsonl, sonnet
  std::string path;             // jsonl, sonnet; chats: a ShareGPT file, or empty for made-up ones of that shape
  std::string tokenizer;        // folder; counts tokens and makes text of random ones
  std::int32_t input_len = 1024;   // random, sonnet: tokens
  std::int32_t output_len = 128;   // random, sonnet; jsonl and chats where the dataset does not say
  double range_ratio = 0;          // random: lengths are drawn from [len (1 - r), len (1 + r)]
  std::int32_t vocab = 32000;      // random without a tokenizer: ids below it, sent as ids
  std::uint64_t seed = 0;
};

// One request's content. Either ids, text or messages.
struct LoadPrompt {
  std::vector<TokenId> ids;
  std::string text;
  std::string messages_json;
  std::int32_t input_tokens = 0;  // 0: not known, the server says
  std::int32_t output_len = 0;
};

// `count` prompts; a dataset with fewer begins again, in another order. Throws Error naming the flag.
std::vector<LoadPrompt> load_prompts(const DatasetOptions& options, std::int32_t count);

// Gaps in seconds before each of `count` requests: gamma with shape `burstiness` and mean 1 / rate (1: Poisson arrivals; below it bursty,
// above it even), scaled so that all take count / rate together, as vLLM does; Poisson gaps are its own for the same seed (numpy.random's
// legacy generator). An infinite rate: no gaps.
std::vector<double> arrival_gaps(std::int32_t count, double rate, double burstiness, std::uint64_t seed);

struct BodyOptions {
  bool chat = false;
  std::string model;
  float temperature = 0;
  bool ignore_eos = true;
  std::string extra_json;  // more fields, without braces: "\"top_p\":0.9"
};
// A streaming request with usage at its end.
std::string body_of(const LoadPrompt& prompt, const BodyOptions& options);

}  // namespace fastgen::bench
