#include "fastgen/engine.h"

#include <algorithm>
#include <cmath>
#include <functional>
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
      check_whole(answer, expected_echo(requests[i], choice));
      num_last += answer.last_of_request;
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

TEST_CASE("engine: the same tokens whatever the batch, chunks, pool, ring, graphs and lag") {
  const std::uint64_t test_seed = seed();
  std::mt19937_64 random(test_seed);
  struct Variant {
    const char* name;
    std::function<void(EngineConfig&)> set;
  };
  const std::vector<Variant> variants = {
      {"plain", [](EngineConfig&) {}},
      {"no graphs", [](EngineConfig& config) { config.num_graphs = 0; }},
      {"alone", [](EngineConfig& config) { config.max_batch = 1; }},
      {"one chunk", [](EngineConfig& config) { config.max_prefill = 512; }},
      {"chunks of 3", [](EngineConfig& config) { config.max_prefill = 3; }},
      {"large batch", [](EngineConfig& config) { config.max_batch = 64; }},
      {"blocks of 1", [](EngineConfig& config) { config.block_size = 1; }},
      {"blocks of 64", [](EngineConfig& config) { config.block_size = 64; }},
      {"tiny pool", [](EngineConfig& config) { config.kv_gb = echo_kv_gb(26, config.block_size); }},
      {"tiny pool, large batch", [](EngineConfig& config) {
         config.max_batch = 64;
         config.kv_gb = echo_kv_gb(40, config.block_size);
       }},
      {"tiny pool, host tier", [](EngineConfig& config) {
         config.kv_gb = echo_kv_gb(26, config.block_size);
         config.host_kv_gb = echo_kv_gb(500, config.block_size);
       }},
      {"tiny pool, tiny host tier, large batch", [](EngineConfig& config) {
         config.max_batch = 64;
         config.kv_gb = echo_kv_gb(40, config.block_size);
         config.host_kv_gb = echo_kv_gb(30, config.block_size);
       }},
      {"tiny ring", [](EngineConfig& config) { config.event_ring_size = 8; }},
      {"tiny ring and pool, large batch", [](EngineConfig& config) {
         config.event_ring_size = 4;
         config.max_batch = 32;
         config.kv_gb = echo_kv_gb(40, config.block_size);
       }},
      {"tiny ring and pool, host tier, large batch", [](EngineConfig& config) {
         config.event_ring_size = 4;
         config.max_batch = 32;
         config.kv_gb = echo_kv_gb(40, config.block_size);
         config.host_kv_gb = echo_kv_gb(100, config.block_size);
       }},
  };
  const std::vector<Request> requests = random_requests(random, 60);
  for (const char* backend : {"echo", "late:echo"}) {
    for (const Variant& variant : variants) {
      CAPTURE(backend);
      CAPTURE(variant.name);
      setenv("FG_LATE_SEED", std::to_string(random() % 1000).c_str(), 1);
      EchoEngine echo(backend);
      variant.set(echo.config);
      auto engine = echo.create();
      check_answers(requests, run_all(*engine, requests));
      check_idle(*engine);
      const EngineStats stats = engine->stats();
      if (std::string(variant.name).starts_with("tiny pool")) CHECK(stats.num_preemptions > 0);
      if (std::string(variant.name).starts_with("tiny pool")) CHECK((stats.num_page_ins > 0) == (echo.config.host_kv_gb > 0));
      if (std::string(variant.name).starts_with("tiny ring")) CHECK(stats.num_ring_waits > 0);
      CHECK((stats.num_graph_steps > 0) == (std::string(variant.name) != "no graphs"));
    }
  }
}

TEST_CASE("engine: of lengths that are known nothing is computed twice, of others something is until the usual one is known") {
  check_every_step = true;
  EchoEngine echo("late:echo");
  echo.config.kv_gb = echo_kv_gb(40, echo.config.block_size);
  std::vector<Request> requests(60);
  std::uint64_t prompt_tokens = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt.assign(20 + i, static_cast<TokenId>(i));
    requests[i].sampling = {.seed = i, .max_tokens = 40 + static_cast<std::int32_t>(i) % 7, .ignore_eos = true};
    prompt_tokens += requests[i].prompt.size();
  }
  auto engine = echo.create();
  check_answers(requests, run_all(*engine, requests));
  CHECK(engine->stats().num_preemptions == 0);
  CHECK(engine->stats().prefill_tokens == prompt_tokens);
  for (Request& request : requests) {
    request.sampling.ignore_eos = false;
    request.sampling.logit_bias = {{kEosId, -100}};  // but nobody knows
    request.sampling.max_tokens = 43;
  }
  check_answers(requests, run_all(*engine, requests));
  const std::uint64_t num_preemptions = engine->stats().num_preemptions;
  CHECK(num_preemptions > 0);
  check_answers(requests, run_all(*engine, requests));
  CHECK(engine->stats().num_preemptions == num_preemptions);
  check_idle(*engine);
}

TEST_CASE("engine: answers that are cancelled teach how long answers are, as stop strings end them so") {
  EchoEngine echo("late:echo");
  echo.config.kv_gb = echo_kv_gb(40, echo.config.block_size);
  echo.config.event_ring_size = 64;  // so that an answer is hardly longer than what was read of it
  std::vector<Request> requests(60);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt.assign(20 + i, static_cast<TokenId>(i));
    requests[i].sampling = {.seed = i, .max_tokens = 43, .logit_bias = {{kEosId, -100}}};
  }
  auto engine = echo.create();
  Request endless = requests[0];
  endless.sampling.max_tokens = 130;
  const RequestId id = engine->submit(*engine->try_admit(), endless);
  Event event;
  while (event.kind != EventKind::kFinish) {
    if (engine->ring(0).wait(50)) engine->ring(0).acknowledge();
    while (event.kind != EventKind::kFinish && engine->ring(0).pop(event))
      if (event.kind == EventKind::kToken && event.position == 43) engine->cancel(id);
  }
  REQUIRE(event.reason == FinishReason::kCancelled);
  check_answers(requests, run_all(*engine, requests));
  CHECK(engine->stats().num_preemptions == 0);
}

TEST_CASE("engine: n choices start from one prefill") {
  for (const char* backend : {"echo", "late:echo"}) {
    CAPTURE(backend);
    EchoEngine echo(backend);
    for (const std::int32_t max_batch : {4, 64}) {
      echo.config.max_batch = max_batch;
      auto engine = echo.create();
      Request request;
      request.prompt.assign(33, 7);
      request.n = 40;
      request.sampling = {.temperature = 1, .seed = 5, .max_tokens = 12, .ignore_eos = true};
      check_answers({request}, run_all(*engine, {request}));
      check_idle(*engine);
      // The prompt once (two chunks); for the 36 that found no free row, its last token again.
      CHECK(engine->stats().prefill_tokens == (max_batch == 64 ? 33 : 33 + 36));
      CHECK(engine->stats().decode_tokens == 40 * 11);
    }
  }
}

TEST_CASE("engine: prompt logprobs are echo's, in order, once, preempted or not") {
  std::mt19937_64 random(seed());
  EchoEngine echo("late:echo");
  echo.config.kv_gb = echo_kv_gb(26, echo.config.block_size);
  echo.config.event_ring_size = 16;
  std::vector<Request> requests = random_requests(random, 30);
  for (Request& request : requests) request.sampling.num_prompt_logprobs = 0;
  auto engine = echo.create();
  const Answers answers = run_all(*engine, requests);
  check_answers(requests, answers);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const Answer expected = expected_echo(requests[i], 0);
    REQUIRE(expected.prompt.size() == requests[i].prompt.size() - 1);
    CHECK(answers.at({i, 0}).prompt == expected.prompt);
  }
}

TEST_CASE("engine: cancel ends each choice once, soon, and tokens before it are right") {
  std::mt19937_64 random(seed());
  for (const char* backend : {"echo", "late:echo"}) {
    CAPTURE(backend);
    EchoEngine echo(backend);
    echo.config.kv_gb = echo_kv_gb(60, echo.config.block_size);
    auto engine = echo.create();
    Answers answers;
    std::vector<Request> requests;
    int num_over = 0;
    std::vector<RequestId> ids;
    EventRing& ring = engine->ring(0);
    const auto drain = [&] {
      for (Event event; ring.pop(event);) {
        take_event(answers, event, ring.top(event));
        num_over += event.last_of_request;
      }
    };
    while (requests.size() < 400) {
      auto ticket = engine->try_admit();
      if (!ticket) {
        ring.wait(10);
        drain();
        continue;
      }
      Request request = random_request(random, 60, 100);
      request.user_tag = requests.size();
      request.sampling.ignore_eos = true;
      requests.push_back(request);
      ids.push_back(engine->submit(std::move(*ticket), request));
      if (random() % 2) drain();
      // Any request, also one that is long over, whole or one choice.
      for (int i = 0; i < 2; ++i) engine->cancel(ids[random() % ids.size()], random() % 2 ? -1 : static_cast<int>(random() % 6));
    }
    take_until(*engine, answers, static_cast<int>(requests.size()) - num_over);
    check_idle(*engine);
    int num_cancelled = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      for (std::int32_t choice = 0; choice < requests[i].n; ++choice) {
        const Answer& answer = answers.at({i, choice});
        const Answer expected = expected_echo(requests[i], choice);
        if (answer.reason == FinishReason::kCancelled) {
          ++num_cancelled;
          check_begun(answer, expected);
        } else {
          check_whole(answer, expected);
        }
      }
    }
    CHECK(num_cancelled > 20);
  }
}

TEST_CASE("engine: 10,000 submit and cancel cycles leave nothing behind") {
  EchoEngine echo;
  auto engine = echo.create();
  Request request;
  request.prompt.assign(20, 3);
  request.sampling.max_tokens = 400;
  request.sampling.ignore_eos = true;
  request.n = 2;
  EventRing& ring = engine->ring(0);
  int num_finishes = 0, num_submitted = 0;
  while (num_submitted < 10'000) {
    if (auto ticket = engine->try_admit()) {
      engine->cancel(engine->submit(std::move(*ticket), request));
      ++num_submitted;
    } else {
      ring.wait(100);
    }
    for (Event event; ring.pop(event);) num_finishes += event.kind == EventKind::kFinish;
  }
  while (num_finishes < 20'000 && ring.wait(5000))
    for (Event event; ring.pop(event);) num_finishes += event.kind == EventKind::kFinish;
  check_idle(*engine);
  CHECK(num_finishes == 20'000);
}

TEST_CASE("engine: a consumer that takes nothing pauses only its own sequences") {
  std::mt19937_64 random(seed());
  for (const char* backend : {"echo", "late:echo"}) {
    CAPTURE(backend);
    EchoEngine echo(backend);
    echo.config.num_event_rings = 2;
    echo.config.event_ring_size = 32;
    echo.config.kv_gb = echo_kv_gb(60, echo.config.block_size);
    auto engine = echo.create();
    // As many as the batch has rows, and more than its ring holds.
    std::vector<Request> paused(8);
    for (std::size_t i = 0; i < paused.size(); ++i) {
      paused[i].prompt.assign(20, static_cast<TokenId>(i));
      paused[i].sampling = {.temperature = 0, .max_tokens = 50, .ignore_eos = true};
      paused[i].ring_idx = 1;
      paused[i].user_tag = i;
      engine->submit(std::move(*engine->try_admit()), paused[i]);
    }
    std::vector<Request> requests = random_requests(random, 8);
    check_answers(requests, run_all(*engine, requests));
    CHECK(engine->stats().num_ring_waits > 0);
    // Nothing was lost: they go on when their events are taken.
    Answers answers;
    EventRing& ring = engine->ring(1);
    for (int num_over = 0; num_over < 8;) {
      ring.wait(100);
      for (Event event; ring.pop(event);) {
        take_event(answers, event, ring.top(event));
        num_over += event.last_of_request;
      }
    }
    check_answers(paused, answers);
    check_idle(*engine);
  }
}

TEST_CASE("engine: stop cancels everything and the ring can still be drained") {
  for (const char* backend : {"echo", "late:echo"}) {
    EchoEngine echo(backend);
    echo.config.event_ring_size = 8;
    auto engine = echo.create();
    Request request;
    request.prompt = {1, 2, 3};
    request.n = 4;
    request.sampling = {.max_tokens = 400, .ignore_eos = true};
    for (std::uint64_t i = 0; i < 16; ++i) {
      request.user_tag = i;
      engine->submit(std::move(*engine->try_admit()), request);
    }
    engine->stop();
    Answers answers;
    for (Event event; engine->ring(0).pop(event);) take_event(answers, event, {});
    CHECK(answers.size() == 64);
    for (const auto& [key, answer] : answers) CHECK(answer.num_finishes == 1);
  }
}

TEST_CASE("engine: tickets are bounded and come back") {
  EchoEngine echo;
  echo.config.max_queue = 3;
  auto engine = echo.create();
  std::vector<Ticket> tickets;
  while (auto ticket = engine->try_admit()) tickets.push_back(std::move(*ticket));
  CHECK(tickets.size() == 3);
  CHECK(engine->stats().tickets_in_use == 3);
  tickets.pop_back();
  CHECK(engine->try_admit());
  tickets.clear();
  check_idle(*engine);
}

TEST_CASE("engine: what is wrong with a configuration is named") {
  EchoEngine echo;
  const auto fault = [&](const std::function<void(EngineConfig&)>& set) -> std::string {
    EngineConfig config = echo.config;
    set(config);
    try {
      Engine::create(config);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto names = [](const std::string& message, const char* what) { return message.find(what) != std::string::npos; };
  CHECK(names(fault([](auto& config) { config.gpu_gb = 1; }), "--gpu-gb"));
  CHECK(names(fault([](auto& config) { config.gpu_fraction = 0.5; }), "--gpu-fraction"));
  CHECK(names(fault([](auto& config) { config.gpu_fraction = 1.5; }), "--gpu-fraction"));
  CHECK(names(fault([](auto& config) { config.tune_s = 5; }), "--tune-s needs a GPU"));
  CHECK(names(fault([](auto& config) { config.tune_s = -1; }), "--tune-s must be"));
  CHECK(names(fault([](auto& config) { config.num_graphs = -1; }), "--graphs"));
  CHECK(names(fault([](auto& config) { config.kv_gb = 1e-9; }), "--kv-gb"));
  CHECK(names(fault([](auto& config) { config.kv_gb = 1e300; }), "--kv-gb must be between 0 and 1000000"));
  CHECK(names(fault([](auto& config) { config.kv_gb = std::nan(""); }), "--kv-gb must be between 0 and 1000000"));
  CHECK(names(fault([](auto& config) { config.host_kv_gb = 1e-9; }), "--host-kv-gb: 0.000000 GB hold no block of 4 tokens"));
  CHECK(names(fault([](auto& config) { config.host_kv_gb = -1; }), "--host-kv-gb must be between 0 and 1000000"));
  CHECK(names(fault([](auto& config) { config.host_kv_gb = std::nan(""); }), "--host-kv-gb must be between 0 and 1000000"));
  CHECK(names(fault([](auto& config) { config.host_kv_gb = 1e6; }), "--host-kv-gb 1000000: "));
  CHECK(names(fault([](auto& config) { config.gpu_gb = -1; }), "--gpu-gb must be between 0 and 1000000"));
  CHECK(names(fault([](auto& config) { config.block_size = 0; }), "--block-size"));
  CHECK(names(fault([](auto& config) { config.max_model_len = 100'000; }), "--max-model-len"));
  CHECK(names(fault([](auto& config) { config.backend = "abacus"; }), "--backend"));
  CHECK(names(fault([](auto& config) { config.model = "/nowhere"; }), "/nowhere"));
}

TEST_CASE("engine: the longest request is lowered to what the arena holds") {
  EchoEngine echo;
  echo.config.kv_gb = echo_kv_gb(5, 4);
  auto engine = echo.create();
  CHECK(engine->info().max_model_len == 20);
  CHECK(engine->info().max_model_len_lowered);
  CHECK(engine->info().kv_tokens == 20);
  Request request;
  request.prompt.assign(8, 9);
  request.n = 3;
  request.sampling = {.max_tokens = 12, .ignore_eos = true};
  check_answers({request}, run_all(*engine, {request}));
  request.sampling.max_tokens = 13;
  std::string field;
  CHECK(engine->validate(request, &field) != "");
  CHECK(field == "max_tokens");
  check_idle(*engine);
}
