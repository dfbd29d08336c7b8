#include "bench/serve.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>

#include <fmt/format.h>
#include <simdjson.h>

#include "base/clock.h"
#include "base/json_writer.h"
#include "bench/load_client.h"
#include "bench/load_figures.h"
#include "bench/machine.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

constexpr double kNoRate = std::numeric_limits<double>::infinity();

// One run: a rate and a limit.
struct ServeCase {
  double rate = kNoRate;
  std::int32_t max_concurrency = 0;
};

struct ServeRun {
  ServeCase shape;
  LoadResult result;
  LoadFigures figures;
};

void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;  // one descriptor per stream
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::string first_model(const LoadTarget& target) {
  simdjson::dom::parser parser;
  const std::string answer = http_get(target, "/v1/models");
  std::string_view name;
  if (parser.parse(answer)["data"].at(0)["id"].get(name)) throw Error("--model: the server lists none, so it must be given");
  return std::string(name);
}

// A line that changes, on a terminal only.
class ProgressLine {
 public:
  explicit ProgressLine(bool quiet) : shown_(!quiet && isatty(STDERR_FILENO)) {}
  void show(const LoadProgress& progress, std::size_t total) {
    if (!shown_) return;
    const std::uint64_t now = now_us();
    const double rate = now > last_us_ ? double(progress.num_chunks - last_chunks_) * 1e6 / double(now - last_us_) : 0;
    fmt::print(stderr, "\r\x1b[K{}/{} done, {} open, {} failed, {:.0f} tokens/s", progress.num_done, total, progress.num_open,
               progress.num_failed, last_us_ > 0 ? rate : 0);
    if (progress.num_done == total) fmt::print(stderr, "\r\x1b[K");
    std::fflush(stderr);
    last_us_ = now, last_chunks_ = progress.num_chunks;
  }

 private:
  const bool shown_;
  std::uint64_t last_us_ = 0, last_chunks_ = 0;
};

class Serve {
 public:
  explicit Serve(const ServeOptions& options) : options_(options), target_(parse_url(options.url)) {
    for (const std::string& text : options.goodput) add_goodput(goodput_, text);
    check_extra_json();
    target_.path = options.endpoint == "chat" ? "/v1/chat/completions" : "/v1/completions";
    target_.api_key = options.api_key;
    raise_file_limit();
    model_ = options.model.empty() ? first_model(target_) : options.model;
    prompts_ = load_prompts(options.dataset, options.num_prompts + options.num_warmup);
  }

  std::vector<ServeRun> run() {
    fmt::print("{} of {} at {}: {} requests of {}\n", options_.endpoint, model_, options_.url, options_.num_prompts, options_.dataset.name);
    if (options_.num_warmup > 0) warm_up();
    std::vector<ServeRun> runs;
    for (const ServeCase& one : cases()) {
      print_case(one);
      runs.push_back(measure(one));
      print_load_figures(runs.back().figures, !goodput_.empty());
      print_errors(runs.back().result);
      fmt::print("{} token chunks, {:.2f} s of this program's CPU time\n", runs.back().result.num_chunks, runs.back().result.cpu_s);
      std::fflush(stdout);
    }
    return runs;
  }

  void write(const std::vector<ServeRun>& runs, std::ofstream& out) const {
    std::string text;
    JsonWriter json(text);
    json.begin_object();
    write_record_head(json, "serve", options_.command);
    json.field("label", options_.label).field("model_id", model_).field("url", options_.url).field("endpoint", options_.endpoint);
    json.field("dataset", options_.dataset.name).field("num_prompts", options_.num_prompts).field("burstiness", options_.burstiness);
    json.key("runs").begin_array();
    for (const ServeRun& run : runs) {
      json.begin_object();
      json.key("request_rate");
      if (std::isfinite(run.shape.rate)) json.value(run.shape.rate);
      else json.value("inf");
      json.key("max_concurrency");
      if (run.shape.max_concurrency > 0) json.value(run.shape.max_concurrency);
      else json.null();
      write_load_figures(json, run.figures, !goodput_.empty());
      json.field("client_cpu_s", run.result.cpu_s).field("num_chunks", run.result.num_chunks);
      json.end_object();
    }
    json.end_array().end_object();
    out << text << '\n';
    if (!out.flush()) throw Error(fmt::format("--json {}: cannot be written", options_.json_path));
  }

 private:
  std::vector<ServeCase> cases() const {
    const auto rates = options_.request_rates.empty() ? std::vector{kNoRate} : options_.request_rates;
    const auto limits = options_.concurrencies.empty() ? std::vector<std::int32_t>{0} : options_.concurrencies;
    std::vector<ServeCase> all;
    for (double rate : rates)
      for (std::int32_t limit : limits) all.push_back({rate, limit});
    return all;
  }

  // The bodies of `count` prompts from `first` on, each due when its turn comes.
  std::vector<LoadJob> jobs_of(std::size_t first, std::size_t count, double rate) const {
    const BodyOptions body{.chat = options_.endpoint == "chat", .model = model_, .temperature = options_.temperature,
                           .ignore_eos = !options_.stops_at_eos, .extra_json = options_.extra_json};
    const std::vector<double> gaps = arrival_gaps(std::int32_t(count), rate, options_.burstiness, options_.dataset.seed);
    std::vector<LoadJob> jobs;
    double due_s = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const LoadPrompt& prompt = prompts_[first + i];
      due_s += gaps[i];
      jobs.push_back({.body = body_of(prompt, body), .input_tokens = prompt.input_tokens, .due_ns = std::uint64_t(due_s * 1e9)});
    }
    return jobs;
  }

  void warm_up() const {
    const std::vector<LoadJob> jobs = jobs_of(std::size_t(options_.num_prompts), std::size_t(options_.num_warmup), kNoRate);
    const LoadResult result = run_load(jobs, {.target = target_, .max_concurrency = 16, .timeout_s = options_.timeout_s, .on_progress = {}});
    for (const LoadRecord& record : result.records)
      if (!record.ok) throw Error(fmt::format("--warmup: a request failed: {}", record.error));
  }

  ServeRun measure(const ServeCase& one) const {
    const std::vector<LoadJob> jobs = jobs_of(0, std::size_t(options_.num_prompts), one.rate);
    ProgressLine line(options_.quiet);
    ServeRun run{.shape = one,
                 .result = run_load(jobs, {.target = target_, .max_concurrency = one.max_concurrency, .timeout_s = options_.timeout_s,
                                           .on_progress = [&](const LoadProgress& progress) { line.show(progress, jobs.size()); }}),
                 .figures = {}};
    run.figures = load_figures_of(run.result.records, run.result.duration_s, goodput_, options_.percentiles);
    if (run.figures.completed == 0) throw Error(fmt::format("every request failed, the first: {}", run.result.records.front().error));
    return run;
  }

  void print_case(const ServeCase& one) const {
    const std::string rate = std::isfinite(one.rate) ? fmt::format("{} requests/s, burstiness {}", one.rate, options_.burstiness) : "all at once";
    fmt::print("\n{}{}\n\n", rate, one.max_concurrency > 0 ? fmt::format(", at most {} at a time", one.max_concurrency) : "");
    std::fflush(stdout);
  }

  static void print_errors(const LoadResult& result) {
    std::map<std::string, int> counts;
    for (const LoadRecord& record : result.records)
      if (!record.ok) ++counts[record.error];
    for (const auto& [error, count] : counts) fmt::print("failed {} times: {}\n", count, error);
  }

  void check_extra_json() const {
    if (options_.extra_json.empty()) return;
    simdjson::dom::parser parser;
    simdjson::dom::object object;
    if (parser.parse("{" + options_.extra_json + "}").get(object)) throw Error("--extra-json: must be JSON fields such as \"top_p\":0.9");
  }

  const ServeOptions& options_;
  LoadTarget target_;
  Goodput goodput_;
  std::string model_;
  std::vector<LoadPrompt> prompts_;
};

}  // namespace

CLI::App* add_serve(CLI::App& app, ServeOptions& options) {
  CLI::App* serve = app.add_subcommand("serve", "load on a server of OpenAI's API, with the figures of vllm bench serve");
  const auto add = [&](const char* name, auto& value, const char* what) { return serve->add_option(name, value, what)->capture_default_str(); };
  const auto count = [](std::int32_t least) { return CLI::Range(least, std::numeric_limits<std::int32_t>::max()); };
  add("--url", options.url, "http://HOST:PORT, or unix:PATH of a Unix socket");
  add("--endpoint", options.endpoint, "completions or chat")->check(CLI::IsMember({"completions", "chat"}));
  serve->add_option("--model", options.model, "name in requests (default: the first that the server lists)");
  serve->add_option("--api-key", options.api_key, "sent as a bearer token")->envname("OPENAI_API_KEY");
  add("--dataset", options.dataset.name, "random, chats (ShareGPT-shaped), jsonl, sonnet")->check(CLI::IsMember({"random", "chats", "jsonl", "sonnet"}));
  serve->add_option("--dataset-path", options.dataset.path, "file of jsonl, sonnet or chats; chats without one are made up");
  serve->add_option("--tokenizer", options.dataset.tokenizer, "a model's folder: counts tokens, and makes text of random ones");
  add("--input-len", options.dataset.input_len, "random, sonnet: tokens of a prompt")->check(count(1));
  add("--output-len", options.dataset.output_len, "tokens of an answer, where the dataset does not say")->check(count(1));
  add("--range-ratio", options.dataset.range_ratio, "random: lengths vary by so much around --input-len and --output-len")->check(CLI::Range(0.0, 0.99));
  add("--vocab", options.dataset.vocab, "random without --tokenizer: ids below this, sent as ids")->check(count(1));
  add("--num-prompts", options.num_prompts, "requests of each run")->check(count(1));
  serve->add_option("--request-rate", options.request_rates, "requests per second, a run for each: 4,8,16 (default: all at once)")
      ->delimiter(',')->check(CLI::Range(1e-6, 1e9));
  add("--burstiness", options.burstiness, "of arrivals: 1 is Poisson, below it bursty, above it even")->check(CLI::Range(1e-3, 1e6));
  serve->add_option("--max-concurrency", options.concurrencies, "requests at a time, a run for each (default: no limit)")->delimiter(',')->check(count(1));
  add("--warmup", options.num_warmup, "requests before the first run")->check(count(0));
  serve->add_option("--goodput", options.goodput, "limits of a good request in ms: ttft:200 tpot:50 e2el:5000");
  serve->add_option("--percentiles", options.percentiles, "of every latency (default: 99)")->delimiter(',')->check(CLI::Range(0.0, 100.0));
  add("--temperature", options.temperature, "of the sampling");
  serve->add_flag("--stop-at-eos", options.stops_at_eos, "answers may end early (default: ignore_eos is sent)");
  serve->add_option("--extra-json", options.extra_json, "more fields of each request: '\"top_p\":0.9'");
  add("--timeout-s", options.timeout_s, "of one request, whole")->check(CLI::Range(0.001, 1e6));
  add("--seed", options.dataset.seed, "of prompts and arrivals");
  serve->add_option("--label", options.label, "a word for the record");
  serve->add_flag("--quiet", options.quiet, "no progress");
  serve->add_option("--json", options.json_path, "also write the figures, with machine and commit, to this file");
  return serve;
}

void run_serve(const ServeOptions& options) {
  std::ofstream out;
  if (!options.json_path.empty()) {
    out.open(options.json_path);
    if (!out) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
  }
  Serve serve(options);
  const std::vector<ServeRun> runs = serve.run();
  if (out.is_open()) serve.write(runs, out);
}

}  // namespace fastgen::bench
