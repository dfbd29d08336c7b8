// fgserve: an OpenAI-compatible server for one model.
#include <atomic>
#include <cctype>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <optional>
#include <utility>
#include <thread>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "base/model_folder.h"
#include "base/step_trace.h"
#include "fastgen/engine.h"
#include "fastgen/text.h"
#include "plan/command.h"
#include "server/server.h"

namespace fs = std::filesystem;
using namespace fastgen;

namespace {

struct Flags {
  EngineConfig engine;
  server::ServerConfig server;
  std::string chat_template_file;
  std::string reasoning_format = "auto";
  std::string log_level = "info";
  double drain_s = 30;
  std::optional<std::uint64_t> seed;
};

// ---- the command line

void add_server_flags(CLI::App& app, Flags& flags) {
  auto add = [&](const char* name, auto& value, const char* help) { return app.add_option(name, value, help)->group("Server"); };
  add("--host", flags.server.host, "Address to listen on; 0.0.0.0 for all")->capture_default_str();
  add("--port", flags.server.port, "Port to listen on; 0 for any free one")->capture_default_str();
  add("--served-model-name", flags.server.model_names, "Name in answers and /v1/models (repeatable; the first is in answers)")
      ->allow_extra_args(false);
  app.add_flag("--strict-model", flags.server.strict_model, "Refuse requests for a model of another name")->group("Server");
  add("--io-threads", flags.server.num_io_threads, "Threads for HTTP; 0: by the number of cores")
      ->check(CLI::Range(0, 64))->default_str("0");
  add("--text-threads", flags.server.num_text_threads, "Threads that tokenize long prompts")
      ->check(CLI::Range(0, 4))->capture_default_str();
  add("--max-body-bytes", flags.server.max_body_bytes, "Largest request body; larger ones get 413")->capture_default_str();
  add("--max-stream-bytes", flags.server.max_stream_bytes, "Unsent bytes at which a slow reader's stream is cancelled")
      ->capture_default_str();
  add("--drain-s", flags.drain_s, "On SIGTERM: seconds that running answers get to end")
      ->check(CLI::Range(0.0, 1e6))->capture_default_str();
  add("--log-level", flags.log_level, "debug, info, warn, error or off")->capture_default_str();
}

void add_model_flags(CLI::App& app, Flags& flags) {
  auto add = [&](const char* name, auto& value, const char* help) { return app.add_option(name, value, help)->group("Model"); };
  add("MODEL", flags.engine.model, "A folder, or org/name in the local Hugging Face cache (default: SmolLM2-135M-Instruct)");
  add("--revision", flags.engine.revision, "Branch, tag or commit of a name in the cache")->capture_default_str();
  add("--dtype", flags.engine.dtype, "Weights: auto, bfloat16 or float32")->capture_default_str();
  app.add_flag("--dummy-weights", flags.engine.dummy_weights, "Random weights made from config.json alone")->group("Model");
  add("--layers", flags.engine.num_layers, "With --dummy-weights: only so many of the layers; 0: all")
      ->check(CLI::Range(0, 1 << 10))->capture_default_str();
  add("--chat-template", flags.chat_template_file, "Jinja file to use instead of the model's own chat template");
  add("--reasoning-format", flags.reasoning_format,
      "auto: thinking of a model that has a </think> token goes to reasoning_content; always; none: it stays text")
      ->check(CLI::IsMember({"auto", "always", "none"}))->capture_default_str();
  app.add_flag("--trust-content", flags.server.trust_content, "Let control tokens written in messages act as such")->group("Model");
  add("--seed", flags.seed, "Of dummy weights, and of requests that bring none (default: those are random)");
}

void add_engine_flags(CLI::App& app, Flags& flags) {
  auto add = [&](const char* name, auto& value, const char* help) { return app.add_option(name, value, help)->group("Engine"); };
  auto add_size = [&](const char* name, std::int32_t& value, const char* help) {
    return add(name, value, help)->check(CLI::Range(0, 1 << 30))->capture_default_str();
  };
  EngineConfig& engine = flags.engine;
  engine.max_batch = 256;
  add("--backend", engine.backend, "cpu, cuda, echo (a test model that needs no weights), late or late:echo")->capture_default_str();
  add_size("--max-model-len", engine.max_model_len, "Most tokens of prompt and answer; 0: the model's, or what the KV cache holds");
  add("--kv-gb", engine.kv_gb, "KV cache on the CPU, 1e9 bytes; 0: a quarter of free memory")
      ->check(CLI::Range(0.0, 1e6))->capture_default_str();
  add("--gpu-gb", engine.gpu_gb, "GPU memory to use, 1e9 bytes (needs a GPU)")->check(CLI::Range(0.0, 1e6));
  add("--gpu-fraction", engine.gpu_fraction, "The same as a share of the card (without both: 0.9)")->check(CLI::Range(0.0, 1.0));
  add_size("--graphs", engine.num_graphs, "Batch sizes whose decode steps are captured and replayed");
  add_size("--block-size", engine.block_size, "Tokens in a block of the KV cache")->check(CLI::Range(1, 1024));
  add_size("--max-batch", engine.max_batch, "Sequences that decode together");
  add_size("--max-prefill", engine.max_prefill, "Prompt tokens in one step; 0: the backend's defaults");
  add_size("--max-queue", engine.max_queue, "Requests waiting and running; further ones get 429")->check(CLI::Range(1, 1 << 20));
  add_size("--threads", engine.num_threads, "Compute threads on the CPU; 0: all cores");
}

// Every flag also reads FG_ITS_NAME: --max-batch is FG_MAX_BATCH.
void add_environment(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    std::string name = option->get_name(false, true);
    if (option->get_lnames().empty() || name.find("help") != std::string::npos) continue;
    name = option->get_lnames().front();
    for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    option->envname("FG_" + name);
  }
}

void add_flags(CLI::App& app, Flags& flags) {
  app.description(
      "Serves one model over OpenAI's HTTP API: POST /v1/chat/completions and /v1/completions,\n"
      "GET /v1/models, /health, /version.");
  app.footer(
      "\nExample:\n"
      "  fgserve --port 5678\n"
      "  curl http://127.0.0.1:5678/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}],\"stream\":true}'\n\n"
      "Every flag can stand in a TOML file (--config FILE, without the dashes) or in the environment (--max-batch\n"
      "is FG_MAX_BATCH); the command line counts first, then the file, then the environment.\n"
      "SIGTERM or Ctrl-C lets running answers end (--drain-s); a second one stops at once.\n"
      "SIGUSR2 writes the next 8 steps (FG_PROFILE_ITERS) to a trace file that ui.perfetto.dev shows.");
  add_model_flags(app, flags);
  add_server_flags(app, flags);
  add_engine_flags(app, flags);
  app.set_config("--config", "", "Read flags from this file");
  add_environment(app);
}

// ---- start

int default_io_threads() {
  const unsigned cores = std::thread::hardware_concurrency();
  return cores >= 32 ? 4 : cores >= 8 ? 2 : 1;
}

void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;  // one descriptor per client
  setrlimit(RLIMIT_NOFILE, &limit);
}

// "loading: 100%|####| 14.5G/14.5G", on a terminal only.
void show_progress(std::uint64_t done, std::uint64_t total) {
  static int shown = -1;
  const int percent = total > 0 ? static_cast<int>(done * 100 / total) : 100;
  if (std::exchange(shown, percent) == percent) return;
  const std::string bar = std::string(static_cast<std::size_t>(percent) / 5, '#') + std::string(20 - static_cast<std::size_t>(percent) / 5, ' ');
  fmt::print(stderr, "\rloading: {:3}%|{}| {:.2f}G/{:.2f}G{}", percent, bar, static_cast<double>(done) / 1e9,
             static_cast<double>(total) / 1e9, done >= total ? "\n" : "");
  std::fflush(stderr);
}

std::shared_ptr<const ChatTemplate> load_template(const Flags& flags, const fs::path& folder) {
  if (flags.chat_template_file.empty()) return ChatTemplate::load(folder);
  std::ifstream in(flags.chat_template_file, std::ios::binary);
  const std::string source((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (!in) throw Error(fmt::format("--chat-template: cannot read {}", flags.chat_template_file));
  return ChatTemplate::parse(source, flags.chat_template_file);
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
  log_info("model    {} ({}, {:.1f}M parameters, {}) from {}", flags.server.model_names.front(), info.architecture,
           static_cast<double>(info.num_parameters) / 1e6, info.dtype, info.model_folder);
  log_info("backend  {} on {}, loaded in {:.2f} s", info.backend, info.device, info.load_seconds);
  log_info("memory   weights {:.2f} GB, KV cache {:.2f} GB: {} tokens in blocks of {}; context {} tokens, batch {}, queue {}",
           static_cast<double>(info.weight_bytes) / 1e9, static_cast<double>(info.kv_bytes) / 1e9, info.kv_tokens,
           info.block_size, info.max_model_len, info.max_batch, info.max_queue);
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

int serve(Flags& flags) {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  static SignalThread signals;  // its thread may outlive main
  set_log_level(parse_log_level(flags.log_level));
  raise_file_limit();

  const fs::path folder = flags.engine.model.empty() ? default_model_folder() : resolve_model_folder(flags.engine.model, flags.engine.revision);
  if (flags.server.model_names.empty()) flags.server.model_names = {default_name(flags.engine.model, folder)};
  if (flags.server.num_io_threads == 0) flags.server.num_io_threads = default_io_threads();
  flags.engine.num_event_rings = flags.server.num_io_threads;
  flags.engine.seed = flags.seed.value_or(0);
  flags.server.seed = flags.seed;
  if (isatty(STDERR_FILENO) && flags.log_level != "off") flags.engine.on_load = show_progress;

  // Tokenizer and weights load side by side.
  auto tokenizer = std::async(std::launch::async, [&] { return Tokenizer::load(folder); });
  auto chat_template = load_template(flags, folder);
  const std::unique_ptr<Engine> engine = Engine::create(flags.engine);
  if (!chat_template) log_warn("the model has no chat template: /v1/chat/completions is refused without --chat-template");

  const std::shared_ptr<const Tokenizer> words = tokenizer.get();
  const bool thinks = flags.reasoning_format == "always" || words->find("</think>").has_value();
  flags.server.split_reasoning = thinks && flags.reasoning_format != "none";
  server::Server server(flags.server, *engine, words, chat_template);
  server.start();
  signals.arm();
  print_banner(flags, engine->info(), server);
  bool failed = false;
  while (!signals.stop_asked() && !failed) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    failed = engine->stats().failed;
  }
  if (failed) {
    log_error("the engine failed, stopping");
  } else {
    log_info("stopping: running answers get {} s to end", flags.drain_s);
  }
  const bool ended = server.drain(failed ? 2 : flags.drain_s);
  if (!ended) log_warn("--drain-s is over: the answers still running were ended with an error");
  engine->stop();
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  flags.server.num_io_threads = 0;
  CLI::App app;
  add_flags(app, flags);
  const auto plan_model = plan::add_command(app);
  CLI11_PARSE(app, argc, argv);
  try {
    return app.got_subcommand("plan") ? plan_model() : serve(flags);
  } catch (const std::exception& error) {
    fmt::print(stderr, "fgserve: {}\n", error.what());
    return 1;
  }
}
