// A rollout loop, as reinforcement learning runs it: many samples of each prompt, the logprob of every token, and an
// early end for samples that are not worth going on with.
//
//   rollout [MODEL [BACKEND [PROMPTS [SAMPLES]]]]      rollout ~/models/SmolLM2 cpu 32 8
//   rollout FOLDER cpu:dummy                           random weights from FOLDER/config.json alone
//
// What to look at: tickets bound what is in the engine, so nothing here can overrun it; events are drained in the
// same loop that submits, and an engine whose ring is full waits for us, losing nothing; a sample is
// cancelled while its neighbours go on.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fastgen/engine.h"

using namespace fastgen;

namespace {

struct Sample {
  std::vector<TokenId> tokens;
  double logprob = 0;  // of all its tokens
  FinishReason reason = FinishReason::kNone;
};

class Rollout {
 public:
  Rollout(Engine& engine, int num_prompts, int samples_per_prompt)
      : engine_(engine), samples_per_prompt_(samples_per_prompt), samples_(static_cast<std::size_t>(num_prompts * samples_per_prompt)) {}

  // Submits while there are tickets and takes events in between, until every sample is over.
  bool run() {
    const std::size_t num_prompts = samples_.size() / static_cast<std::size_t>(samples_per_prompt_);
    std::size_t num_submitted = 0;
    while (num_over_ < samples_.size()) {
      while (num_submitted < num_prompts) {
        auto ticket = engine_.try_admit();
        if (!ticket) break;  // back-pressure: first take what is there
        const Request request = make_request(num_submitted);
        const std::string fault = engine_.validate(request);
        if (!fault.empty()) return std::fprintf(stderr, "rollout: %s\n", fault.c_str()), false;
        engine_.submit(std::move(*ticket), request);
        ++num_submitted;
      }
      EventRing& ring = engine_.ring(0);
      if (!ring.wait(10'000)) return std::fprintf(stderr, "rollout: nothing came for 10 s\n"), false;
      for (Event event; ring.pop(event);) take(event);
    }
    return report();
  }

 private:
  // A program would tokenize text (text.h); these prompts are made up. user_tag says whose answer an event is.
  Request make_request(std::size_t prompt_idx) const {
    Request request;
    for (std::size_t i = 0; i < 8 + prompt_idx % 24; ++i)
      request.prompt.push_back(static_cast<TokenId>((prompt_idx * 7919 + i * 104729) % static_cast<std::size_t>(engine_.info().vocab)));
    request.n = samples_per_prompt_;
    request.user_tag = prompt_idx;
    request.sampling.temperature = 1;
    request.sampling.seed = 1234 + prompt_idx;
    request.sampling.max_tokens = 48;
    request.sampling.num_logprobs = 0;
    return request;
  }

  void take(const Event& event) {
    Sample& sample = samples_[event.user_tag * static_cast<std::size_t>(samples_per_prompt_) + static_cast<std::size_t>(event.choice_idx)];
    if (event.kind == EventKind::kFinish) {
      sample.reason = event.reason;
      ++num_over_;
    } else if (event.kind == EventKind::kToken) {
      sample.tokens.push_back(event.token);
      sample.logprob += event.logprob;
      // A made-up reward model: samples that wander off early are not worth finishing.
      if (sample.tokens.size() == 16 && event.token % 8 == 0) engine_.cancel(event.request, event.choice_idx);
    }
  }

  bool report() const {
    std::map<FinishReason, int> reasons;
    std::size_t num_tokens = 0;
    double logprob = 0;
    for (const Sample& sample : samples_) {
      ++reasons[sample.reason];
      num_tokens += sample.tokens.size();
      logprob += sample.logprob;
    }
    std::printf("%zu samples, %zu tokens, mean logprob %.3f: %d stopped, %d full length, %d cancelled, %d failed\n", samples_.size(),
                num_tokens, num_tokens ? logprob / static_cast<double>(num_tokens) : 0, reasons[FinishReason::kStop],
                reasons[FinishReason::kLength], reasons[FinishReason::kCancelled], reasons[FinishReason::kError]);
    return num_tokens > 0 && reasons[FinishReason::kError] == 0;
  }

  Engine& engine_;
  int samples_per_prompt_;
  std::vector<Sample> samples_;  // by prompt, then choice
  std::size_t num_over_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    EngineConfig config;
    if (argc > 1) config.model = argv[1];
    if (argc > 2) config.backend = argv[2];
    if (config.backend.ends_with(":dummy")) {
      config.backend.resize(config.backend.size() - 6);
      config.dummy_weights = true;
    }
    config.max_queue = 16;
    config.event_ring_size = 1024;
    config.kv_gb = 0.2;
    const auto engine = Engine::create(config);
    const int num_prompts = argc > 3 ? std::atoi(argv[3]) : 32, samples = argc > 4 ? std::atoi(argv[4]) : 8;
    if (num_prompts < 1 || samples < 1) throw Error("rollout: PROMPTS and SAMPLES must be positive numbers");
    const bool went_well = Rollout(*engine, num_prompts, samples).run();
    const EngineStats stats = engine->stats();
    std::printf("%llu steps, %llu prefill and %llu decode tokens, %llu preemptions\n",
                static_cast<unsigned long long>(stats.num_steps), static_cast<unsigned long long>(stats.prefill_tokens),
                static_cast<unsigned long long>(stats.decode_tokens), static_cast<unsigned long long>(stats.num_preemptions));
    return went_well ? 0 : 1;
  } catch (const Error& error) {
    std::fprintf(stderr, "rollout: %s\n", error.what());
    return 1;
  }
}
