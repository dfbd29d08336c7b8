// Text in, text out: every line of standard input is asked as a chat of its own, all of them at once, and every answer is printed as
// one JSON line when it ends: what a program that makes synthetic data does.
//
//   printf '%s\n' "What is a haiku?" "Name three rivers." | answer [MODEL [SEED]]
//
// What to look at: the template turns messages into a prompt, of which the tokenizer makes ids; one TextStream for each answer turns
// ids back into text and knows the stop strings, which the engine does not; user_tag says whose event it is.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fastgen/engine.h"
#include "fastgen/text.h"

using namespace fastgen;

namespace {

std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", c);
      out += code;
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

struct Answer {
  std::string question;
  std::optional<TextStream> stream;
  std::string text;
};

class Answers {
 public:
  Answers(Engine& engine, std::uint64_t seed)
      : engine_(engine), seed_(seed), tokenizer_(Tokenizer::load(engine.info().model_folder)), chat_(ChatTemplate::load(engine.info().model_folder)) {
    if (!chat_) throw Error(engine.info().model_folder + ": has no chat template");
  }

  void run(std::istream& questions) {
    std::size_t num_submitted = 0;
    for (std::string line; std::getline(questions, line);) {
      std::optional<Ticket> ticket;
      while (!(ticket = engine_.try_admit())) take_events();  // the engine has enough: first take what is there
      try {
        submit(std::move(*ticket), line);
        ++num_submitted;
      } catch (const Error& error) {  // this line's fault; its ticket went back by itself
        std::fprintf(stderr, "answer: line left out: %s\n", error.what());
      }
    }
    while (num_over_ < num_submitted) take_events();
  }

 private:
  void submit(Ticket ticket, const std::string& question) {
    Request request;
    request.prompt = tokenizer_->encode(chat_->render({.messages_json = "[{\"role\": \"user\", \"content\": " + json_text(question) + "}]",
                                                       .bos_token = tokenizer_->bos_token(),
                                                       .eos_token = tokenizer_->eos_token()}));
    request.user_tag = answers_.size();
    request.sampling = engine_.info().sampling;  // what the model's authors recommend
    request.sampling.seed = seed_ + request.user_tag;
    request.sampling.max_tokens = 128;
    if (const std::string fault = engine_.validate(request); !fault.empty()) throw Error(fault);
    // One paragraph is enough.
    answers_.push_back({question, TextStream(tokenizer_, {.stop = {"\n\n"}}), ""});
    engine_.submit(std::move(ticket), std::move(request));
  }

  void take_events() {
    engine_.ring(0).wait(-1);
    for (Event event; engine_.ring(0).pop(event);) {
      Answer& answer = answers_[event.user_tag];
      if (event.kind == EventKind::kToken && !answer.stream->stop_idx()) {
        answer.text += answer.stream->push(event.token);
        if (answer.stream->stop_idx()) engine_.cancel(event.request);
      } else if (event.kind == EventKind::kFinish) {
        finish(answer, event.reason);
      }
    }
  }

  void finish(Answer& answer, FinishReason reason) {
    if (reason == FinishReason::kError) throw Error("the backend failed");
    if (!answer.stream->stop_idx()) answer.text += answer.stream->finish();
    const char* complete = reason == FinishReason::kLength ? "false" : "true";
    std::printf("{\"question\": %s, \"answer\": %s, \"complete\": %s}\n", json_text(answer.question).c_str(), json_text(answer.text).c_str(), complete);
    answer = {};  // its memory is free again, however many questions come
    ++num_over_;
  }

  Engine& engine_;
  const std::uint64_t seed_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const std::shared_ptr<const ChatTemplate> chat_;
  std::vector<Answer> answers_;  // by user_tag
  std::size_t num_over_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    EngineConfig config;
    if (argc > 1) config.model = argv[1];
    config.kv_gb = 0.5;
    const auto engine = Engine::create(config);
    Answers(*engine, argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0).run(std::cin);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "answer: %s\n", error.what());
    return 1;
  }
}
