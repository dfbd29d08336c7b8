#include "bench/offline.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <random>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/json_writer.h"
#include "bench/figures.h"
#include "bench/machine.h"
#include "engine_flags.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

using Prompts = std::vector<std::vector<TokenId>>;

// Prompts that no two requests share, so that nothing can be reused between them.
Prompts random_prompts(std::int32_t count, std::int32_t length, std::int32_t vocab, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::set<std::vector<TokenId>> seen;
  Prompts prompts;
  for (std::int64_t tries = 0; std::int32_t(prompts.size()) < count; ++tries) {
    if (tries > 100 * std::int64_t(count)) {
      throw Error(fmt::format("--num-prompts, --warmup: there are no {} different prompts of {} tokens", count, length));
    }
    std::vector<TokenId> prompt(static_cast<std::size_t>(length));
    for (TokenId& id : prompt) id = TokenId(random() % std::uint64_t(vocab));
    if (seen.insert(prompt).second) prompts.push_back(std::move(prompt));
  }
  return prompts;
}

Request request_of(const OfflineOptions& options, std::vector<TokenId> prompt, std::size_t idx) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = options.temperature;
  request.sampling.seed = options.seed + idx;
  request.sampling.max_tokens = options.decode_len;
  request.sampling.ignore_eos = true;
  request.user_tag = idx;
  return request;
}

// Takes what the ring holds; returns how many requests finished.
std::size_t drain(EventRing& ring, std::span<RequestTimes> times) {
  std::size_t num_finished = 0;
  for (Event event; ring.pop(event);) {
    if (event.kind == EventKind::kToken) times[event.user_tag].token_us.push_back(event.step_us);
    if (event.kind != EventKind::kFinish) continue;
    if (event.reason != FinishReason::kLength) {
      throw Error(fmt::format("request {} ended early, after {} tokens", event.user_tag,
                              times[event.user_tag].token_us.size()));
    }
    ++num_finished;
  }
  return num_finished;
}

// Submits all as soon as the engine has tickets, and waits until all have finished.
std::vector<RequestTimes> run_requests(Engine& engine, const OfflineOptions& options, Prompts prompts) {
  std::vector<RequestTimes> times(prompts.size());
  for (RequestTimes& request : times) request.token_us.reserve(std::size_t(options.decode_len));
  EventRing& ring = engine.ring(0);
  std::size_t num_submitted = 0, num_finished = 0;
  while (num_finished < prompts.size()) {
    while (num_submitted < prompts.size()) {
      std::optional<Ticket> ticket = engine.try_admit();
      if (!ticket) break;
      times[num_submitted].submit_us = now_us();
      engine.submit(std::move(*ticket), request_of(options, std::move(prompts[num_submitted]), num_submitted));
      ++num_submitted;
    }
    if (ring.wait(100)) ring.acknowledge();
    num_finished += drain(ring, times);
  }
  return times;
}

void check(const OfflineOptions& options, const EngineInfo& info) {
  const std::int64_t length = std::int64_t(options.prompt_len) + options.decode_len;
  if (length > info.max_model_len) {
    throw Error(fmt::format("--prompt-len {} and --decode-len {} together exceed the {} tokens that the model (or the "
                            "KV cache: --kv-gb) holds",
                            options.prompt_len, options.decode_len, info.max_model_len));
  }
}

struct Run {
  Figures figures;
  EngineStats stats;  // of the measured part
  EngineInfo info;
  Machine machine;
};

EngineStats difference(const EngineStats& before, EngineStats after) {
  after.num_steps -= before.num_steps;
  after.num_graph_steps -= before.num_graph_steps;
  after.num_preemptions -= before.num_preemptions;
  after.num_ring_waits -= before.num_ring_waits;
  return after;
}

Run measure(const OfflineOptions& options) {
  EngineConfig config = options.engine;
  config.seed = options.seed;
  const std::unique_ptr<Engine> engine = Engine::create(config);
  check(options, engine->info());

  // Warm-up prompts come first out of the same generator, so that none is measured again.
  Prompts all = random_prompts(options.num_warmup + options.num_prompts, options.prompt_len, engine->info().vocab,
                               options.seed);
  Prompts measured(std::make_move_iterator(all.begin() + options.num_warmup), std::make_move_iterator(all.end()));
  all.resize(std::size_t(options.num_warmup));
  run_requests(*engine, options, std::move(all));

  const EngineStats before = engine->stats();
  const std::vector<RequestTimes> times = run_requests(*engine, options, std::move(measured));
  Run run{.figures = figures_of(times, options.prompt_len),
          .stats = difference(before, engine->stats()),
          .info = engine->info(),
          .machine = this_machine()};
  engine->stop();
  return run;
}

void print_table(const OfflineOptions& options, const Run& run) {
  const Figures& f = run.figures;
  fmt::print("{} ({}, {:.1f} M parameters), {} on {}\n", run.info.model_folder, run.info.architecture,
             double(run.info.num_parameters) / 1e6, run.info.dtype, run.info.device);
  fmt::print("{} prompts of {} tokens, {} decoded for each, at most {} at once\n\n", options.num_prompts,
             options.prompt_len, options.decode_len, run.info.max_batch);
  const auto rate = [](const char* name, double value) { fmt::print("{:<18}{:>12.1f} tokens/s\n", name, value); };
  rate("output", f.output_tokens_per_s);
  rate("prompt and output", f.total_tokens_per_s);
  rate("prefill", f.prefill_tokens_per_s);
  rate("decode", f.decode_tokens_per_s);
  fmt::print("\n{:<18}{:>12}{:>12}{:>12}\n", "milliseconds", "median", "99 %", "most");
  const auto spread = [](const char* name, const Spread& s) {
    fmt::print("{:<18}{:>12.3f}{:>12.3f}{:>12.3f}\n", name, s.p50, s.p99, s.max);
  };
  spread("first token", f.ttft_ms);
  spread("each next token", f.tpot_ms);
  spread("step", f.step_ms);
  fmt::print("\n{} prompt and {} output tokens in {:.3f} s, {} steps, {} preemptions\n", f.prompt_tokens,
             f.output_tokens, f.wall_s, run.stats.num_steps, run.stats.num_preemptions);
}

void write_spread(JsonWriter& json, const char* name, const Spread& spread) {
  json.key(name).begin_object().field("p50", spread.p50).field("p99", spread.p99).field("max", spread.max).end_object();
}

void write_config(JsonWriter& json, const OfflineOptions& options, const Run& run) {
  json.begin_object()
      .field("model", run.info.model_folder)
      .field("architecture", run.info.architecture)
      .field("num_parameters", run.info.num_parameters)
      .field("backend", run.info.backend)
      .field("device", run.info.device)
      .field("dtype", run.info.dtype)
      .field("dummy_weights", options.engine.dummy_weights)
      .field("threads", options.engine.num_threads)
      .field("max_batch", run.info.max_batch)
      .field("max_prefill", options.engine.max_prefill)
      .field("block_size", run.info.block_size)
      .field("kv_tokens", run.info.kv_tokens)
      .field("num_prompts", options.num_prompts)
      .field("prompt_len", options.prompt_len)
      .field("decode_len", options.decode_len)
      .field("num_warmup", options.num_warmup)
      .field("temperature", options.temperature)
      .field("seed", options.seed)
      .end_object();
}

void write_figures(JsonWriter& json, const Run& run) {
  const Figures& f = run.figures;
  json.begin_object()
      .field("prompt_tokens", f.prompt_tokens)
      .field("output_tokens", f.output_tokens)
      .field("wall_s", f.wall_s)
      .field("output_tokens_per_s", f.output_tokens_per_s)
      .field("total_tokens_per_s", f.total_tokens_per_s)
      .field("prefill_tokens_per_s", f.prefill_tokens_per_s)
      .field("decode_tokens_per_s", f.decode_tokens_per_s);
  write_spread(json, "ttft_ms", f.ttft_ms);
  write_spread(json, "tpot_ms", f.tpot_ms);
  write_spread(json, "step_ms", f.step_ms);
  json.field("num_steps", run.stats.num_steps)
      .field("num_graph_steps", run.stats.num_graph_steps)
      .field("num_preemptions", run.stats.num_preemptions)
      .field("load_s", run.info.load_seconds)
      .end_object();
}

void write_json(const OfflineOptions& options, const Run& run, std::ofstream& out) {
  std::string text;
  JsonWriter json(text);
  json.begin_object()
      .field("benchmark", "offline")
      .field("date", utc_now())
      .field("commit", commit())
      .field("command", options.command);
  json.key("machine");
  write_machine(json, run.machine);
  json.key("config");
  write_config(json, options, run);
  json.key("results");
  write_figures(json, run);
  json.end_object();
  out << text << '\n';
  if (!out.flush()) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
}

}  // namespace

CLI::App* add_offline(CLI::App& app, OfflineOptions& options) {
  CLI::App* offline = app.add_subcommand("offline", "throughput of the engine: random prompts, all there at the start");
  add_engine_flags(*offline, options.engine);
  const auto at_least = [](std::int32_t least) { return CLI::Range(least, std::numeric_limits<std::int32_t>::max()); };
  offline->add_option("--num-prompts", options.num_prompts, "requests")->check(at_least(1))->capture_default_str();
  offline->add_option("--prompt-len", options.prompt_len, "tokens of each prompt")->check(at_least(1))->capture_default_str();
  offline->add_option("--decode-len", options.decode_len, "tokens of each answer")->check(at_least(1))->capture_default_str();
  offline->add_option("--warmup", options.num_warmup, "requests before the clock starts")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  offline->add_option("--temperature", options.temperature, "of the sampling; 0 is greedy")->capture_default_str();
  offline->add_option("--seed", options.seed, "of prompts, sampling and dummy weights")->capture_default_str();
  offline->add_option("--json", options.json_path, "also write the figures, with machine and commit, to this file");
  return offline;
}

void run_offline(const OfflineOptions& options) {
  std::ofstream json;
  if (!options.json_path.empty()) {
    json.open(options.json_path);  // before the work, which may be long
    if (!json) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
  }
  const Run run = measure(options);
  print_table(options, run);
  if (json.is_open()) write_json(options, run, json);
}

}  // namespace fastgen::bench
