// The step's side of the roster: a plan is carried out, its results are taken in.
#include "engine/roster.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace fastgen {
namespace {

bool contains(const std::vector<TokenId>& ids, TokenId id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

std::vector<TopLogprob> top_of(const std::int32_t* ids, const float* logprobs, std::int64_t row, std::int32_t count) {
  std::vector<TopLogprob> top;
  for (std::int64_t i = row * kSampleTop; i < row * kSampleTop + count; ++i) top.push_back({ids[i], logprobs[i]});
  return top;
}

}  // namespace

// ---- carrying a plan out

Step Roster::carry_out(const StepPlan& plan) {
  const auto sequence_of = [&](std::int32_t id) -> Sequence& { return *by_id_[static_cast<std::size_t>(id)]; };
  Step step;
  for (std::int32_t id : plan.dropped_prompts) drop_prompt(*sequence_of(id).request);
  for (std::int32_t id : plan.preempted)
    preempt(sequence_of(id), std::find(plan.paged_out.begin(), plan.paged_out.end(), id) != plan.paged_out.end(), step);
  for (std::int32_t id : plan.too_long) {
    RequestState& request = *sequence_of(id).request;
    finish(sequence_of(id), FinishReason::kError, now_us());
    forget_if_over(request);
  }
  for (std::int32_t id : plan.paged_in) page_in(sequence_of(id), step);
  step.rows.reserve(plan.decodes.size() + plan.chunks.size());
  for (const PlannedRow& row : plan.decodes) add_row(row, step);
  step.num_decodes = static_cast<std::int32_t>(plan.decodes.size());
  for (const PlannedRow& row : plan.chunks) add_row(row, step);
  // Only now: a block given back before could be the target of one copy of this step and the source of another.
  for (const StepRow& row : step.rows) drop_prompt_if_unneeded(*row.sequence->request);
  counts_.num_preemptions += plan.preempted.size();
  counts_.num_ring_waits += static_cast<std::uint64_t>(plan.num_ring_waits);
  counts_.num_page_outs += plan.paged_out.size();
  counts_.num_page_ins += plan.paged_in.size();
  return step;
}

// Its last step has been collected, so that what is to be paged out is there to be read.
void Roster::preempt(Sequence& victim, bool is_paged_out, Step& step) {
  FG_CHECK(victim.num_in_flight == 0 && victim.status == SequenceStatus::kRunning, victim.id);
  if (is_paged_out) {
    const KvCache::Paged paged = host_.page_from(kv_, victim.table);
    victim.host_table = paged.table;
    step.page_outs.insert(step.page_outs.end(), paged.copies.begin(), paged.copies.end());
  }
  give_up_holdings(victim);
  wait(victim);
}

// Goes on where it was: tokens, their K and V and what was reported of the prompt are as before. The blocks of the host tier may be
// given away at once: who writes there next comes after these copies.
void Roster::page_in(Sequence& sequence, Step& step) {
  const KvCache::Paged paged = kv_.page_from(host_, sequence.host_table);
  host_.release(std::exchange(sequence.host_table, kNoTable));
  start_running(sequence);
  sequence.table = paged.table;
  step.page_ins.insert(step.page_ins.end(), paged.copies.begin(), paged.copies.end());
}

void Roster::start_running(Sequence& sequence) {
  waiting_.erase(sequence.age);
  running_[sequence.age] = &sequence;
  sequence.status = SequenceStatus::kRunning;
  sequence.state_slot = free_state_slots_.back();
  free_state_slots_.pop_back();
}

void Roster::admit(Sequence& sequence, const PlannedRow& planned, Step& step) {
  start_running(sequence);
  if (!sequence.has_started && !sequence.has_drawn) end_phase(sequence);
  sequence.has_started = true;
  if (planned.fork_tokens == 0) {
    sequence.table = kv_.open();
    return;
  }
  const KvCache::Forked forked = kv_.fork(sequence.request->prompt_table, planned.fork_tokens);
  sequence.table = forked.table;
  sequence.num_computed = planned.fork_tokens;
  if (forked.copy) step.copies.push_back(*forked.copy);
}

void Roster::add_row(const PlannedRow& planned, Step& step) {
  Sequence& sequence = *by_id_[static_cast<std::size_t>(planned.id)];
  if (planned.is_admitted) admit(sequence, planned, step);
  if (sequence.request->start_us == 0) sequence.request->start_us = now_us();
  FG_CHECK(sequence.num_computed == planned.start, planned.id, planned.start, sequence.num_computed);
  kv_.reserve(sequence.table, planned.start + planned.count);
  sequence.num_computed += planned.count;
  sequence.num_planned_output += planned.draws;
  ++sequence.num_in_flight;
  StepRow row{.sequence = &sequence, .start = planned.start, .count = planned.count, .draws = planned.draws};
  row.first_target = planned.first_target;
  row.num_targets = planned.num_targets;
  row.num_records = planned.num_records;
  if (row.num_targets > 0) sequence.request->next_target = row.first_target + row.num_targets;
  ring_of(sequence).promise(row.num_records);
  step.rows.push_back(row);
  const bool decodes = row.count == 1 && row.start >= sequence.prompt_len();
  (decodes ? step.decode_tokens : step.prefill_tokens) += static_cast<std::uint64_t>(row.count);
  if (planned.num_follower_draws > 0) add_followers(*sequence.request, planned.num_follower_draws, step);
}

// The first blocked choices draw from the logits row added last; their records are promised with the leader's.
void Roster::add_followers(RequestState& request, std::int32_t count, Step& step) {
  for (const auto& choice : request.choices) {
    if (count == 0) return;
    if (choice->status != SequenceStatus::kBlocked) continue;
    choice->state_slot = free_state_slots_.back();
    free_state_slots_.pop_back();
    ++choice->num_planned_output;
    ++choice->num_in_flight;
    step.rows.push_back({.sequence = choice.get(), .start = choice->prompt_len(), .draws = true});
    --count;
  }
  FG_CHECK(count == 0, request.id, count);
}

// ---- collecting

void Roster::collect(const Step& step, std::uint64_t now_us) {
  for (const StepRow& row : step.rows) {
    --row.sequence->num_in_flight;
    ring_of(*row.sequence).redeem(row.num_records);
    if (row.sequence->is_over()) continue;  // ran ahead of the end: its row is dropped
    collect_prompt(step, row, now_us);
    if (row.draws) collect_token(step, row, now_us);
    Sequence& sequence = *row.sequence;
    if (!sequence.is_over() && sequence.is_cancelled) finish(sequence, FinishReason::kCancelled, now_us);
    drop_behind_window(sequence, row.start + row.count);
  }
  // After all rows: one request may have several, and goes with the last. Only those that are over can go, which are few.
  std::vector<RequestState*> over;
  for (const StepRow& row : step.rows)
    if (row.sequence->request->num_unfinished == 0) over.push_back(row.sequence->request);
  std::sort(over.begin(), over.end());
  over.erase(std::unique(over.begin(), over.end()), over.end());
  for (RequestState* request : over) forget_if_over(*request);
}

void Roster::collect_prompt(const Step& step, const StepRow& row, std::uint64_t now_us) {
  const Sequence& sequence = *row.sequence;
  const std::int32_t num_top = sequence.request->request.sampling.num_prompt_logprobs;
  for (std::int32_t i = 0; i < row.num_targets; ++i) {
    Event event = event_of(sequence, EventKind::kPromptToken, now_us);
    const std::int32_t result_row = row.prompt_row + i;
    event.position = row.first_target + i;
    event.token = sequence.token(event.position);
    event.logprob = step.result.prompt_logprobs[result_row];
    ring_of(sequence).push(event, top_of(step.result.prompt_top_ids, step.result.prompt_top_logprobs, result_row, num_top));
  }
}

void Roster::collect_token(const Step& step, const StepRow& row, std::uint64_t now_us) {
  Sequence& sequence = *row.sequence;
  RequestState& request = *sequence.request;
  const SamplingParams& params = request.request.sampling;
  if (!request.prompt_computed && sequence.choice_idx == request.leader) on_prompt_computed(request);
  if (sequence.is_cancelled) return;
  Event event = event_of(sequence, EventKind::kToken, now_us);
  event.token = step.result.ids[row.sample_idx];
  event.position = static_cast<std::int32_t>(sequence.output.size());
  if (params.num_logprobs >= 0) event.logprob = step.result.logprobs[row.sample_idx];
  ring_of(sequence).push(event, top_of(step.result.top_ids, step.result.top_logprobs, row.sample_idx, params.num_logprobs));
  sequence.output.push_back(event.token);
  if (!sequence.has_drawn) end_phase(sequence);
  const FinishReason reason = finish_reason(sequence, event.token);
  if (reason != FinishReason::kNone) return finish(sequence, reason, now_us);
  if (sequence.status == SequenceStatus::kBlocked) {  // a follower: it goes on as a fork of the prompt
    give_up_holdings(sequence);
    wait(sequence);
  }
}

FinishReason Roster::finish_reason(const Sequence& sequence, TokenId token) const {
  const SamplingParams& params = sequence.request->request.sampling;
  if (!params.ignore_eos && contains(eos_ids_, token)) return FinishReason::kStop;
  if (contains(params.stop_token_ids, token)) return FinishReason::kStop;
  if (static_cast<std::int32_t>(sequence.output.size()) >= params.max_tokens) return FinishReason::kLength;
  return FinishReason::kNone;
}

// Called while the leader still has its table: the other choices may start from it.
void Roster::on_prompt_computed(RequestState& request) {
  request.prompt_computed = true;
  const Sequence& leader = *request.choices[static_cast<std::size_t>(request.leader)];
  const auto needs_it = [](const auto& choice) { return !choice->is_over() && !choice->has_started; };
  if (std::none_of(request.choices.begin(), request.choices.end(), needs_it)) return;
  request.prompt_table = kv_.hold(leader.table, leader.prompt_len());
  prompts_[request.choices[0]->age] = &request;
  for (const auto& choice : request.choices)
    if (choice->status == SequenceStatus::kBlocked && choice->num_in_flight == 0) wait(*choice);
}

void Roster::forget_step(const Step& step) {
  for (const StepRow& row : step.rows) {
    --row.sequence->num_in_flight;
    ring_of(*row.sequence).redeem(row.num_records);
  }
}

}  // namespace fastgen
