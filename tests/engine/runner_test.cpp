// Captured steps and the memory sum: which batch sizes, when they are captured, and what the arena leaves free for them.
#include "engine/runner.h"

#include <algorithm>
#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/echo/echo_backend.h"
#include "backend/forwarding.h"
#include "base/clock.h"
#include "engine/debug_checks.h"
#include "engine/setup.h"
#include "engine_support.h"

using namespace fastgen;
using namespace fastgen::test;

namespace {

// Keeps the order of captures ('c'), replays ('r') and steps ('s', when their fence is recorded). While the gate is closed the engine's
// thread waits before its next step.
class WatchedBackend final : public ForwardingBackend {
 public:
  WatchedBackend(std::string& log, const std::atomic<bool>& is_closed) : ForwardingBackend(make_echo_backend()), log_(log), is_closed_(is_closed) {}
  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override {
    while (is_closed_) std::this_thread::yield();
    inner().upload(stream, device, pinned, bytes);
  }
  void begin_capture() override {
    log_ += 'c';
    inner().begin_capture();
  }
  void replay(GraphId graph) override {
    log_ += 'r';
    inner().replay(graph);
  }
  FenceId record(Stream stream) override {
    log_ += 's';
    return inner().record(stream);
  }
  void download(Stream stream, void* pinned, const void* device, std::size_t bytes) override {
    log_ += 'd';
    inner().download(stream, pinned, device, bytes);
  }

 private:
  std::string& log_;
  const std::atomic<bool>& is_closed_;
};

// Knows how long after the last step each capture began. While the gate is closed the first one does not begin.
class RestBackend final : public ForwardingBackend {
 public:
  struct Seen {
    std::atomic<bool> is_closed{false};
    std::atomic<int> num_captures{0};  // after the first step
    std::atomic<std::uint64_t> shortest_rest_us{~std::uint64_t{0}};
  };
  explicit RestBackend(Seen& seen) : ForwardingBackend(make_echo_backend()), seen_(seen) {}
  void begin_capture() override {
    while (seen_.is_closed) std::this_thread::yield();
    if (last_step_us_ > 0) {
      seen_.shortest_rest_us = std::min<std::uint64_t>(seen_.shortest_rest_us, now_us() - last_step_us_);
      ++seen_.num_captures;
    }
    inner().begin_capture();
  }
  FenceId record(Stream stream) override {
    last_step_us_ = now_us();
    return inner().record(stream);
  }

 private:
  Seen& seen_;
  std::uint64_t last_step_us_ = 0;
};

// The CPU with the memory of a card: a budget that allocations and graphs come out of.
class CardBackend final : public ForwardingBackend {
 public:
  CardBackend(std::int64_t budget_bytes, std::int64_t graph_bytes_each)
      : ForwardingBackend(make_cpu_backend({.num_threads = 1})), free_bytes_(budget_bytes), graph_bytes_each_(graph_bytes_each) {}
  std::size_t free_bytes() const override { return static_cast<std::size_t>(std::max<std::int64_t>(0, free_bytes_)); }
  void* allocate(MemoryKind kind, std::size_t bytes) override {
    if (kind == MemoryKind::kDevice) free_bytes_ -= static_cast<std::int64_t>(bytes);
    return inner().allocate(kind, bytes);
  }
  Weight prepare_random_weights(WeightKind kind, DType dtype, std::span<const RandomPart> parts) override {
    for (const RandomPart& part : parts) free_bytes_ -= part.rows * part.columns * static_cast<std::int64_t>(dtype_bytes(dtype));
    return inner().prepare_random_weights(kind, dtype, parts);
  }
  void reserve(const OpLimits& limits) override {
    free_bytes_ -= static_cast<std::int64_t>(inner().workspace_bytes(limits));
    inner().reserve(limits);
  }
  GraphId end_capture() override {
    free_bytes_ -= graph_bytes_each_;
    graph_bytes_ += graph_bytes_each_;
    return inner().end_capture();
  }
  std::size_t graph_bytes() const override { return static_cast<std::size_t>(graph_bytes_); }

 private:
  std::int64_t free_bytes_, graph_bytes_ = 0;
  const std::int64_t graph_bytes_each_;
};

EngineConfig card_config(const TempDir& dir) {
  write_config(dir.path());
  EngineConfig config = echo_engine(dir.path(), "cuda");  // as far as the engine knows
  config.dummy_weights = true;
  return config;
}

}  // namespace

TEST_CASE("graphs: sixteen batch sizes, dense where padding would cost most") {
  using Rows = std::vector<std::int64_t>;
  CHECK(graph_rows(512, 16) == Rows{1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512});
  CHECK(graph_rows(256, 16) == Rows{1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256});
  CHECK(graph_rows(8, 16) == Rows{1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(graph_rows(1, 16) == Rows{1});
  CHECK(graph_rows(256, 1) == Rows{256});
  CHECK(graph_rows(256, 0) == Rows{});
  for (std::int64_t max_batch = 1; max_batch <= 700; ++max_batch) {
    for (std::int32_t count : {1, 2, 3, 7, 16, 40}) {
      const Rows rows = graph_rows(max_batch, count);
      REQUIRE(rows.size() <= static_cast<std::size_t>(count));
      REQUIRE(rows.back() == max_batch);
      REQUIRE(rows.front() >= 1);
      REQUIRE(std::is_sorted(rows.begin(), rows.end(), std::less_equal<>()));
    }
  }
}

TEST_CASE("graphs: the largest at start, the others one at a time, and every step is one download") {
  check_every_step = true;
  TempDir dir;
  write_config(dir.path());
  EngineConfig config = echo_engine(dir.path());
  config.max_batch = 32;
  config.max_queue = 64;
  std::string log;
  std::atomic<bool> is_closed{false};
  {
    EngineSetup setup = set_up_engine(config, std::make_unique<WatchedBackend>(log, is_closed));
    CHECK(log == "cc");  // one to measure, one to keep
    auto engine = start_engine(config, std::move(setup));
    std::vector<Request> requests(30);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      requests[i].prompt.assign(1 + i, 9);
      requests[i].sampling = {.max_tokens = static_cast<std::int32_t>(4 + 5 * i), .ignore_eos = true};
      requests[i].sampling.num_logprobs = i % 3 == 0 ? 4 : -1;
    }
    // All before the first step: an engine that is idle in between captures more than one.
    is_closed = true;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      requests[i].user_tag = i;
      engine->submit(std::move(*engine->try_admit()), requests[i]);
    }
    is_closed = false;
    Answers answers;
    take_until(*engine, answers, static_cast<int>(requests.size()));
    for (std::size_t i = 0; i < requests.size(); ++i) CHECK(answers.at({i, 0}).tokens == expected_echo(requests[i], 0).tokens);
    check_idle(*engine);
  }
  CHECK(std::count(log.begin(), log.end(), 'c') == 1 + static_cast<std::int64_t>(graph_rows(32, config.num_graphs).size()));
  const std::size_t first_step = log.find('s'), last_step = log.rfind('s');
  int num_captures = 0, num_downloads = 0;
  for (std::size_t i = first_step + 1; i <= last_step; ++i) {
    num_captures += log[i] == 'c';
    num_downloads += log[i] == 'd';
    if (log[i] != 's') continue;
    REQUIRE(num_captures <= 1);
    REQUIRE(num_downloads <= 1);
    num_captures = num_downloads = 0;
  }
}

TEST_CASE("graphs: a request that comes right after another's end waits for no capture") {
  TempDir dir;
  write_config(dir.path());
  EngineConfig config = echo_engine(dir.path());
  RestBackend::Seen seen;
  EngineSetup setup = set_up_engine(config, std::make_unique<RestBackend>(seen));
  seen.is_closed = true;  // so that the request finds captures left to do
  auto engine = start_engine(config, std::move(setup));
  Request request;
  request.prompt.assign(5, 9);
  request.sampling = {.max_tokens = 1, .ignore_eos = true};  // no decode step: none needs a capture
  engine->submit(std::move(*engine->try_admit()), request);
  seen.is_closed = false;
  Answers answers;
  take_until(*engine, answers, 1);
  // The largest is captured at the start, one may have been before the request came.
  const int num_left = static_cast<int>(graph_rows(engine->info().max_batch, config.num_graphs).size()) - 2;
  while (seen.num_captures < num_left) std::this_thread::yield();
  CHECK(seen.shortest_rest_us >= 10'000);
}

TEST_CASE("graphs: a size that is missing runs as the next one where that wastes little, else uncaptured") {
  TempDir dir;
  write_config(dir.path());
  for (const std::int32_t max_batch : {8, 64}) {
    EngineConfig config = echo_engine(dir.path());
    config.max_batch = max_batch;
    EngineSetup setup = set_up_engine(config);
    Runner& runner = *setup.runner;
    const auto decode = [&](std::int64_t rows) {
      return runner.fit({.num_tokens = rows, .num_seqs = rows, .num_decode_seqs = rows, .num_logit_rows = rows, .num_samples = rows, .num_entries = 3 * rows});
    };
    CHECK(decode(3).num_tokens == (max_batch == 8 ? 8 : 3));  // 64 rows for 3 would be a waste
    CHECK(decode(3).num_entries == 9);
    runner.capture_missing();
    CHECK(decode(3).num_tokens == (max_batch == 8 ? 3 : 4));
    runner.capture_missing();  // nothing is missing now
    int num_left = 0;
    while (runner.capture_next()) ++num_left;
    CHECK(num_left == static_cast<int>(graph_rows(max_batch, config.num_graphs).size()) - 2);
    CHECK(decode(max_batch / 2).num_tokens == max_batch / 2);
    BatchShape mixed = decode(2);
    mixed.num_tokens = 5;
    CHECK(runner.fit(mixed).num_tokens == 5);
  }
}

TEST_CASE("memory: the arena takes what is left beside graphs and libraries, and no more") {
  TempDir dir;
  EngineConfig config = card_config(dir);
  config.max_batch = 64;
  config.max_queue = 64;
  config.block_size = 1024;
  // Many positions, so that more would be useful than fits.
  std::string text = read_file(dir.path() / "config.json");
  const std::string few = "\"max_position_embeddings\": 512";
  REQUIRE(text.find(few) != std::string::npos);
  text.replace(text.find(few), few.size(), "\"max_position_embeddings\": 131072");
  std::ofstream(dir.path() / "config.json") << text;
  constexpr std::int64_t kMB = 1 << 20, kBudget = 1200 * kMB;
  for (const std::int64_t graph_mb : {0, 3, 25}) {
    CAPTURE(graph_mb);
    auto backend = std::make_unique<CardBackend>(kBudget, graph_mb * kMB);
    const CardBackend& card = *backend;
    const EngineSetup setup = set_up_engine(config, std::move(backend));
    const auto left = static_cast<std::int64_t>(card.free_bytes());
    // Before anything is captured 256 MB are kept for libraries and 8 MB for each graph, when one has been 128 MB and what it took.
    // Two are captured already (one to measure). Of what is left beyond that, a block at most is unused.
    const std::int64_t num_graphs = config.num_graphs + 1;
    const std::int64_t kept = std::max(256 + num_graphs * 8, 128 + num_graphs * std::max<std::int64_t>(graph_mb, 8)) * kMB - 2 * graph_mb * kMB;
    const std::int64_t block = setup.info.kv_bytes / setup.limits.num_blocks;
    CHECK(left >= kept - 4 * kMB / 1024);
    CHECK(left < kept + block + 4 * kMB / 1024);
    CHECK(setup.info.kv_tokens == std::int64_t{setup.limits.num_blocks} * 1024);
  }
}

TEST_CASE("memory: what does not fit is refused before loading, with the sum") {
  TempDir dir;
  const EngineConfig config = card_config(dir);
  bool has_loaded = false;
  EngineConfig watched = config;
  watched.on_load = [&](std::uint64_t, std::uint64_t) { has_loaded = true; };
  std::string message;
  try {
    set_up_engine(watched, std::make_unique<CardBackend>(100 << 20, 0));
  } catch (const Error& error) {
    message = error.what();
  }
  for (const char* part : {"--gpu-gb", "weights (", "bfloat16", "workspaces", "activations", "step buffers", "graphs and libraries",
                           "KV cache at least", " = ", "0.10 GB are free"}) {
    CAPTURE(message);
    CHECK(message.find(config.dtype == "float32" && std::string(part) == "bfloat16" ? "float32" : part) != std::string::npos);
  }
  CHECK(!has_loaded);
}
