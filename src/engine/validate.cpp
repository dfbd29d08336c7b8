#include "engine/validate.h"

#include <cmath>

#include <fmt/format.h>

namespace fastgen {
namespace {

// Remembers the first fault.
class Validator {
 public:
  void require(bool is_met, const char* field, const std::string& message) {
    if (is_met || !message_.empty()) return;
    field_ = field;
    message_ = message;
  }
  template <typename T>
  void range(const char* field, T value, T low, T high) {
    require(value >= low && value <= high, field, fmt::format("{} must be between {} and {}, not {}", field, low, high, value));
  }
  void ids(const char* field, const std::vector<TokenId>& ids, std::int32_t vocab) {
    for (TokenId id : ids)
      require(id >= 0 && id < vocab, field, fmt::format("{}: token id {} is not in [0, {})", field, id, vocab));
  }
  const std::string& message() const { return message_; }
  const std::string& field() const { return field_; }

 private:
  std::string message_, field_;
};

void check_sampling(Validator& check, const SamplingParams& params, std::int32_t vocab) {
  check.range("temperature", params.temperature, 0.0f, 100.0f);
  check.require(params.top_p > 0 && params.top_p <= 1, "top_p", fmt::format("top_p must be in (0, 1], not {}", params.top_p));
  check.range("min_p", params.min_p, 0.0f, 1.0f);
  check.require(params.top_k >= 0, "top_k", fmt::format("top_k must not be negative, it is {}", params.top_k));
  check.require(params.repetition_penalty > 0 && params.repetition_penalty <= 10, "repetition_penalty",
                fmt::format("repetition_penalty must be in (0, 10], not {}", params.repetition_penalty));
  check.range("frequency_penalty", params.frequency_penalty, -2.0f, 2.0f);
  check.range("presence_penalty", params.presence_penalty, -2.0f, 2.0f);
  check.require(params.max_tokens >= 1, "max_tokens", fmt::format("max_tokens must be at least 1, not {}", params.max_tokens));
  check.range("min_tokens", params.min_tokens, 0, std::max(0, params.max_tokens));
  check.range("num_logprobs", params.num_logprobs, -1, kMaxTopLogprobs);
  check.range("num_prompt_logprobs", params.num_prompt_logprobs, -1, kMaxTopLogprobs);
  check.require(params.stop_token_ids.size() <= kMaxStopTokenIds, "stop_token_ids",
                fmt::format("stop_token_ids has {} ids, at most {} are allowed", params.stop_token_ids.size(), kMaxStopTokenIds));
  check.ids("stop_token_ids", params.stop_token_ids, vocab);
  check.require(params.logit_bias.size() <= kMaxLogitBias, "logit_bias",
                fmt::format("logit_bias has {} entries, at most {} are allowed", params.logit_bias.size(), kMaxLogitBias));
  for (const LogitBias& bias : params.logit_bias) {
    check.require(bias.id >= 0 && bias.id < vocab, "logit_bias", fmt::format("logit_bias: token id {} is not in [0, {})", bias.id, vocab));
    check.require(!std::isnan(bias.bias) && bias.bias <= 1e4f, "logit_bias", fmt::format("logit_bias: {} is no bias", bias.bias));
  }
}

}  // namespace

std::string validate_request(const Request& request, const EngineInfo& info, std::int32_t num_rings, std::string* field) {
  Validator check;
  const std::int64_t prompt_len = static_cast<std::int64_t>(request.prompt.size());
  check.require(prompt_len >= 1, "prompt", "the prompt is empty");
  check.require(prompt_len < info.max_model_len, "prompt",
                fmt::format("the prompt has {} tokens, the model's context {}", prompt_len, info.max_model_len));
  check.ids("prompt", request.prompt, info.vocab);
  check.range("n", request.n, 1, kMaxChoices);
  check.range("priority", request.priority, -kMaxPriority, kMaxPriority);
  check.range("ring_idx", request.ring_idx, 0, num_rings - 1);
  check_sampling(check, request.sampling, info.vocab);
  check.require(prompt_len + request.sampling.max_tokens <= info.max_model_len, "max_tokens",
                fmt::format("prompt ({} tokens) and max_tokens ({}) together are over the model's context of {}", prompt_len,
                            request.sampling.max_tokens, info.max_model_len));
  if (field) *field = check.field();
  return check.message();
}

}  // namespace fastgen
