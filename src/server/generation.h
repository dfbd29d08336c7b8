// One answer on its way: the engine's events of all its prompts and choices in, SSE frames or one body out.
//
// Choice c of prompt p is choice p * n + c of the answer. Invariants: 1. every choice ends exactly once, by its
// engine's finish event or before that by a stop string; 2. after a choice's end nothing more of it is written;
// 3. done() needs the finish event of every choice, so no ticket of a finished answer is still out.
// Not thread-safe: belongs to its io thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/answer_writer.h"
#include "server/api_error.h"
#include "server/api_request.h"
#include "server/prompts.h"
#include "server/reasoning.h"
#include "server/stream_table.h"
#include "server/token_stream.h"

namespace fastgen::server {

class Generation final : public EventSink {
 public:
  struct Environment {
    std::shared_ptr<const Tokenizer> tokenizer;
    std::vector<TokenId> eos_ids;
    std::function<void(std::size_t prompt_idx, std::int32_t choice_idx)> cancel;  // -1: all choices of the prompt
    std::function<void()> wake;  // events came
    bool split_reasoning = false;
  };
  Generation(const ApiRequest& request, std::vector<Prompt> prompts, AnswerWriter writer, Environment environment);

  void on_event(std::size_t prompt_idx, const Event& event, std::span<const TopLogprob> top) override;
  void on_drained() override { environment_.wake(); }

  // Nothing more comes: all finished, or it failed.
  bool done() const { return num_open_ == 0 || error_.has_value(); }
  const std::optional<ApiError>& error() const { return error_; }
  // Of a stream: frames not yet taken.
  std::string& frames() { return frames_; }
  // Of an answer that is no stream, when done without an error.
  std::string body();
  // Cancels what still runs; the answer is of no interest any more.
  void abandon();
  // The same, and the client is told why.
  void fail(ApiError error);

 private:
  struct Choice {
    TokenStream stream;
    std::optional<ReasoningSplitter> splitter;  // none: all text is content
    SplitText text;                     // no stream: all of it
    std::vector<TokenRecord> tokens;    // no stream: all of them; else those not yet written
    std::size_t text_offset = 0;
    std::int32_t num_tokens = 0;
    const char* finish_reason = nullptr;
    bool started = false;               // its first chunk is written
    bool finished = false;              // the engine's finish event came
  };
  struct PromptState {
    Prompt prompt;
    std::vector<TokenRecord> logprobs;  // as the events come; [0] is the token that nothing predicts
    std::int64_t cached_tokens = 0;
    std::size_t num_open = 0;           // choices without a finish event
  };

  Choice make_choice(const Prompt& prompt) const;
  std::int32_t choice_idx(std::size_t prompt_idx, std::int32_t c) const;
  static SplitText split(Choice& choice, std::string text, bool is_last);
  void on_prompt_token(PromptState& prompt, const Event& event, std::span<const TopLogprob> top);
  void on_token(std::size_t prompt_idx, const Event& event, std::span<const TopLogprob> top);
  void on_finish(std::size_t prompt_idx, const Event& event);
  void end_choice(std::size_t prompt_idx, std::int32_t idx, const char* reason);
  void write(std::size_t prompt_idx, std::int32_t idx, const SplitText& text, const char* finish_reason);
  void start(std::size_t prompt_idx, std::int32_t idx);
  void end_answer();
  bool reports_tokens() const { return request_.wants_logprobs || request_.return_token_ids; }
  TokenUsage usage() const;

  ApiRequest request_;
  AnswerWriter writer_;
  Environment environment_;
  std::vector<TokenId> end_ids_;  // sorted
  std::vector<PromptState> prompts_;
  std::vector<Choice> choices_;
  std::size_t num_open_ = 0;  // choices without a finish event
  std::string frames_;
  std::optional<ApiError> error_;
  bool abandoned_ = false;
};

}  // namespace fastgen::server
