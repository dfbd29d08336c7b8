#include "engine_support.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <thread>

#include "backend/echo/echo_function.h"

namespace fastgen::test {

void write_config(const std::filesystem::path& folder) {
  std::ofstream(folder / "config.json") << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": )" << kVocab << R"(, "max_position_embeddings": )" << kMaxPositions << R"(, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": )"
                                        << kEosId << "}\n";
}

void write_windowed_config(const std::filesystem::path& folder, std::int32_t window) {
  write_config(folder);
  std::string text = read_file(folder / "config.json");
  const auto replace = [&](const std::string& from, const std::string& to) { text.replace(text.find(from), from.size(), to); };
  replace("LlamaForCausalLM", "MistralForCausalLM");
  replace("\"llama\"", "\"mistral\", \"sliding_window\": " + std::to_string(window));
  std::ofstream(folder / "config.json") << text;
}

EngineConfig echo_engine(const std::filesystem::path& folder, const std::string& backend) {
  EngineConfig config;
  config.model = folder.string();
  config.backend = backend;
  config.dtype = "float32";
  config.block_size = 4;
  config.max_batch = 8;
  config.max_prefill = 32;
  config.max_queue = 16;
  config.event_ring_size = 4096;
  return config;
}

Request random_request(std::mt19937_64& random, std::int32_t max_prompt, std::int32_t max_tokens) {
  const auto below = [&](std::int32_t bound) { return static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(bound)); };
  Request request;
  for (std::int32_t i = 1 + below(max_prompt); i > 0; --i) request.prompt.push_back(below(kVocab));
  SamplingParams& params = request.sampling;
  params.temperature = below(2) ? 0.0f : 0.8f;
  params.seed = random();
  params.max_tokens = 1 + below(max_tokens);
  if (below(4) == 0) params.min_tokens = below(params.max_tokens + 1);
  if (below(8) == 0) params.ignore_eos = true;
  if (below(4) == 0) params.stop_token_ids = {125 + below(375), 125 + below(375), 125 + below(375)};
  if (below(4) == 0) params.logit_bias = {{125 + below(375), -100}, {below(kVocab), 5}};
  if (below(3) == 0) params.num_logprobs = below(kMaxTopLogprobs + 1);
  if (below(4) == 0) params.num_prompt_logprobs = below(5);
  if (below(3) == 0) request.n = 1 + below(5);
  return request;
}

double echo_kv_gb(std::int32_t num_blocks, std::int32_t block_size) {
  // Two words of 8 bytes (K and V) and a token id of 4 bytes per token.
  return num_blocks * block_size * 20.0 / 1e9;
}

void take_event(Answers& answers, const Event& event, std::span<const TopLogprob> top) {
  Answer& answer = answers[{event.user_tag, event.choice_idx}];
  REQUIRE(answer.num_finishes == 0);
  switch (event.kind) {
    case EventKind::kPromptToken:
      REQUIRE(answer.tokens.empty());
      REQUIRE(event.position == static_cast<std::int32_t>(answer.prompt.size()) + 1);
      answer.prompt.emplace_back(event.token, event.logprob);
      break;
    case EventKind::kToken:
      REQUIRE(event.position == static_cast<std::int32_t>(answer.tokens.size()));
      answer.tokens.push_back(event.token);
      answer.logprobs.push_back(event.logprob);
      answer.tops.emplace_back(top.begin(), top.end());
      break;
    case EventKind::kFinish:
      ++answer.num_finishes;
      answer.reason = event.reason;
      answer.last_of_request = event.last_of_request;
  }
}

void take_until(Engine& engine, Answers& answers, int num_requests) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(10);  // far more than any build on a busy machine
  int num_over = 0;
  EventRing& ring = engine.ring(0);
  while (num_over < num_requests) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    ring.wait(100);
    for (Event event; ring.pop(event);) {
      take_event(answers, event, ring.top(event));
      num_over += event.last_of_request;
    }
  }
}

Answers run_all(Engine& engine, std::vector<Request> requests) {
  Answers answers;
  const std::size_t max_open = static_cast<std::size_t>(engine.info().max_queue);
  for (std::size_t first = 0; first < requests.size(); first += max_open) {
    const std::size_t count = std::min(max_open, requests.size() - first);
    for (std::size_t i = first; i < first + count; ++i) {
      requests[i].user_tag = i;
      auto ticket = engine.try_admit();
      REQUIRE(ticket);
      REQUIRE(engine.validate(requests[i]) == "");
      engine.submit(std::move(*ticket), requests[i]);
    }
    take_until(engine, answers, static_cast<int>(count));
  }
  return answers;
}

void EchoContext::push(TokenId id) {
  const auto add = [&](std::size_t position, std::uint64_t sign) {
    const std::uint64_t term = echo::term(ids_[position], static_cast<std::int32_t>(position));
    keys_ += sign * term;
    values_ += sign * echo::mix64(term);
  };
  ids_.push_back(id);
  add(ids_.size() - 1, 1);
  const auto window = static_cast<std::size_t>(window_);
  if (window > 0 && ids_.size() > window) add(ids_.size() - 1 - window, ~std::uint64_t{0});
}

std::uint64_t EchoContext::hash() const { return echo::hash_of_sums(keys_, values_); }

Answer expected_echo(const Request& request, std::int32_t choice_idx, std::int32_t window) {
  const SamplingParams& params = request.sampling;
  const auto contains = [](const std::vector<TokenId>& ids, TokenId id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); };
  const auto ends = [&](TokenId id) { return (!params.ignore_eos && id == kEosId) || contains(params.stop_token_ids, id); };
  EchoContext context(window);
  Answer answer;
  for (const TokenId& id : request.prompt) {
    if (params.num_prompt_logprobs >= 0 && &id != request.prompt.data())
      answer.prompt.emplace_back(id, echo::logprob(context.hash(), id, kVocab));
    context.push(id);
  }
  while (answer.reason == FinishReason::kNone) {
    const auto position = static_cast<std::int32_t>(answer.tokens.size());
    const auto is_banned = [&](TokenId id) {
      return (position < params.min_tokens && ends(id)) ||
             std::any_of(params.logit_bias.begin(), params.logit_bias.end(),
                         [&](const LogitBias& bias) { return bias.id == id && bias.bias <= -100; });
    };
    const std::uint64_t draw = echo::draw_of(context.hash(), params.temperature, params.seed, static_cast<std::uint32_t>(choice_idx),
                                             static_cast<std::uint32_t>(position));
    const TokenId id = echo::allowed_id(draw, kVocab, is_banned);
    answer.tokens.push_back(id);
    answer.logprobs.push_back(params.num_logprobs >= 0 ? echo::logprob(context.hash(), id, kVocab) : 0);
    auto& top = answer.tops.emplace_back();
    for (std::int32_t j = 0; j < params.num_logprobs; ++j) {
      const TokenId other = echo::alternative(context.hash(), j, kVocab);
      top.push_back({other, echo::logprob(context.hash(), other, kVocab)});
    }
    context.push(id);
    if (ends(id)) answer.reason = FinishReason::kStop;
    else if (position + 1 >= params.max_tokens) answer.reason = FinishReason::kLength;
  }
  return answer;
}

void check_whole(const Answer& answer, const Answer& expected) {
  check_begun(answer, expected);
  CHECK(answer.tokens.size() == expected.tokens.size());
  CHECK(answer.reason == expected.reason);
}

void check_begun(const Answer& answer, const Answer& expected) {
  CHECK(answer.num_finishes == 1);
  REQUIRE(answer.tokens.size() <= expected.tokens.size());
  const auto equal = [&](const auto& have, const auto& want, const auto& same) {
    return std::equal(have.begin(), have.end(), want.begin(), want.begin() + static_cast<std::ptrdiff_t>(have.size()), same);
  };
  CHECK(equal(answer.tokens, expected.tokens, std::equal_to<>()));
  CHECK(equal(answer.logprobs, expected.logprobs, std::equal_to<>()));
  CHECK(equal(answer.tops, expected.tops, [&](const auto& have, const auto& want) {
    return std::equal(have.begin(), have.end(), want.begin(), want.end(),
                      [](const TopLogprob& a, const TopLogprob& b) { return a.id == b.id && a.logprob == b.logprob; });
  }));
}

void check_idle(Engine& engine) {
  // The stats of the last step may come a moment after its events.
  EngineStats stats = engine.stats();
  for (int i = 0; i < 1000 && (stats.num_running > 0 || stats.num_free_blocks != stats.num_blocks || stats.num_free_host_blocks != stats.num_host_blocks); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stats = engine.stats();
  }
  CHECK(stats.tickets_in_use == 0);
  CHECK(stats.num_running == 0);
  CHECK(stats.num_waiting == 0);
  CHECK(stats.num_free_blocks == stats.num_blocks);
  CHECK(stats.num_free_host_blocks == stats.num_host_blocks);
  CHECK(!stats.failed);
}

}  // namespace fastgen::test
