// What a request asks and what comes back: plain data, ids only. Text lives in text.h.
#pragma once

#include <cstdint>
#include <vector>

namespace fastgen {

using TokenId = std::int32_t;
using RequestId = std::uint64_t;  // never reused while the engine lives; 0 is no request

inline constexpr int kMaxTopLogprobs = 20;  // most alternatives reported for one token
inline constexpr int kMaxChoices = 128;     // largest Request::n
inline constexpr int kMaxLogitBias = 1024;    // entries of SamplingParams::logit_bias
inline constexpr int kMaxStopTokenIds = 128;  // entries of SamplingParams::stop_token_ids
inline constexpr int kMaxPriority = 1000;     // Request::priority, either way

struct LogitBias {
  TokenId id = 0;
  float bias = 0;  // added to the logit before temperature; -100 and below bans the token
};

// How one request's tokens are drawn. Any value outside its range is refused by Engine::validate.
struct SamplingParams {
  float temperature = 1;         // [0, 100]; 0 is greedy
  float top_p = 1;               // (0, 1]
  float min_p = 0;               // [0, 1]; relative to the most likely token (Nguyen et al. 2024)
  std::int32_t top_k = 0;        // >= 0; 0 is off
  float repetition_penalty = 1;  // (0, 10]; counts prompt and output (Keskar et al. 2019)
  float frequency_penalty = 0;   // [-2, 2]; counts output only
  float presence_penalty = 0;    // [-2, 2]; counts output only
  // Token p of choice c is drawn with a number that depends on (seed, c, p) only, not on the batch. 0 is a seed as any other: requests
  // of equal prompt, parameters and seed give equal answers, so whoever wants others gives each request a seed of its own.
  std::uint64_t seed = 0;

  std::int32_t max_tokens = 16;  // >= 1; prompt + max_tokens <= EngineInfo::max_model_len
  std::int32_t min_tokens = 0;   // <= max_tokens; until then end-of-sequence and stop ids are banned
  bool ignore_eos = false;       // the model's end-of-sequence ids no longer end the choice
  std::vector<TokenId> stop_token_ids{};
  std::vector<LogitBias> logit_bias{};

  std::int32_t num_logprobs = -1;         // -1: none; 0..20: the token's own and that many alternatives
  std::int32_t num_prompt_logprobs = -1;  // the same for each prompt token but the first
};

struct Request {
  std::vector<TokenId> prompt{};  // 1 .. max_model_len - 1 ids, each in [0, vocab)
  SamplingParams sampling{};
  std::int32_t n = 1;         // choices drawn from one prompt, 1..kMaxChoices
  std::uint64_t user_tag = 0;  // comes back in every event; the engine does not read it
  // Smaller goes first: one unit is worth one second of waiting, so that a request of priority p is overtaken by those that come
  // up to p seconds later with priority 0 and by none after that. -kMaxPriority..kMaxPriority.
  std::int32_t priority = 0;
  std::int32_t ring_idx = 0;   // which event ring the answer goes to, 0..EngineConfig::num_event_rings - 1
};

enum class FinishReason : std::uint8_t {
  kNone,       // not finished
  kStop,       // an end-of-sequence id or one of stop_token_ids
  kLength,     // max_tokens reached
  kCancelled,  // Engine::cancel, or the engine is stopping
  kError,      // the backend failed or the sequence can never fit; nothing more comes
};

struct TopLogprob {
  TokenId id = 0;
  float logprob = 0;
};

enum class EventKind : std::uint8_t {
  kPromptToken,  // one prompt token's logprob, in order, before the first kToken (num_prompt_logprobs >= 0)
  kToken,        // one generated token; the end-of-sequence or stop id that ends a choice is one too (text.h hides it)
  kFinish,       // exactly one for each choice that Request::n asked for, and its last event
};

// One fixed-size record of an event ring. Logprobs are of the unmodified distribution (before
// temperature, penalties, bias and truncation), as vLLM reports them by default.
struct Event {
  RequestId request = 0;
  std::uint64_t user_tag = 0;
  std::int32_t choice_idx = 0;
  EventKind kind = EventKind::kToken;
  FinishReason reason = FinishReason::kNone;  // kFinish only
  bool last_of_request = false;               // kFinish only: every choice has finished; the ticket is back
  TokenId token = 0;                          // kToken and kPromptToken
  float logprob = 0;                          // 0 when none were asked for
  std::int32_t position = 0;                  // kPromptToken: its place in the prompt; kToken: place in the output
  std::int32_t num_top = 0;                   // alternatives: EventRing::top
  std::uint32_t top_start = 0;                // where they lie in the ring's slab
  std::int32_t num_cached_tokens = 0;         // prompt tokens taken from a prefix cache, on kFinish: 0, there is none yet
  std::uint64_t step_us = 0;                  // when the step was collected, steady clock, microseconds
  std::uint64_t start_us = 0;                 // when a step first computed something for the request; 0: none did
};

}  // namespace fastgen
