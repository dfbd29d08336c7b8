#include "engine_support.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include "backend/backend.h"
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

bool has_gpu() {
  try {
    make_backend("cuda", {});
    return true;
  } catch (const Error& error) {
    std::printf("%s\n", error.what());
    return false;
  }
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
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
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

Answer expected_echo(const Request& request, std::int32_t choice_idx, std::int32_t vocab, const std::vector<TokenId>& eos_ids) {
  const SamplingParams& params = request.sampling;
  const auto contains = [](const std::vector<TokenId>& ids, TokenId id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); };
  const auto ends = [&](TokenId id) { return (!params.ignore_eos && contains(eos_ids, id)) || contains(params.stop_token_ids, id); };
  echo::Context context;
  for (TokenId id : request.prompt) context.push(id);
  Answer answer;
  while (answer.reason == FinishReason::kNone) {
    const auto position = static_cast<std::int32_t>(answer.tokens.size());
    const auto is_banned = [&](TokenId id) {
      return (position < params.min_tokens && ends(id)) ||
             std::any_of(params.logit_bias.begin(), params.logit_bias.end(),
                         [&](const LogitBias& bias) { return bias.id == id && bias.bias <= -100; });
    };
    const std::uint64_t draw = echo::draw_of(context.hash(), params.temperature, params.seed, static_cast<std::uint32_t>(choice_idx),
                                             static_cast<std::uint32_t>(position));
    const TokenId id = echo::allowed_id(draw, vocab, is_banned);
    answer.tokens.push_back(id);
    answer.logprobs.push_back(params.num_logprobs >= 0 ? echo::logprob(context.hash(), id, vocab) : 0);
    auto& top = answer.tops.emplace_back();
    for (std::int32_t j = 0; j < params.num_logprobs; ++j) {
      const TokenId other = echo::alternative(context.hash(), j, vocab);
      top.push_back({other, echo::logprob(context.hash(), other, vocab)});
    }
    context.push(id);
    if (ends(id)) answer.reason = FinishReason::kStop;
    else if (position + 1 >= params.max_tokens) answer.reason = FinishReason::kLength;
  }
  return answer;
}

void check_idle(Engine& engine) {
  // The stats of the last step may come a moment after its events.
  EngineStats stats = engine.stats();
  for (int i = 0; i < 1000 && (stats.num_running > 0 || stats.num_free_blocks != stats.num_blocks); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stats = engine.stats();
  }
  CHECK(stats.tickets_in_use == 0);
  CHECK(stats.num_running == 0);
  CHECK(stats.num_waiting == 0);
  CHECK(stats.num_free_blocks == stats.num_blocks);
  CHECK(!stats.failed);
}

}  // namespace fastgen::test
