// A client's JSON as plain data: every field validated, unknown or unsupported ones refused or ignored as
// docs of each say. No token work happens here. Reentrant.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fastgen/types.h"
#include "server/api_error.h"

namespace fastgen::server {

enum class Endpoint : std::uint8_t { kChat, kCompletions };

// One prompt of a completion: text, or ids that the client tokenized.
struct PromptInput {
  std::string text;
  std::vector<TokenId> ids;
  bool is_text = true;
};

struct ApiRequest {
  Endpoint endpoint = Endpoint::kChat;
  std::string model;

  // chat
  std::string messages_json;   // content parts of type text joined to one string
  std::string documents_json;  // empty: none
  std::string kwargs_json;     // chat_template_kwargs, empty: none
  std::string chat_template;   // the name of one of the model's, or the text of one; empty: the model's
  bool add_generation_prompt = true;
  // completions
  std::vector<PromptInput> prompts;
  bool echo = false;

  std::optional<bool> add_special_tokens;  // default: false for chat, true for completions
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool return_token_ids = false;

  SamplingParams sampling;                 // without max_tokens and seed where the two below are empty
  std::optional<std::int32_t> max_tokens;  // 0 only with echo
  std::optional<std::uint64_t> seed;
  std::int32_t n = 1;
  std::int32_t best_of = 0;  // > n: so many are drawn, the n with the best mean logprob are the answer
  std::vector<std::string> stop;
  bool skip_special_tokens = true;
  bool include_stop = false;
  std::int32_t priority = 0;
  std::optional<double> timeout_ms;       // since the request came; what is there then is the answer
  std::optional<double> ttft_timeout_ms;  // the same until the first token
  // Fields that had no effect: at most kMaxIgnoredNames names of plain letters; the rest is only counted.
  std::vector<std::string> ignored;
  std::size_t num_ignored_more = 0;
  bool wants_logprobs = false;  // of the answer's tokens; sampling.num_logprobs then says how many alternatives

  std::int32_t num_drawn() const { return best_of > n ? best_of : n; }
  std::size_t num_prompts() const { return endpoint == Endpoint::kChat ? 1 : prompts.size(); }
};

inline constexpr std::size_t kMaxStopStrings = 64;   // vLLM's users send more than OpenAI's four
inline constexpr std::size_t kMaxStopBytes = 4096;   // of one stop string
inline constexpr std::size_t kMaxPrompts = 4096;     // of one completions request
inline constexpr std::size_t kMaxTemplateBytes = 256 << 10;  // of a request's own chat template; published ones have up to 30 KB

inline constexpr std::size_t kMaxIgnoredNames = 16;
inline constexpr double kMaxTimeoutMs = 86'400'000;  // a day

// `defaults`: how to draw where the client does not say (EngineInfo::sampling). Throws ApiError 400, whose param is the
// field's path. `strict`: also for fields that would have no effect.
ApiRequest parse_api_request(Endpoint endpoint, std::string_view body, const SamplingParams& defaults = {},
                             bool strict = false);
// "user_x, foo, +3" for the x-fastgen-ignored-params header; empty: none.
std::string ignored_params(const ApiRequest& request);

}  // namespace fastgen::server
