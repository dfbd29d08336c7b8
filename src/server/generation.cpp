#include "server/generation.h"

#include <algorithm>
#include <cmath>

#include <numeric>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"
#include "server/sse.h"

namespace fastgen::server {

Generation::Generation(const ApiRequest& request, std::vector<Prompt> prompts, AnswerWriter writer, Environment environment)
    : request_(request), writer_(std::move(writer)), environment_(std::move(environment)), submit_us_(now_us()) {
  end_ids_ = request.sampling.stop_token_ids;
  if (!request.sampling.ignore_eos) end_ids_.insert(end_ids_.end(), environment_.eos_ids.begin(), environment_.eos_ids.end());
  std::sort(end_ids_.begin(), end_ids_.end());
  const auto n = static_cast<std::size_t>(request.num_drawn());
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
  return static_cast<std::int32_t>(prompt_idx) * request_.num_drawn() + c;
}

void Generation::on_event(std::size_t prompt_idx, const Event& event, std::span<const TopLogprob> top) {
  if (abandoned_) return;
  if (begin_us_ == 0) begin_us_ = event.start_us;
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
  choice.logprob_sum += event.logprob;
  note_time(choice, event.step_us);
  if (reports_tokens()) choice.tokens.push_back({event.token, event.logprob, {top.begin(), top.end()}});
  if (!request_.stream || environment_.keep_text) choice.text += text;
  if (request_.stream && (!text.empty() || reports_tokens())) {
    if (is_held_) {
      held_bytes_ += text.num_bytes() + (reports_tokens() ? sizeof(TokenRecord) + top.size_bytes() : 0);
      choice.held += text;
      if (environment_.metrics != nullptr) environment_.metrics->num_merged.add(1);
    } else {
      if (oldest_step_us_ == 0) oldest_step_us_ = event.step_us;
      write(prompt_idx, idx, text, nullptr);
    }
  }
  if (choice.stream.ended_by_text()) {
    environment_.cancel(prompt_idx, event.choice_idx);
    end_choice(prompt_idx, idx, "stop");
  }
}

void Generation::note_time(Choice& choice, std::uint64_t step_us) {
  ThreadMetrics* metrics = environment_.metrics;
  if (first_us_ == 0) {
    first_us_ = step_us;
    if (metrics != nullptr) metrics->ttft_s.observe(static_cast<double>(step_us - std::min(step_us, environment_.start_us)) * 1e-6);
  }
  if (choice.first_us == 0) {
    choice.first_us = step_us;
  } else if (metrics != nullptr) {
    metrics->itl_s.observe(static_cast<double>(step_us - choice.last_us) * 1e-6);
  }
  choice.last_us = step_us;
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
  if (!request_.stream || environment_.keep_text) choice.text += rest;
  if (!request_.stream) return;
  // What is left goes in the chunk before the one with the reason, as OpenAI's chat does.
  if (!rest.empty() || !choice.held.empty()) write(prompt_idx, idx, rest, nullptr);
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
  if (environment_.metrics != nullptr) environment_.metrics->num_frames.add(1);
  choice.text_offset = writer_.text_length(part.echoed);
}

void Generation::write(std::size_t prompt_idx, std::int32_t idx, const SplitText& text, const char* finish_reason) {
  Choice& choice = choices_[static_cast<std::size_t>(idx)];
  if (!choice.started) start(prompt_idx, idx);
  if (!choice.held.empty()) {
    SplitText joined = std::exchange(choice.held, {});
    joined += text;
    return write(prompt_idx, idx, joined, finish_reason);
  }
  if (environment_.metrics != nullptr) environment_.metrics->num_frames.add(1);
  if (finish_reason == nullptr && text.reasoning.empty() && writer_.is_plain() && !request_.continuous_usage)
    return writer_.append_text_chunk(frames_, idx, text.content);
  ChoicePart part;
  part.idx = idx;
  part.text = text.content;
  part.reasoning = text.reasoning;
  part.tokens = choice.tokens;
  part.text_offset = choice.text_offset;
  part.finish_reason = finish_reason;
  part.timed_out = choice.timed_out;
  const TokenUsage now = request_.continuous_usage ? usage() : TokenUsage{};
  writer_.append_chunk(frames_, part, request_.continuous_usage ? &now : nullptr);
  choice.text_offset += writer_.text_length(choice.tokens);
  choice.tokens.clear();
}

void Generation::release() {
  is_held_ = false;
  if (held_bytes_ == 0) return;
  held_bytes_ = 0;
  for (std::size_t i = 0; i < choices_.size(); ++i)
    if (choices_[i].finish_reason == nullptr && (!choices_[i].held.empty() || !choices_[i].tokens.empty()))
      write(prompt_of(i), static_cast<std::int32_t>(i), {}, nullptr);
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

ChoicePart Generation::whole_part(std::size_t choice_idx) {
  const PromptState& prompt = prompts_[prompt_of(choice_idx)];
  Choice& choice = choices_[choice_idx];
  choice.text.content.insert(0, prompt.prompt.text);  // empty but for echo
  ChoicePart part;
  part.text = choice.text.content;
  part.reasoning = choice.text.reasoning;
  part.tokens = choice.tokens;
  part.finish_reason = choice.finish_reason;
  part.timed_out = choice.timed_out;
  part.first = true;
  part.prompt_ids = prompt.prompt.ids;
  if (request_.echo && request_.wants_logprobs) {
    part.echoed = prompt.logprobs;
  } else {
    part.prompt_logprobs = prompt.logprobs;
  }
  return part;
}

// Of each prompt's choices the n with the best mean logprob, the best first; all in order where no more were drawn.
std::vector<std::size_t> Generation::best_choices() const {
  std::vector<std::size_t> all(choices_.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  if (request_.num_drawn() == request_.n) return all;
  const auto mean = [this](std::size_t i) { return choices_[i].logprob_sum / std::max(1, choices_[i].num_tokens); };
  std::vector<std::size_t> best;
  for (auto begin = all.begin(); begin != all.end(); begin += request_.num_drawn()) {
    std::stable_sort(begin, begin + request_.num_drawn(), [&](std::size_t a, std::size_t b) { return mean(a) > mean(b); });
    best.insert(best.end(), begin, begin + request_.n);
  }
  return best;
}

std::string Generation::body() {
  FG_CHECK(done() && !error_);
  std::vector<ChoicePart> parts;
  for (std::size_t choice_idx : best_choices()) {
    parts.push_back(whole_part(choice_idx));
    parts.back().idx = static_cast<std::int32_t>(parts.size()) - 1;
  }
  return writer_.body(parts, usage());
}

// ---- early ends

void Generation::expire(const char* field) {
  if (done() || abandoned_) return;
  if (!has_tokens()) return fail(deadline_exceeded(field));
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].finish_reason != nullptr) continue;
    choices_[i].timed_out = true;
    end_choice(prompt_of(i), static_cast<std::int32_t>(i), "length");
  }
  is_expired_ = true;
  end_answer();
  abandon();
}

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

// ---- what became of it

Outcome Generation::outcome_of(const Choice& choice) const {
  if (choice.timed_out) return Outcome::kTimeout;
  if (choice.finish_reason != nullptr) return std::string_view(choice.finish_reason) == "stop" ? Outcome::kStop : Outcome::kLength;
  return error_ ? Outcome::kError : Outcome::kAbort;
}

void Generation::report(RequestRecord& record) {
  const TokenUsage used = usage();
  record.prompt_tokens = used.prompt_tokens;
  record.completion_tokens = used.completion_tokens;
  record.cached_tokens = used.cached_tokens;
  record.is_stream = request_.stream;
  record.submit_us = submit_us_;
  record.begin_us = begin_us_;
  record.first_us = first_us_;
  for (const Choice& choice : choices_) {
    record.finish_reasons.push_back(kOutcomeNames[static_cast<std::size_t>(outcome_of(choice))]);
    if (environment_.keep_text) record.texts.push_back(choice.text.reasoning + choice.text.content);
  }
  if (environment_.metrics != nullptr) observe(record);
}

void Generation::observe(const RequestRecord& record) const {
  ThreadMetrics& metrics = *environment_.metrics;
  const auto seconds = [](std::uint64_t from, std::uint64_t to) { return to > from ? static_cast<double>(to - from) * 1e-6 : 0; };
  std::uint64_t last_us = 0;
  int most_tokens = 0;
  for (const Choice& choice : choices_) {
    metrics.count_outcome(outcome_of(choice));
    metrics.generated_tokens.observe(choice.num_tokens);
    if (choice.num_tokens > 1) metrics.tpot_s.observe(seconds(choice.first_us, choice.last_us) / (choice.num_tokens - 1));
    last_us = std::max(last_us, choice.last_us);
    most_tokens = std::max(most_tokens, choice.num_tokens);
  }
  metrics.most_generated_tokens.observe(most_tokens);
  metrics.num_prompt_tokens.add(static_cast<std::uint64_t>(record.prompt_tokens));
  metrics.num_generated_tokens.add(static_cast<std::uint64_t>(record.completion_tokens));
  metrics.prompt_tokens.observe(static_cast<double>(record.prompt_tokens));
  metrics.num_choices.observe(request_.n);
  if (request_.max_tokens) metrics.max_tokens.observe(*request_.max_tokens);
  metrics.e2e_s.observe(seconds(environment_.start_us, now_us()));
  if (begin_us_ > 0) metrics.queue_s.observe(seconds(submit_us_, begin_us_));
  if (first_us_ > 0) metrics.prefill_s.observe(seconds(begin_us_, first_us_));
  if (first_us_ > 0) metrics.decode_s.observe(seconds(first_us_, last_us));
  if (first_us_ > 0) metrics.inference_s.observe(seconds(begin_us_, last_us));
}

std::string Generation::server_timing() const {
  std::string text;
  const auto add = [&](const char* name, std::uint64_t from, std::uint64_t to) {
    if (from == 0 || to < from) return;
    text += fmt::format("{}{};dur={:.2f}", text.empty() ? "" : ", ", name, static_cast<double>(to - from) * 1e-3);
  };
  add("prepare", environment_.start_us, submit_us_);  // read, template, tokens
  add("queue", submit_us_, begin_us_);
  add("prefill", begin_us_, first_us_);
  std::uint64_t last_us = 0;
  for (const Choice& choice : choices_) last_us = std::max(last_us, choice.last_us);
  if (last_us > first_us_) add("decode", first_us_, last_us);
  return text;
}

}  // namespace fastgen::server
