#include "fastgen/engine.h"

#include <random>

#include "engine/debug_checks.h"
#include "engine_support.h"

using namespace fastgen;
using namespace fastgen::test;

namespace {

struct EchoEngine {
  TempDir dir;
  EngineConfig config;
  explicit EchoEngine(const std::string& backend = "echo") {
    check_every_step = true;
    write_config(dir.path());
    config = echo_engine(dir.path(), backend);
  }
  std::unique_ptr<Engine> create() const { return Engine::create(config); }
};

Request random_request(std::mt19937_64& random, std::int32_t max_prompt = 60, std::int32_t max_tokens = 40) {
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

std::vector<Request> random_requests(std::mt19937_64& random, int count) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) requests.push_back(random_request(random));
  return requests;
}

void check_answers(const std::vector<Request>& requests, const Answers& answers) {
  for (std::size_t i = 0; i < requests.size(); ++i) {
    int num_last = 0;
    for (std::int32_t choice = 0; choice < requests[i].n; ++choice) {
      CAPTURE(i);
      CAPTURE(choice);
      REQUIRE(answers.contains({i, choice}));
      const Answer& answer = answers.at({i, choice});
      const Answer expected = expected_echo(requests[i], choice);
      CHECK(answer.tokens == expected.tokens);
      CHECK(answer.logprobs == expected.logprobs);
      CHECK(answer.reason == expected.reason);
      CHECK(answer.num_finishes == 1);
      num_last += answer.last_of_request;
      REQUIRE(answer.tops.size() == expected.tops.size());
      for (std::size_t t = 0; t < answer.tops.size(); ++t) {
        REQUIRE(answer.tops[t].size() == expected.tops[t].size());
        for (std::size_t j = 0; j < answer.tops[t].size(); ++j) {
          CHECK(answer.tops[t][j].id == expected.tops[t][j].id);
          CHECK(answer.tops[t][j].logprob == expected.tops[t][j].logprob);
        }
      }
    }
    CHECK(num_last == 1);
  }
}

}  // namespace

TEST_CASE("engine: one request on echo gives the published tokens") {
  EchoEngine echo;
  auto engine = echo.create();
  Request request;
  request.prompt = {1, 2, 3, 4, 5, 6, 7};
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 20;
  check_answers({request}, run_all(*engine, {request}));
  check_idle(*engine);
}

TEST_CASE("engine: random mixes on echo") {
  std::mt19937_64 random(seed());
  for (const char* backend : {"echo", "late:echo"}) {
    CAPTURE(backend);
    EchoEngine echo(backend);
    const std::vector<Request> requests = random_requests(random, 40);
    auto engine = echo.create();
    check_answers(requests, run_all(*engine, requests));
    check_idle(*engine);
  }
}
