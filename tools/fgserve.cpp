// fgserve: an OpenAI-compatible server for one model.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <future>
#include <optional>
#include <utility>
#include <thread>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/flight_file.h"
#include "base/log.h"
#include "base/model_folder.h"
#include "base/step_trace.h"
#include "fastgen/engine.h"
#include "fastgen/text.h"
#include "command_line.h"
#include "engine_flags.h"
#include "plan/command.h"
#include "progress_bar.h"
#include "server/server.h"
#include "server_flags.h"

namespace fs = std::filesystem;
using namespace fastgen;

namespace {

constexpr std::chrono::seconds kFailedLinger{1};

struct Flags {
  EngineConfig engine;
  ServerFlags server;
  std::string chat_template;
  std::string reasoning_format = "auto";
  std::optional<std::uint64_t> seed;
};

// ---- the command line

void add_own_model_flags(CLI::App& app, Flags& flags) {
  auto add = [&](const char* name, auto& value, const char* help) { return app.add_option(name, value, help)->group("Model"); };
  add("--chat-template", flags.chat_template, "One of the model's chat templates by its name, or a Jinja file to use instead");
  add("--reasoning-format", flags.reasoning_format,
      "auto: thinking of a model that has a </think> token goes to reasoning_content; always; none: it stays text")
      ->check(CLI::IsMember({"auto", "always", "none"}))->capture_default_str();
  app.add_flag("--trust-request-chat-template", flags.server.config.trust_request_template, "Let requests bring chat templates of their own, which may write control tokens")->group("Model");
  app.add_flag("--trust-content", flags.server.config.trust_content, "Let control tokens written in messages act as such")->group("Model");
  add("--seed", flags.seed, "Of dummy weights, and of requests that bring none (default: those are random)");
}

void add_flags(CLI::App& app, Flags& flags) {
  app.description(
      "Serves one model over OpenAI's HTTP API: POST /v1/chat/completions, /v1/completions, /tokenize, /detokenize,\n"
      "GET /v1/models, /tokenizer_info, /health, /metrics, /version, /openapi.json.");
  app.footer(
      "\nExample:\n"
      "  fgserve --port 5678\n"
      "  curl http://127.0.0.1:5678/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}],\"stream\":true}'\n\n"
      "Every flag can stand in a TOML file (--config) or in the environment (--max-batch\n"
      "is FG_MAX_BATCH); the command line counts first, then the file, then the environment.\n"
      "SIGTERM or Ctrl-C lets running answers end (--drain-s); a second one stops at once.\n"
      "SIGUSR2 writes the next 8 steps (FG_PROFILE_ITERS) to a trace file that ui.perfetto.dev shows.");
  add_model_flags(app, flags.engine);
  add_own_model_flags(app, flags);
  add_server_flags(app, flags.server);
  flags.engine.max_batch = 256;
  add_engine_flags(app, flags.engine);
  app.add_option("--max-queue", flags.engine.max_queue, "Requests waiting and running; further ones get 429")
      ->group("Engine")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.set_config("--config", "", "A TOML file with flags, without their dashes");
  add_environment_and_file(app);
}

// ---- start

void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;  // one descriptor per client
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::shared_ptr<const ChatTemplate> load_template(const Flags& flags, const fs::path& folder) {
  if (flags.chat_template.empty()) return ChatTemplate::load(folder);
  try {
    return ChatTemplate::choose(folder, flags.chat_template);
  } catch (const Error& error) {
    throw Error(fmt::format("--chat-template {}", error.what()));
  }
}

std::string default_name(const std::string& model, const fs::path& folder) {
  if (model.empty() || fs::exists(model)) {
    const fs::path path = fs::weakly_canonical(folder);
    return path.filename().string();
  }
  return model;
}

std::string describe(const SamplingParams& sampling) {
  std::string out = fmt::format("temperature {:g}, top_p {:g}", sampling.temperature, sampling.top_p);
  if (sampling.top_k > 0) out += fmt::format(", top_k {}", sampling.top_k);
  if (sampling.min_p > 0) out += fmt::format(", min_p {:g}", sampling.min_p);
  if (sampling.repetition_penalty != 1) out += fmt::format(", repetition_penalty {:g}", sampling.repetition_penalty);
  return out;
}

void print_banner(const Flags& flags, const EngineInfo& info, const server::Server& server) {
  if (info.max_model_len_lowered)
    log_warn("--max-model-len: lowered to {} tokens, which is what the KV cache holds (--kv-gb)", info.max_model_len);
  log_info("model    {} ({}, {:.1f}M parameters, {}) from {}", flags.server.config.model_names.front(), info.architecture,
           static_cast<double>(info.num_parameters) / 1e6, info.dtype, info.model_folder);
  log_info("backend  {} on {}, loaded in {:.2f} s", info.backend, info.device, info.load_seconds);
  log_info("memory   weights {:.2f} GB, KV cache {:.2f} GB: {} tokens in blocks of {}; context {} tokens, batch {}, queue {}",
           static_cast<double>(info.weight_bytes) / 1e9, static_cast<double>(info.kv_bytes) / 1e9, info.kv_tokens,
           info.block_size, info.max_model_len, info.max_batch, info.max_queue);
  if (info.host_kv_tokens > 0)
    log_info("         host tier {:.2f} GB: {} tokens of preempted sequences", static_cast<double>(info.host_kv_bytes) / 1e9, info.host_kv_tokens);
  log_info("sampling where a request does not say: {}", describe(info.sampling));
  log_info("ready    {}/v1", server.url());
}

// ---- signals: blocked in every thread, taken by one that waits for them, so that no handler runs anywhere

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGUSR2);
  return set;
}

[[noreturn]] void exit_by(int signal) { ::_exit(128 + signal); }

// Exits the process on signals while nothing is there to drain: while loading, and at the second one.
class SignalThread {
 public:
  SignalThread() : thread_([this] { work(); }) { thread_.detach(); }
  // The server is up: the first signal now makes wait_stop return.
  void arm() { armed_ = true; }
  bool stop_asked() const { return asked_; }

 private:
  void work() {
    const sigset_t set = stop_signals();
    while (true) {
      int signal = 0;
      if (sigwait(&set, &signal) != 0) continue;
      if (signal == SIGUSR2) {
        request_step_trace();
        continue;
      }
      if (!armed_ || asked_.exchange(true)) exit_by(signal);
    }
  }
  std::atomic<bool> armed_{false}, asked_{false};
  std::thread thread_;
};

// An engine that hangs cannot be stopped, only left.
void exit_if_stuck() {
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::seconds(10));
    log_error("the engine does not stop, leaving it");
    ::_exit(1);
  }).detach();
}

int serve(Flags& flags) {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a log whose reader has gone is no reason to end
  static SignalThread signals;  // its thread may outlive main
  set_log_level(flags.server.verbose ? LogLevel::kDebug : parse_log_level(flags.server.log_level));
  raise_file_limit();

  finish_server_flags(flags.server);
  server::ServerConfig& config = flags.server.config;
  const fs::path folder = flags.engine.model.empty() ? default_model_folder() : resolve_model_folder(flags.engine.model, flags.engine.revision);
  if (config.model_names.empty()) config.model_names = {default_name(flags.engine.model, folder)};
  flags.engine.num_event_rings = config.num_io_threads;
  flags.engine.seed = flags.seed.value_or(0);
  config.seed = flags.seed;

  // Listening comes first, so that health can tell how far the loading is. Tokenizer and weights load side by side.
  server::Server server(config);
  server.start();
  ProgressBar bar("loading", stderr);
  const bool shows_progress = isatty(STDERR_FILENO) && flags.server.log_level != "off";
  flags.engine.on_load = [&server, &bar, shows_progress](std::uint64_t done_bytes, std::uint64_t total_bytes) {
    server.set_loaded(done_bytes, total_bytes);
    if (shows_progress) bar.update(done_bytes, total_bytes);
  };
  auto tokenizer = std::async(std::launch::async, [&] { return Tokenizer::load(folder); });
  auto chat_template = load_template(flags, folder);  // here, so that a bad one is told of before minutes of loading
  const std::unique_ptr<Engine> engine = Engine::create(flags.engine);
  // The engine must outlive what serves it, though it is made later.
  struct Drained {
    server::Server& server;
    ~Drained() { server.drain(0); }
  } drained{server};
  const std::shared_ptr<const Tokenizer> words = tokenizer.get();
  if (!chat_template && (chat_template = ChatTemplate::of_family(*words)))
    log_info("the model has no chat template: that of its family is used (Mistral v3-tekken; --chat-template gives another)");
  if (!chat_template) log_warn("the model has no chat template: /v1/chat/completions is refused without --chat-template");
  if (words->vocab_size() > engine->info().vocab)
    log_warn("the tokenizer has {} tokens, the model {}: prompts with one of the others are refused", words->vocab_size(), engine->info().vocab);
  const bool thinks = flags.reasoning_format == "always" || words->find("</think>").has_value();
  server.attach(*engine, {words, chat_template, thinks && flags.reasoning_format != "none"});
  signals.arm();
  print_banner(flags, engine->info(), server);
  bool failed = false, stalled = false;
  while (!signals.stop_asked() && !failed) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const EngineStats stats = engine->stats();
    failed = stats.failed;
    const bool was_stalled = std::exchange(stalled, static_cast<double>(stats.silent_us) > flags.server.config.stall_s * 1e6);
    if (stalled && !was_stalled) write_flight_file("stall");
  }
  if (failed) {
    write_flight_file("failure");
    // Streams have ended with an error event already; whoever asks for /health sees 503 before the port closes.
    log_error("the engine failed, stopping");
    std::this_thread::sleep_for(kFailedLinger);
  } else {
    log_info("stopping: running answers get {} s to end", flags.server.drain_s);
  }
  const bool ended = server.drain(failed ? 2 : flags.server.drain_s);
  if (!ended) log_warn("--drain-s is over: the answers still running were ended with an error");
  exit_if_stuck();
  engine->stop();
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app;
  set_up_command_line(app, "fgserve");
  add_flags(app, flags);
  const auto plan_model = plan::add_command(app);
  if (const auto status = parse_command_line(app, argc, argv)) return *status;
  for (const std::string& name : unknown_environment(app)) log_warn("{} is set in the environment, but no flag has that name", name);
  try {
    return app.got_subcommand("plan") ? plan_model() : serve(flags);
  } catch (const std::exception& error) {
    fmt::print(stderr, "fgserve: {}\n", error.what());
    return 1;
  }
}
