#include "server/generation.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "server/sse.h"

namespace fastgen::server {

Generation::Generation(const ApiRequest& request, std::vector<Prompt> prompts, AnswerWriter writer, Environment environment)
    : request_(request), writer_(std::move(writer)), environment_(std::move(environment)) {
  end_ids_ = request.sampling.stop_token_ids;
  if (!request.sampling.ignore_eos) end_ids_.insert(end_ids_.end(), environment_.eos_ids.begin(), environment_.eos_ids.end());
  std::sort(end_ids_.begin(), end_ids_.end());
  const auto n = static_cast<std::size_t>(request.n);
  for (Prompt& prompt : prompts) prompts_.push_back({std::move(prompt), {}, 0, n});
  num_open_ = prompts_.size() * n;
  choices_.reserve(num_open_);
  for (std::size_t i = 0; i < num_open_; ++i) choices_.push_back(make_choice(prompts_[i / n].prompt));
  if (request.sampling.num_prompt_logprobs >= 0)
    for (PromptState& state : prompts_) state.logprobs.push_back({state.prompt.ids[0], NAN, {}});
}

Generation::Choice Generation::make_choice(const Prompt& prompt) const {
  TextStream::Options text{request_.stop, request_.skip_special_tokens, request_.include_stop};
  Choice choice{.stream = TokenStream(environment_.tokenizer, {std::move(text), end_ids_})};
  if (environment_.split_reasoning && request_.endpoint == Endpoint::kChat) choice.splitter.emplace(prompt.opens_thinking);
  return choice;
}

SplitText Generation::split(Choice& choice, std::string text, bool is_last) {
  if (!choice.splitter) return {{}, std::move(text)};
  SplitText out = choice.splitter->push(text);
  if (!is_last) return out;
  const SplitText rest = choice.splitter->finish();
  return {out.reasoning + rest.reasoning, out.content + rest.content};
}

std::int32_t Generation::choice_idx(std::size_t prompt_idx, std::int32_t c) const {
  return static_cast<std::int32_t>(prompt_idx) * request_.n + c;
}

void Generation::on_event(std::size_t prompt_idx, const Event& event, std::span<const TopLogprob> top) {
  if (abandoned_) return;
  switch (event.kind) {
    case EventKind::kPromptToken: return on_prompt_token(prompts_[prompt_idx], event, top);
    case EventKind::kToken: return on_token(prompt_idx, event, top);
    case EventKind::kFinish: return on_finish(prompt_idx, event);
  }
}

void Generation::on_prompt_token(PromptState& prompt, const Event& event, std::span<const TopLogprob> top) {
  FG_CHECK(static_cast<std::size_t>(event.position) == prompt.logprobs.size(), event.position, prompt.logprobs.size());
  prompt.logprobs.push_back({event.token, event.logprob, {top.begin(), top.end()}});
}

void Generation::on_token(std::size_t prompt_idx, const Event& event, std::span<const TopLogprob> top) {
  const std::int32_t idx = choice_idx(prompt_idx, event.choice_idx);
  Choice& choice = choices_[static_cast<std::size_t>(idx)];
  if (choice.finish_reason != nullptr || choice.stream.ended()) return;  // the engine ran ahead
  if (request_.max_tokens == 0) return;          // echo alone
  const SplitText text = split(choice, choice.stream.push(event.token), false);
  ++choice.num_tokens;
  if (reports_tokens()) choice.tokens.push_back({event.token, event.logprob, {top.begin(), top.end()}});
  if (!request_.stream) {
    choice.text.reasoning += text.reasoning;
    choice.text.content += text.content;
  } else if (!text.empty() || reports_tokens()) {
    write(prompt_idx, idx, text, nullptr);
  }
  if (choice.stream.ended_by_text()) {
    environment_.cancel(prompt_idx, event.choice_idx);
    end_choice(prompt_idx, idx, "stop");
  }
}

void Generation::on_finish(std::size_t prompt_idx, const Event& event) {
  PromptState& prompt = prompts_[prompt_idx];
  const std::int32_t idx = choice_idx(prompt_idx, event.choice_idx);
  Choice& choice = choices_[static_cast<std::size_t>(idx)];
  FG_CHECK(!choice.finished, event.request, event.choice_idx);
  choice.finished = true;
  prompt.cached_tokens = std::max<std::int64_t>(prompt.cached_tokens, event.num_cached_tokens);
  --prompt.num_open;
  --num_open_;
  if (choice.finish_reason == nullptr) {
    if (event.reason == FinishReason::kError) return fail(engine_failed());
    if (event.reason == FinishReason::kCancelled) return fail(shutting_down());
    end_choice(prompt_idx, idx, event.reason == FinishReason::kLength ? "length" : "stop");
  }
  if (num_open_ == 0) end_answer();
}

void Generation::end_choice(std::size_t prompt_idx, std::int32_t idx, const char* reason) {
  Choice& choice = choices_[static_cast<std::size_t>(idx)];
  choice.finish_reason = reason;
  const SplitText rest = split(choice, choice.stream.finish(), true);
  if (!request_.stream) {
    choice.text.reasoning += rest.reasoning;
    choice.text.content += rest.content;
    return;
  }
  // What is left goes in the chunk before the one with the reason, as OpenAI's chat does.
  if (!rest.empty()) write(prompt_idx, idx, rest, nullptr);
  write(prompt_idx, idx, {}, reason);
}

// ---- a stream's frames

void Generation::start(std::size_t prompt_idx, std::int32_t idx) {
  Choice& choice = choices_[static_cast<std::size_t>(idx)];
  choice.started = true;
  if (request_.endpoint == Endpoint::kCompletions && !request_.echo && !request_.return_token_ids) return;
  const PromptState& prompt = prompts_[prompt_idx];
  ChoicePart part;
  part.idx = idx;
  part.first = true;
  part.prompt_ids = prompt.prompt.ids;
  part.text = prompt.prompt.text;
  if (request_.echo && request_.wants_logprobs) part.echoed = prompt.logprobs;
  writer_.append_chunk(frames_, part, nullptr);
  choice.text_offset = writer_.text_length(part.echoed);
}

void Generation::write(std::size_t prompt_idx, std::int32_t idx, const SplitText& text, const char* finish_reason) {
  Choice& choice = choices_[static_cast<std::size_t>(idx)];
  if (!choice.started) start(prompt_idx, idx);
  ChoicePart part;
  part.idx = idx;
  part.text = text.content;
  part.reasoning = text.reasoning;
  part.tokens = choice.tokens;
  part.text_offset = choice.text_offset;
  part.finish_reason = finish_reason;
  const TokenUsage now = request_.continuous_usage ? usage() : TokenUsage{};
  writer_.append_chunk(frames_, part, request_.continuous_usage ? &now : nullptr);
  choice.text_offset += writer_.text_length(choice.tokens);
  choice.tokens.clear();
}

void Generation::end_answer() {
  if (!request_.stream) return;
  if (request_.include_usage) writer_.append_usage_chunk(frames_, usage());
  frames_ += kDoneFrame;
}

// ---- the whole answer

TokenUsage Generation::usage() const {
  TokenUsage usage;
  for (const PromptState& prompt : prompts_) {
    usage.prompt_tokens += static_cast<std::int64_t>(prompt.prompt.ids.size());
    usage.cached_tokens += prompt.cached_tokens;
  }
  for (const Choice& choice : choices_) usage.completion_tokens += choice.num_tokens;
  return usage;
}

std::string Generation::body() {
  FG_CHECK(done() && !error_);
  std::vector<ChoicePart> parts(choices_.size());
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    const PromptState& prompt = prompts_[i / static_cast<std::size_t>(request_.n)];
    Choice& choice = choices_[i];
    choice.text.content.insert(0, prompt.prompt.text);  // empty but for echo
    ChoicePart& part = parts[i];
    part.idx = static_cast<std::int32_t>(i);
    part.text = choice.text.content;
    part.reasoning = choice.text.reasoning;
    part.tokens = choice.tokens;
    part.finish_reason = choice.finish_reason;
    part.first = true;
    part.prompt_ids = prompt.prompt.ids;
    if (request_.echo && request_.wants_logprobs) {
      part.echoed = prompt.logprobs;
    } else {
      part.prompt_logprobs = prompt.logprobs;
    }
  }
  return writer_.body(parts, usage());
}

// ---- early ends

void Generation::abandon() {
  if (abandoned_) return;
  abandoned_ = true;
  for (std::size_t i = 0; i < prompts_.size(); ++i)
    if (prompts_[i].num_open > 0) environment_.cancel(i, -1);
}

void Generation::fail(ApiError error) {
  if (error_ || abandoned_) return;
  if (request_.stream) {
    append_frame(frames_, error.body());
    frames_ += kDoneFrame;
  }
  error_ = std::move(error);
  abandon();
}

}  // namespace fastgen::server
