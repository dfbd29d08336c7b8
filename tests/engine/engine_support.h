// What the engine's tests share: a model folder with nothing but a config, requests, and what came of them.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fastgen/engine.h"
#include "support/support.h"

namespace fastgen::test {

inline constexpr std::int32_t kVocab = 500;
inline constexpr std::int32_t kEosId = 130;
inline constexpr std::int32_t kMaxPositions = 512;

// A folder whose config.json is a tiny Llama; echo and dummy weights need no more.
void write_config(const std::filesystem::path& folder);
// The same with a window in every layer.
void write_windowed_config(const std::filesystem::path& folder, std::int32_t window);

EngineConfig echo_engine(const std::filesystem::path& folder, const std::string& backend = "echo");
// Of any kind that echo computes exactly: choices, logprobs, stop ids, bans, greedy or not.
Request random_request(std::mt19937_64& random, std::int32_t max_prompt = 60, std::int32_t max_tokens = 40);
// The kv_gb that gives an echo engine exactly so many blocks.
double echo_kv_gb(std::int32_t num_blocks, std::int32_t block_size);

// One choice as its events told it.
struct Answer {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  std::vector<std::vector<TopLogprob>> tops;
  std::vector<std::pair<TokenId, float>> prompt;  // kPromptToken events
  FinishReason reason = FinishReason::kNone;
  int num_finishes = 0;
  bool last_of_request = false;
};
using Answers = std::map<std::pair<std::uint64_t, std::int32_t>, Answer>;  // by user_tag and choice

// Adds one event, checking that its choice goes on in order and is not over.
void take_event(Answers& answers, const Event& event, std::span<const TopLogprob> top);
// Takes events of ring 0 until so many requests are over (or 60 s have passed: a failure).
void take_until(Engine& engine, Answers& answers, int num_requests);
// Submits all (user_tag becomes the index), with as many in flight as there are tickets, and takes every event.
Answers run_all(Engine& engine, std::vector<Request> requests);

// The tokens so far as echo sums them up; with a window the last `window` ones alone.
class EchoContext {
 public:
  explicit EchoContext(std::int32_t window = 0) : window_(window) {}
  void push(TokenId id);
  std::uint64_t hash() const;

 private:
  std::int32_t window_;
  std::vector<TokenId> ids_;
  std::uint64_t keys_ = 0, values_ = 0;
};

// What the published function of echo says: tokens and reason of one choice; cut short by eos, stop ids and max_tokens. The prompt's
// logprobs are there if they were asked for, in every choice.
Answer expected_echo(const Request& request, std::int32_t choice_idx, std::int32_t window = 0);
// The choice is what it must be.
void check_whole(const Answer& answer, const Answer& expected);
// The same of one that was cut short: what came is right.
void check_begun(const Answer& answer, const Answer& expected);
// Everything that was submitted is answered, and the engine holds nothing.
void check_idle(Engine& engine);

}  // namespace fastgen::test
