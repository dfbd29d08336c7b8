// fgchat: a chat in the terminal with a model that this process runs itself.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <clocale>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "chat/conversation.h"
#include "chat/interrupts.h"
#include "chat/line_reader.h"
#include "command_line.h"
#include "engine_flags.h"
#include "fastgen/engine.h"
#include "fastgen/error.h"
#include "fastgen/text.h"
#include "progress_bar.h"

namespace fastgen {
namespace {

struct Options {
  EngineConfig engine;
  std::int32_t tensor_parallel = 1;
  float temperature = 0.7F;
  float top_p = 0.95F;
  std::int32_t max_tokens = 0;  // 0: as many as fit
  std::optional<std::uint64_t> seed;
  std::string system;
  std::string chat_template;
  bool verbose = false;
};

void add_flags(CLI::App& app, Options& options) {
  add_model_flags(app, options.engine);
  add_engine_flags(app, options.engine);
  app.add_option("--tensor-parallel", options.tensor_parallel, "GPUs to split the model over (only 1 for now)")
      ->capture_default_str();
  app.add_option("--temperature", options.temperature, "0 always takes the likeliest token")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  app.add_option("--top-p", options.top_p, "Draw from the likeliest tokens that hold this share")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--max-tokens", options.max_tokens, "Longest answer in tokens; 0: as long as fits")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "The same seed and conversation give the same answer (default: a new one each time)");
  app.add_option("--system", options.system, "What the model is told before the conversation");
  app.add_option("--chat-template", options.chat_template, "One of the model's chat templates by its name, or a Jinja file to use instead");
  app.add_flag("--verbose", options.verbose, "What was loaded, and the times of each answer");
  app.footer("In the chat:  /r N  back to before round N    /m  several lines, until one with a single dot    /q  quit\n"
             "Several lines that are pasted are one question.\n"
             "Ctrl-C stops the answer, or forgets the line that is being typed.");
}

// ---- one answer ----

struct Answer {
  std::string text;
  std::int32_t prompt_tokens = 0;
  std::int32_t num_tokens = 0;
  std::uint64_t submit_us = 0;
  std::uint64_t first_us = 0;
  std::uint64_t last_us = 0;
  FinishReason reason = FinishReason::kNone;

  // Of the tokens after the first, whose time is the prompt's; a lone token counts with its prompt.
  double tokens_per_s() const {
    const std::uint64_t us = num_tokens > 1 ? last_us - first_us : last_us - submit_us;
    return us == 0 ? 0 : double(std::max(num_tokens - 1, std::min(num_tokens, 1))) * 1e6 / double(us);
  }
};

// What a model writes must not steer the terminal: control characters but tab and line break are left out.
std::string without_controls(std::string_view text) {
  std::string kept;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (is_c1) ++i;
    if (is_c1 || (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F) continue;
    kept += text[i];
  }
  return kept;
}

void show(std::string_view text) {
  static const bool is_terminal = isatty(STDOUT_FILENO) != 0;
  fmt::print("{}", is_terminal ? without_controls(text) : std::string(text));
  std::fflush(stdout);
}

// Takes what the ring holds; false when the request is over.
bool take_events(EventRing& ring, TextStream& stream, Answer& answer) {
  for (Event event; ring.pop(event);) {
    if (event.kind == EventKind::kFinish) {
      answer.reason = event.reason;
      return false;
    }
    if (event.kind != EventKind::kToken) continue;
    if (answer.num_tokens++ == 0) answer.first_us = event.step_us;
    answer.last_us = event.step_us;
    const std::string piece = stream.push(event.token);
    answer.text += piece;
    if (!piece.empty()) show(piece);
  }
  return true;
}

Answer stream_answer(Engine& engine, const std::shared_ptr<const Tokenizer>& tokenizer, Interrupts& interrupts,
                     Request request) {
  Answer answer{.prompt_tokens = std::int32_t(request.prompt.size()), .submit_us = now_us()};
  TextStream stream(tokenizer, {});
  EventRing& ring = engine.ring(0);
  std::optional<Ticket> ticket = engine.try_admit();
  if (!ticket) throw Error("the engine is full");
  interrupts.take();  // one that came before has nothing to stop
  const RequestId id = engine.submit(std::move(*ticket), std::move(request));
  do {
    if (ring.wait(50)) ring.acknowledge();
    if (interrupts.take()) engine.cancel(id);
  } while (take_events(ring, stream, answer));
  const std::string rest = stream.finish();
  answer.text += rest;
  show(rest);
  return answer;
}

// ---- the chat ----

std::shared_ptr<const ChatTemplate> template_of(const std::string& folder, const Options& options, const Tokenizer& tokenizer) {
  if (!options.chat_template.empty()) return ChatTemplate::choose(folder, options.chat_template);
  auto chat_template = ChatTemplate::load(folder);
  return chat_template ? chat_template : ChatTemplate::of_family(tokenizer);
}

class Chat {
 public:
  Chat(Engine& engine, const Options& options, std::shared_ptr<const Tokenizer> tokenizer)
      : engine_(engine),
        options_(options),
        tokenizer_(std::move(tokenizer)),
        conversation_(tokenizer_, template_of(engine.info().model_folder, options, *tokenizer_), options.system),
        reader_(interrupts_) {}

  void run() {
    for (std::string line;;) {
      const ReadResult result = reader_.read(fmt::format("{}> ", conversation_.next_round()), line);
      if (result == ReadResult::kEnd) {
        fmt::print("\n");
        return;
      }
      if (result == ReadResult::kLine && !take_line(std::move(line))) return;
    }
  }

 private:
  // False: the user wants to leave.
  bool take_line(std::string line) {
    const std::string_view command = command_of(line);
    if (command == "/q") return false;
    if (command == "/r") {
      go_back(std::string_view(line).substr(2));
    } else if (command == "/m") {
      if (std::optional<std::string> text = read_many_lines()) ask(std::move(*text));
    } else if (!command.empty()) {
      fmt::print("no command {}: there are /r N, /m and /q (to say this to the model, begin with /m)\n", command);
    } else if (line.find_first_not_of(" \t") != std::string::npos) {
      ask(std::move(line));
    }
    return true;
  }

  // "/word" at the start of a line; "/etc/hosts" is none, and several lines that were pasted are none.
  static std::string_view command_of(std::string_view line) {
    if (!line.starts_with('/') || line.find('\n') != std::string_view::npos) return {};
    const std::string_view word = line.substr(0, line.find_first_of(" \t"));
    return word.find('/', 1) == std::string_view::npos ? word : std::string_view();
  }

  void go_back(std::string_view argument) {
    argument.remove_prefix(std::min(argument.find_first_not_of(" \t"), argument.size()));
    argument = argument.substr(0, argument.find_last_not_of(" \t") + 1);
    std::size_t round = 0;
    const auto [end, error] = std::from_chars(argument.data(), argument.data() + argument.size(), round);
    const bool is_number = error == std::errc() && end == argument.data() + argument.size();
    if (!is_number || round < 1 || round > conversation_.next_round()) {
      fmt::print("/r N: N is a round, 1 to {}\n", conversation_.next_round());
      return;
    }
    conversation_.go_back_to(round);
  }

  std::optional<std::string> read_many_lines() {
    std::string text;
    for (std::string line;;) {
      const ReadResult result = reader_.read("", line);
      if (result == ReadResult::kInterrupted) return std::nullopt;
      if (result == ReadResult::kEnd || line == ".") break;
      text += (text.empty() ? "" : "\n") + line;
    }
    if (text.empty()) return std::nullopt;
    return text;
  }

  void ask(std::string question) {
    const std::size_t round = conversation_.next_round();
    conversation_.ask(std::move(question));
    try {
      const Answer answer = stream_answer(engine_, tokenizer_, interrupts_, request());
      if (answer.reason == FinishReason::kError) throw Error("the engine failed");
      conversation_.answer(answer.text);
      print_closing_line(answer);
    } catch (const Error& error) {
      conversation_.go_back_to(round);
      fmt::print("{}\n", error.what());
    }
  }

  Request request() {
    Request request;
    request.prompt = conversation_.prompt_ids();
    const std::int32_t room = engine_.info().max_model_len - std::int32_t(request.prompt.size());
    if (room < 1) {
      throw Error(fmt::format("the conversation no longer fits: {} tokens of {} (/r 1 starts anew)", request.prompt.size(),
                              engine_.info().max_model_len));
    }
    SamplingParams& sampling = request.sampling;
    sampling.temperature = options_.temperature;
    sampling.top_p = options_.top_p;
    sampling.max_tokens = options_.max_tokens > 0 ? std::min(options_.max_tokens, room) : room;
    sampling.seed = options_.seed ? *options_.seed : (std::uint64_t{random_()} << 32 | random_());
    if (const std::string wrong = engine_.validate(request); !wrong.empty()) throw Error(wrong);
    return request;
  }

  void print_closing_line(const Answer& answer) const {
    const char* why = answer.reason == FinishReason::kCancelled ? ", stopped"
                      : answer.reason == FinishReason::kLength  ? ", cut off"
                                                                : "";
    fmt::print("\n--- [{} tokens, {:.3f}toks/s{}]\n", answer.num_tokens, answer.tokens_per_s(), why);
    if (!options_.verbose || answer.num_tokens == 0) return;
    const double first_s = double(answer.first_us - answer.submit_us) / 1e6;
    fmt::print("    {} prompt tokens, first token after {:.0f} ms ({:.0f} prompt tokens/s)\n", answer.prompt_tokens,
               first_s * 1e3, double(answer.prompt_tokens) / first_s);
  }

  Engine& engine_;
  const Options& options_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  Conversation conversation_;
  Interrupts interrupts_;
  LineReader reader_;
  std::random_device random_;
};

void print_info(const EngineInfo& info) {
  fmt::print("{}: {}, {:.1f} M parameters, {} on {}, loaded in {:.2f} s\n", info.model_folder, info.architecture,
             double(info.num_parameters) / 1e6, info.dtype, info.device, info.load_seconds);
  fmt::print("KV cache: {} tokens, {:.2f} GB; a conversation may have {} tokens\n", info.kv_tokens,
             double(info.kv_bytes) / 1e9, info.max_model_len);
}

void run(Options& options) {
  if (options.tensor_parallel != 1) {
    throw Error(fmt::format("--tensor-parallel {}: only 1 for now", options.tensor_parallel));
  }
  ProgressBar bar("loading", stderr);
  options.engine.on_load = [&bar](std::uint64_t done, std::uint64_t total) { bar.update(done, total); };
  const std::unique_ptr<Engine> engine = Engine::create(options.engine);
  if (options.verbose) print_info(engine->info());
  Chat(*engine, options, Tokenizer::load(engine->info().model_folder)).run();
  engine->stop();
}

}  // namespace
}  // namespace fastgen

int main(int argc, char** argv) {
  using namespace fastgen;
  // libedit counts columns by the locale's characters; a bare "C" would know only ASCII.
  if (!std::setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  CLI::App app("A chat in the terminal with a model that this process runs itself.");
  set_up_command_line(app, "fgchat");
  Options options;
  options.engine.max_batch = 1;
  options.engine.max_queue = 1;
  add_flags(app, options);
  if (const auto status = parse_command_line(app, argc, argv)) return *status;
  set_log_level(options.verbose ? LogLevel::kDebug : LogLevel::kWarn);
  try {
    run(options);
  } catch (const Error& error) {
    fmt::print(stderr, "fgchat: {}\n", error.what());
    return 1;
  }
  return 0;
}
