#include "bench/offline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/step_trace.h"
#include "bench/ceilings.h"
#include "bench/figures.h"
#include "bench/offline_report.h"
#include "engine_flags.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

// Steps that pass between a wish for a trace and its first step, and after its last.
constexpr std::int32_t kTraceMargin = 12;

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

Request request_of(const OfflineOptions& options, std::int32_t decode_len, std::vector<TokenId> prompt, std::size_t idx) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = options.temperature;
  request.sampling.seed = options.seed + idx;
  request.sampling.max_tokens = decode_len;
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

struct TraceWish {
  std::int32_t num_steps = 0;  // 0: none
  std::string file;
  bool at_start = false;  // else from when every request has its first token
};

// Submits all as soon as the engine has tickets, and waits until all have finished.
std::vector<RequestTimes> run_requests(Engine& engine, const OfflineOptions& options, std::int32_t decode_len, Prompts prompts,
                                       TraceWish wish) {
  std::vector<RequestTimes> times(prompts.size());
  for (RequestTimes& request : times) request.token_us.reserve(std::size_t(decode_len));
  EventRing& ring = engine.ring(0);
  std::size_t num_submitted = 0, num_finished = 0;
  if (wish.at_start && wish.num_steps > 0) request_step_trace(std::exchange(wish.num_steps, 0), wish.file);
  while (num_finished < prompts.size()) {
    while (num_submitted < prompts.size()) {
      std::optional<Ticket> ticket = engine.try_admit();
      if (!ticket) break;
      times[num_submitted].submit_us = now_us();
      engine.submit(std::move(*ticket), request_of(options, decode_len, std::move(prompts[num_submitted]), num_submitted));
      ++num_submitted;
    }
    if (ring.wait(100)) ring.acknowledge();
    num_finished += drain(ring, times);
    const auto has_none = [](const RequestTimes& request) { return request.token_us.empty(); };
    if (wish.num_steps > 0 && std::none_of(times.begin(), times.end(), has_none))
      request_step_trace(std::exchange(wish.num_steps, 0), wish.file);
  }
  return times;
}

void check(const OfflineCase& one, const EngineInfo& info) {
  const std::int64_t length = std::int64_t(one.prompt_len) + one.decode_len;
  if (length > info.max_model_len) {
    throw Error(fmt::format("--prompt-len {} and --decode-len {} together exceed the {} tokens that the model (or the "
                            "KV cache: --kv-gb) holds",
                            one.prompt_len, one.decode_len, info.max_model_len));
  }
}

EngineStats difference(const EngineStats& before, EngineStats after) {
  after.num_steps -= before.num_steps;
  after.num_graph_steps -= before.num_graph_steps;
  after.num_preemptions -= before.num_preemptions;
  after.num_page_outs -= before.num_page_outs;
  after.num_page_ins -= before.num_page_ins;
  after.num_ring_waits -= before.num_ring_waits;
  return after;
}

// The runs of one engine, one after the other.
class Offline {
 public:
  explicit Offline(const OfflineOptions& options) : options_(options), cases_(cases_of(options)) {
    check_profile();
    if (!options.no_ceilings && computes()) ceilings_ = find_ceilings();
    EngineConfig config = options.engine;
    config.seed = options.seed;
    engine_ = Engine::create(config);
    for (const OfflineCase& one : cases_) check(one, engine_->info());
    if (ceilings_.known()) shape_ = load_shape(options.engine.model, options.engine.revision, options.engine.ignore_config_keys);
  }
  ~Offline() { engine_->stop(); }

  std::vector<OfflineRun> run() {
    print_head(options_, engine_->info());
    std::vector<OfflineRun> runs;
    for (std::int32_t repeat = 0; repeat < options_.num_repeats; ++repeat) {
      for (const OfflineCase& one : cases_) {
        runs.push_back(measure(one, repeat));
        print_run(runs.back());
      }
    }
    return runs;
  }

  const EngineInfo& info() const { return engine_->info(); }
  const Ceilings& ceilings() const { return ceilings_; }

 private:
  bool computes() const { return options_.engine.backend == "cpu" || options_.engine.backend == "cuda"; }

  Ceilings find_ceilings() const {
    if (!options_.ceilings_path.empty()) return read_ceilings(options_.ceilings_path);
    return measure_ceilings({.backend = options_.engine.backend,
                             .dtype = options_.engine.dtype == "float32" ? "float32" : "bfloat16",
                             .num_threads = options_.engine.num_threads,
                             .gpu_gb = options_.engine.gpu_gb});
  }

  // The tracing must be over before a run is.
  bool can_trace(const OfflineCase& one) const { return options_.profile_steps + kTraceMargin <= one.decode_len; }
  void check_profile() const {
    if (options_.profile_steps > 0 && !kHasProfiler) throw Error(fmt::format("--profile-steps: {}", kNoProfiler));
    if (options_.profile_steps == 0 || std::any_of(cases_.begin(), cases_.end(), [&](const auto& one) { return can_trace(one); })) return;
    throw Error(fmt::format("--profile-steps {}: no run is long enough, it takes {} decoded tokens", options_.profile_steps,
                            options_.profile_steps + kTraceMargin));
  }
  std::string trace_file(std::size_t run_idx) const {
    if (cases_.size() == 1) return options_.profile_file;
    const std::filesystem::path path = options_.profile_file;
    return (path.parent_path() / fmt::format("{}.{}{}", path.stem().string(), run_idx + 1, path.extension().string())).string();
  }

  OfflineRun measure(const OfflineCase& one, std::int32_t repeat) {
    // Warm-up prompts come first out of the same generator, so that none is measured again; no two runs share a prompt.
    Prompts all = random_prompts(options_.num_warmup + one.num_prompts, one.prompt_len, engine_->info().vocab,
                                 options_.seed + num_runs_++ * 0x9E3779B97F4A7C15);
    Prompts measured(std::make_move_iterator(all.begin() + options_.num_warmup), std::make_move_iterator(all.end()));
    all.resize(std::size_t(options_.num_warmup));
    run_requests(*engine_, options_, one.decode_len, std::move(all), {});

    TraceWish wish;
    if (options_.profile_steps > 0 && repeat + 1 == options_.num_repeats && can_trace(one))
      wish = {options_.profile_steps, trace_file(std::size_t(num_runs_ - 1) % cases_.size()), options_.profile_at == "start"};
    const EngineStats before = engine_->stats();
    const std::vector<RequestTimes> times = run_requests(*engine_, options_, one.decode_len, std::move(measured), wish);
    OfflineRun run{.shape = one,
                   .repeat = repeat,
                   .figures = figures_of(times, one.prompt_len),
                   .stats = difference(before, engine_->stats()),
                   .ceiling = {},
                   .trace = take_step_trace_result()};
    if (ceilings_.known()) run.ceiling = ceiling_of(one, engine_->info(), shape_, ceilings_);
    return run;
  }

  const OfflineOptions& options_;
  const std::vector<OfflineCase> cases_;
  Ceilings ceilings_;
  ModelShape shape_;
  std::unique_ptr<Engine> engine_;
  std::uint64_t num_runs_ = 0;
};

}  // namespace

OfflineCase parse_case(const std::string& text) {
  OfflineCase one;
  int end = 0;
  const int found = std::sscanf(text.c_str(), "%9dx%9d+%9d%n", &one.num_prompts, &one.prompt_len, &one.decode_len, &end);
  if (found != 3 || std::size_t(end) != text.size() || one.num_prompts < 1 || one.prompt_len < 1 || one.decode_len < 1)
    throw Error(fmt::format("--case {}: needs something like 512x1024+128", text));
  return one;
}

std::vector<OfflineCase> cases_of(const OfflineOptions& options) {
  std::vector<OfflineCase> cases;
  for (const std::string& text : options.cases) cases.push_back(parse_case(text));
  if (!cases.empty()) return cases;
  const auto batches = options.batches.empty() ? std::vector{options.num_prompts} : options.batches;
  const auto decode_lens = options.decode_lens.empty() ? std::vector{options.decode_len} : options.decode_lens;
  for (std::int32_t batch : batches)
    for (std::int32_t decode_len : decode_lens) cases.push_back({batch, options.prompt_len, decode_len});
  return cases;
}

CLI::App* add_offline(CLI::App& app, OfflineOptions& options) {
  CLI::App* offline = app.add_subcommand("offline", "throughput of the engine: random prompts, all there at the start");
  add_model_flags(*offline, options.engine);
  add_engine_flags(*offline, options.engine);
  const auto at_least = [](std::int32_t least) { return CLI::Range(least, std::numeric_limits<std::int32_t>::max()); };
  offline->add_option("--num-prompts", options.num_prompts, "requests")->check(at_least(1))->capture_default_str();
  offline->add_option("--prompt-len", options.prompt_len, "tokens of each prompt")->check(at_least(1))->capture_default_str();
  offline->add_option("--decode-len", options.decode_len, "tokens of each answer")->check(at_least(1))->capture_default_str();
  const auto list = [&](const char* name, auto& value, const char* what) { return offline->add_option(name, value, what)->delimiter(','); };
  CLI::Option* sweep = list("--sweep", options.decode_lens, "decode lengths, a run for each: 16,128,512")->check(at_least(1))->excludes("--decode-len");
  CLI::Option* batch = list("--batch", options.batches, "numbers of requests, a run for each: 1,16,256")->check(at_least(1))->excludes("--num-prompts");
  list("--case", options.cases, "runs written out, PROMPTSxTOKENS+DECODED: 512x1024+128,1x128+256")
      ->excludes(sweep)->excludes(batch)->excludes("--num-prompts")->excludes("--prompt-len")->excludes("--decode-len");
  offline->add_option("--repeats", options.num_repeats, "of all the runs")->check(at_least(1))->capture_default_str();
  offline->add_option("--warmup", options.num_warmup, "requests before the clock starts")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  offline->add_option("--temperature", options.temperature, "of the sampling; 0 is greedy")->capture_default_str();
  offline->add_option("--seed", options.seed, "of prompts, sampling and dummy weights")->capture_default_str();
  offline->add_option("--ceilings", options.ceilings_path, "file of fgbench roofline --json (default: measured at the start)");
  offline->add_flag("--no-ceilings", options.no_ceilings, "no percent of what the machine can do at most")->excludes("--ceilings");
  offline->add_option("--profile-steps", options.profile_steps, "write so many steps of each run's last repeat to a trace; GPU busy %")
      ->check(CLI::Range(0, 100000));
  offline->add_option("--profile-file", options.profile_file, "of the trace; several runs number it")->capture_default_str();
  offline->add_option("--profile-at", options.profile_at, "decode (when every request has its first token) or start")
      ->check(CLI::IsMember({"decode", "start"}))->capture_default_str();
  offline->add_option("--json", options.json_path, "also write the figures, with machine and commit, to this file");
  return offline;
}

void run_offline(const OfflineOptions& options) {
  std::ofstream json;
  if (!options.json_path.empty()) {
    json.open(options.json_path);  // before the work, which may be long
    if (!json) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
  }
  Offline offline(options);
  const std::vector<OfflineRun> runs = offline.run();
  if (json.is_open()) write_record(options, offline.info(), offline.ceilings(), runs, json);
}

}  // namespace fastgen::bench
