// The host tier: what is preempted goes to host memory and comes back, and nothing is computed twice.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/echo/echo_backend.h"
#include "backend/forwarding.h"
#include "backend/late/late_backend.h"
#include "engine/debug_checks.h"
#include "engine/setup.h"
#include "engine_support.h"
#include "support/gpu.h"

using namespace fastgen;
using namespace fastgen::test;

namespace {

// Holds the engine's thread up in its next step while the gate is closed, so that requests given meanwhile run together however busy
// the machine is. Tells of each part of a block that is paged out, on that thread.
class GatedBackend final : public ForwardingBackend {
 public:
  GatedBackend(std::unique_ptr<Backend> inner, const std::atomic<bool>& is_closed, std::function<void()> on_page_out)
      : ForwardingBackend(std::move(inner)), is_closed_(is_closed), on_page_out_(std::move(on_page_out)) {}
  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override {
    while (is_closed_) std::this_thread::yield();
    inner().upload(stream, device, pinned, bytes);
  }
  void download(Stream stream, void* pinned, const void* device, std::size_t bytes) override {
    inner().download(stream, pinned, device, bytes);
    if (stream == Stream::kCopyOut) on_page_out_();
  }

 private:
  const std::atomic<bool>& is_closed_;
  const std::function<void()> on_page_out_;
};

// An engine that computes nothing until all of its first requests are there.
class GatedEngine {
 public:
  GatedEngine(const EngineConfig& config, std::unique_ptr<Backend> backend, std::function<void()> on_page_out = [] {})
      : engine_(start_engine(config, set_up_engine(config, std::make_unique<GatedBackend>(std::move(backend), is_closed_, std::move(on_page_out))))) {}
  Engine& operator*() { return *engine_; }
  Engine* operator->() { return engine_.get(); }
  // At most as many as there are tickets; user_tag becomes the index.
  std::vector<RequestId> submit(std::vector<Request>& requests) {
    is_closed_ = true;
    std::vector<RequestId> ids;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      requests[i].user_tag = i;
      REQUIRE(engine_->validate(requests[i]) == "");
      ids.push_back(engine_->submit(std::move(*engine_->try_admit()), requests[i]));
    }
    is_closed_ = false;
    return ids;
  }
  Answers run(std::vector<Request>& requests) {
    submit(requests);
    Answers answers;
    take_until(*engine_, answers, static_cast<int>(requests.size()));
    return answers;
  }

 private:
  std::atomic<bool> is_closed_{false};
  std::unique_ptr<Engine> engine_;  // last: it stops before the gate goes
};

struct TinyEngine {
  TempDir dir;
  EngineConfig config;
  // 126 blocks of 4 tokens, where one sequence may need 125.
  TinyEngine() {
    check_every_step = true;
    write_config(dir.path());
    config = echo_engine(dir.path());
    config.kv_gb = echo_kv_gb(126, config.block_size);
    config.host_kv_gb = echo_kv_gb(1000, config.block_size);
  }
};

// Ten that end 50 to 70 tokens long: greedy, sampled, with penalties and logprobs of prompt and output.
std::vector<Request> long_requests(std::mt19937_64& random, std::int32_t num_prompt_logprobs) {
  std::vector<Request> requests(10);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request& request = requests[i];
    for (std::size_t left = 5 + random() % 20; left > 0; --left) request.prompt.push_back(static_cast<TokenId>(random() % kVocab));
    request.sampling = {.temperature = i % 2 ? 0.9f : 0.0f, .seed = random(), .max_tokens = 45, .ignore_eos = true};
    if (i % 3 == 0) request.sampling.repetition_penalty = 1.3f;
    if (i % 3 == 1) request.sampling.frequency_penalty = 0.5f;
    request.sampling.num_logprobs = static_cast<std::int32_t>(i % 4) - 1;
    request.sampling.num_prompt_logprobs = i % 2 ? num_prompt_logprobs : -1;
  }
  return requests;
}

void check_computed_once(const Engine& engine, const std::vector<Request>& requests) {
  const EngineStats stats = engine.stats();
  std::uint64_t prompt_tokens = 0, later_tokens = 0;
  for (const Request& request : requests) {
    prompt_tokens += request.prompt.size();
    later_tokens += static_cast<std::uint64_t>(request.sampling.max_tokens) - 1;
  }
  CHECK(stats.num_preemptions > 0);
  CHECK(stats.num_page_outs == stats.num_preemptions);
  CHECK(stats.num_page_ins == stats.num_page_outs);
  CHECK(stats.prefill_tokens == prompt_tokens);
  CHECK(stats.decode_tokens == later_tokens);
}

// Random turns of the engine as the runner sees them: blocks are paged, the step writes and reads blocks, some are given up while it
// may still write them, and the step before is collected. Beside it what each block must hold.
void check_order(EngineConfig config, std::int64_t block_bytes, const std::function<std::unique_ptr<Backend>(std::uint64_t)>& make, int num_rounds) {
  std::mt19937_64 random(seed());
  constexpr std::int32_t kBlocks = 6, kHostBlocks = 3;
  config.max_model_len = 16;
  config.kv_gb = static_cast<double>(kBlocks * block_bytes) * 1e-9;
  config.host_kv_gb = static_cast<double>(kHostBlocks * block_bytes) * 1e-9;
  for (int round = 0; round < num_rounds; ++round) {
    CAPTURE(round);
    const EngineSetup setup = set_up_engine(config, make(static_cast<std::uint64_t>(round)));
    REQUIRE(setup.limits.num_host_blocks == kHostBlocks);
    Runner& runner = *setup.runner;
    Backend& backend = runner.backend();
    const KvArena& arena = runner.arena();
    REQUIRE(arena.num_blocks == kBlocks);
    const std::size_t kv_bytes = static_cast<std::size_t>(arena.layout.block_elements()) * dtype_bytes(arena.dtype);
    const std::size_t id_bytes = static_cast<std::size_t>(arena.layout.block_size) * sizeof(std::int32_t);
    const auto place = [&](std::int64_t block) { return static_cast<char*>(arena.data) + static_cast<std::size_t>(block) * kv_bytes; };
    const auto ids = [&](std::int64_t block) { return arena.token_ids.as<std::int32_t>() + block * arena.layout.block_size; };
    struct Block {
      char value = 0;         // 0: free
      int written_in = -10;   // turn of the step
      int readable_from = 0;  // turn
    };
    std::vector<Block> blocks(kBlocks);
    std::vector<char> host(kHostBlocks, 0);
    std::deque<std::vector<char>> staging;  // lives until all has run
    struct Read {
      char value = 0;
      std::vector<char> kv, ids;
    };
    std::deque<Read> reads;
    std::deque<FenceId> in_flight;
    char next_value = 0;
    for (int turn = 0; turn < 100; ++turn) {
      std::vector<BlockCopy> outs, ins;
      for (BlockId from = 0; from < kBlocks; ++from) {  // collected, or just paged in
        const auto to = static_cast<BlockId>(std::find(host.begin(), host.end(), 0) - host.begin());
        Block& block = blocks[static_cast<std::size_t>(from)];
        if (block.value == 0 || block.written_in > turn - 2 || to == kHostBlocks || random() % 3) continue;
        outs.push_back({from, to});
        host[static_cast<std::size_t>(to)] = std::exchange(block, {}).value;
      }
      for (BlockId from = 0; from < kHostBlocks; ++from) {
        const auto to = std::find_if(blocks.begin(), blocks.end(), [](const Block& block) { return block.value == 0; });
        char& value = host[static_cast<std::size_t>(from)];
        const bool is_new = std::any_of(outs.begin(), outs.end(), [&](const BlockCopy& out) { return out.to == from; });
        if (value == 0 || is_new || to == blocks.end() || random() % 3) continue;
        ins.push_back({from, static_cast<BlockId>(to - blocks.begin())});
        *to = {std::exchange(value, 0), -10, turn + 1};
      }
      runner.page(outs, ins);
      for (BlockId i = 0; i < kBlocks; ++i) {
        Block& block = blocks[static_cast<std::size_t>(i)];
        if (block.value == 0 && random() % 2) {
          next_value = static_cast<char>(next_value % 100 + 1);
          block = {next_value, turn, turn};
          const auto& bytes = staging.emplace_back(std::max(kv_bytes, id_bytes), next_value);
          backend.upload(Stream::kCompute, place(i), bytes.data(), kv_bytes);
          backend.upload(Stream::kCompute, ids(i), bytes.data(), id_bytes);
        } else if (block.value != 0 && block.readable_from <= turn) {
          Read& read = reads.emplace_back(Read{block.value, std::vector<char>(kv_bytes), std::vector<char>(id_bytes)});
          backend.download(Stream::kCompute, read.kv.data(), place(i), read.kv.size());
          backend.download(Stream::kCompute, read.ids.data(), ids(i), read.ids.size());
        }
        if (block.value != 0 && random() % 8 == 0) block = {};
      }
      in_flight.push_back(backend.record(Stream::kCompute));
      if (in_flight.size() < 2) continue;
      backend.host_wait(in_flight.front());
      in_flight.pop_front();
    }
    backend.host_wait(in_flight.back());
    for (const Read& read : reads) {
      REQUIRE(std::count(read.kv.begin(), read.kv.end(), read.value) == static_cast<std::ptrdiff_t>(read.kv.size()));
      REQUIRE(std::count(read.ids.begin(), read.ids.end(), read.value) == static_cast<std::ptrdiff_t>(read.ids.size()));
    }
    CHECK(reads.size() > 100);
  }
}

}  // namespace

TEST_CASE("host tier: copies are ordered with the steps before and after them, and with each other") {
  TinyEngine tiny;
  const std::int64_t block_bytes = tiny.config.block_size * 20;
  check_order(tiny.config, block_bytes, [](std::uint64_t round) { return make_late_backend(make_echo_backend(), round); }, 30);
}

TEST_CASE("host tier: copies are ordered on cuda") {
  if (!has_gpu()) FG_SKIP("a GPU");
  TinyEngine tiny;
  tiny.config.backend = "cuda";
  tiny.config.dummy_weights = true;
  tiny.config.block_size = 8;
  // K and V of 2 layers, 2 KV heads of 8 floats; and the ids.
  const std::int64_t block_bytes = tiny.config.block_size * (2 * 2 * 2 * 8 * 4 + 4);
  check_order(tiny.config, block_bytes, [](std::uint64_t) { return make_backend("cuda", {}); }, 3);
}

TEST_CASE("host tier: on echo every token is right and computed once, whatever the order of the copies") {
  std::mt19937_64 random(seed());
  TinyEngine tiny;
  tiny.config.kv_gb = echo_kv_gb(40, tiny.config.block_size);
  tiny.config.max_prefill = 8;  // so that prompts are paged out half computed
  tiny.config.event_ring_size = 64;
  for (std::uint64_t late_seed = 0; late_seed < 12; ++late_seed) {
    CAPTURE(late_seed);
    std::vector<Request> requests = long_requests(random, 2);
    GatedEngine engine(tiny.config, make_late_backend(make_echo_backend(), late_seed));
    const Answers answers = engine.run(requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      check_whole(answers.at({i, 0}), expected_echo(requests[i], 0));
      CHECK(answers.at({i, 0}).prompt == expected_echo(requests[i], 0).prompt);
    }
    check_idle(*engine);
    check_computed_once(*engine, requests);
  }
}

// One row a step, so that its products round alike in any engine.
TEST_CASE("host tier: on cpu a sequence that was away goes on exactly as one that stayed") {
  check_every_step = true;
  TempDir dir;
  write_config(dir.path());
  EngineConfig config = echo_engine(dir.path(), "cpu");
  config.dummy_weights = true;
  config.max_batch = 2;
  config.kv_gb = 0.01;
  std::mt19937_64 random(seed());
  std::vector<Request> requests = long_requests(random, -1);
  const auto answers_of = [&](std::unique_ptr<Backend> backend) {
    GatedEngine engine(config, std::move(backend));
    const Answers answers = engine.run(requests);
    check_idle(*engine);
    if (config.host_kv_gb > 0) check_computed_once(*engine, requests);
    return std::pair{answers, engine->info()};
  };
  const auto [expected, roomy] = answers_of(make_cpu_backend({.num_threads = 1}));
  const double block_gb = static_cast<double>(roomy.kv_bytes) * config.block_size / static_cast<double>(roomy.kv_tokens) * 1e-9;
  config.kv_gb = 24 * block_gb;
  config.host_kv_gb = 100 * block_gb;
  for (std::uint64_t late_seed = 0; late_seed < 4; ++late_seed) {
    CAPTURE(late_seed);
    const auto [answers, info] = answers_of(make_late_backend(make_cpu_backend({.num_threads = 1}), late_seed));
    CHECK(info.host_kv_tokens == 100 * config.block_size);
    for (const auto& [key, answer] : expected) {
      CHECK(answers.at(key).tokens == answer.tokens);
      CHECK(answers.at(key).logprobs == answer.logprobs);
    }
  }
}

TEST_CASE("host tier: where it has no room a sequence is recomputed") {
  std::mt19937_64 random(seed());
  TinyEngine tiny;
  tiny.config.kv_gb = echo_kv_gb(40, tiny.config.block_size);
  for (const std::int32_t num_blocks : {1, 20}) {
    CAPTURE(num_blocks);
    tiny.config.host_kv_gb = echo_kv_gb(num_blocks, tiny.config.block_size);
    std::vector<Request> requests = long_requests(random, 0);
    for (Request& request : requests) request.sampling.ignore_eos = false;  // so that nobody knows how long they will be
    GatedEngine engine(tiny.config, make_late_backend(make_echo_backend(), random()));
    const Answers answers = engine.run(requests);
    for (std::size_t i = 0; i < requests.size(); ++i) check_whole(answers.at({i, 0}), expected_echo(requests[i], 0));
    check_idle(*engine);
    const EngineStats stats = engine->stats();
    CHECK(stats.num_host_blocks == num_blocks);
    CHECK(stats.num_preemptions > stats.num_page_outs);
    CHECK((stats.num_page_outs > 0) == (num_blocks > 1));
  }
}

TEST_CASE("host tier: a sequence cancelled while it is paged out ends at once and leaves nothing there") {
  TinyEngine tiny;
  std::vector<Request> requests(2);
  for (std::size_t i = 0; i < 2; ++i) {
    requests[i].prompt.assign(i == 0 ? 400 : 80, 7);
    requests[i].sampling = {.temperature = 0, .max_tokens = 100, .ignore_eos = true};
  }
  Engine* engine = nullptr;
  std::atomic<RequestId> younger{0};
  // While the engine's thread is here the younger one cannot come back.
  GatedEngine gated(tiny.config, make_echo_backend(), [&] {
    while (younger == 0) std::this_thread::yield();
    engine->cancel(younger);
  });
  engine = &*gated;
  younger = gated.submit(requests)[1];
  Answers answers;
  take_until(*engine, answers, 2);
  check_whole(answers.at({0, 0}), expected_echo(requests[0], 0));
  check_begun(answers.at({1, 0}), expected_echo(requests[1], 0));
  CHECK(answers.at({1, 0}).reason == FinishReason::kCancelled);
  check_idle(*engine);
  CHECK(engine->stats().num_page_outs == 1);
  CHECK(engine->stats().num_page_ins == 0);
}

TEST_CASE("host tier: stop ends sequences that are paged out, and their blocks come back") {
  for (const bool is_late : {false, true}) {
    TinyEngine tiny;
    std::atomic<bool> has_paged{false};
    GatedEngine engine(tiny.config, is_late ? make_late_backend(make_echo_backend(), 0) : make_echo_backend(), [&] { has_paged = true; });
    std::vector<Request> requests(8);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      requests[i].prompt.assign(50, static_cast<TokenId>(i));
      requests[i].sampling = {.max_tokens = 450, .ignore_eos = true};
    }
    engine.submit(requests);
    Answers answers;
    EventRing& ring = engine->ring(0);
    const auto drain = [&] {
      for (Event event; ring.pop(event);) take_event(answers, event, ring.top(event));
    };
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!has_paged && std::chrono::steady_clock::now() < deadline) drain();
    CHECK(has_paged);
    engine->stop();
    drain();
    CHECK(answers.size() == requests.size());
    for (const auto& [key, answer] : answers) check_begun(answer, expected_echo(requests[key.first], 0));
    const EngineStats stats = engine->stats();
    CHECK(stats.num_host_blocks == 1000);
    CHECK(stats.num_free_host_blocks == 1000);
    CHECK(stats.num_free_blocks == stats.num_blocks);
  }
}
