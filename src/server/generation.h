// One answer on its way: the engine's events of all its prompts and choices in, SSE frames or one body out.
//
// Choice c of prompt p is choice p * num_drawn + c of the answer. Invariants: 1. every choice ends exactly once, by its
// engine's finish event, before that by a stop string, or by the request's time; 2. after a choice's end nothing more of it is
// written; 3. done() needs the finish event of every choice, so no ticket of a finished answer is still out; but for an answer
// that ends by its time or an error: the engine then lets go of it within two steps.
// Not thread-safe: belongs to its io thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/answer_writer.h"
#include "server/api_error.h"
#include "server/api_request.h"
#include "server/metrics.h"
#include "server/prompts.h"
#include "server/reasoning.h"
#include "server/request_log.h"
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
    ThreadMetrics* metrics = nullptr;  // null: nothing is counted
    std::uint64_t start_us = 0;        // the request's first byte, steady clock
    bool keep_text = false;            // of streams too, for report()
  };
  Generation(const ApiRequest& request, std::vector<Prompt> prompts, AnswerWriter writer, Environment environment);

  void on_event(std::size_t prompt_idx, const Event& event, std::span<const TopLogprob> top) override;
  void on_drained() override { environment_.wake(); }

  // Nothing more comes: all finished, its time is over, or it failed.
  bool done() const { return num_open_ == 0 || is_expired_ || error_.has_value(); }
  const std::optional<ApiError>& error() const { return error_; }
  // Of a stream: frames not yet taken.
  std::string& frames() { return frames_; }
  // Of an answer that is no stream, when done without an error.
  std::string body();

  // A slow reader: until release(), text is gathered, and then goes out in one frame for each choice.
  void hold() { is_held_ = true; }
  void release();
  // What is written or gathered and not yet taken.
  std::size_t backlog_bytes() const { return frames_.size() + held_bytes_; }
  // When the engine collected the oldest token that was written since the last call; 0: none was.
  std::uint64_t take_oldest_step_us() { return std::exchange(oldest_step_us_, 0); }

  bool has_tokens() const { return first_us_ > 0; }
  // The request's time is over: what is there is the answer, with finish_reason "length" and stop_reason "timeout"; where there
  // is nothing yet, `field` is the error's.
  void expire(const char* field);
  // Cancels what still runs; the answer is of no interest any more.
  void abandon();
  // The same, and the client is told why.
  void fail(ApiError error);

  // Adds up what became of it; once, at the end.
  void report(RequestRecord& record);
  // "queue;dur=1.2, prefill;dur=30.1": what is known so far, in milliseconds.
  std::string server_timing() const;

 private:
  struct Choice {
    TokenStream stream;
    std::optional<ReasoningSplitter> splitter;  // none: all text is content
    SplitText text;                     // no stream: all of it
    SplitText held;                     // of a held stream: text that waits for the next frame
    std::vector<TokenRecord> tokens;    // no stream: all of them; else those not yet written
    std::size_t text_offset = 0;
    std::int32_t num_tokens = 0;
    const char* finish_reason = nullptr;
    bool started = false;               // its first chunk is written
    bool finished = false;              // the engine's finish event came
    bool timed_out = false;
    double logprob_sum = 0;
    std::uint64_t first_us = 0, last_us = 0;  // of its tokens
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
  void note_time(Choice& choice, std::uint64_t step_us);
  void end_choice(std::size_t prompt_idx, std::int32_t idx, const char* reason);
  void write(std::size_t prompt_idx, std::int32_t idx, const SplitText& text, const char* finish_reason);
  void start(std::size_t prompt_idx, std::int32_t idx);
  void end_answer();
  ChoicePart whole_part(std::size_t choice_idx);
  std::vector<std::size_t> best_choices() const;
  Outcome outcome_of(const Choice& choice) const;
  void observe(const RequestRecord& record) const;
  std::size_t prompt_of(std::size_t idx) const { return idx / static_cast<std::size_t>(request_.num_drawn()); }
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
  bool abandoned_ = false, is_expired_ = false, is_held_ = false;
  std::size_t held_bytes_ = 0;
  std::uint64_t submit_us_ = 0, begin_us_ = 0, first_us_ = 0, oldest_step_us_ = 0;
};

}  // namespace fastgen::server
