#include "engine/roster.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/spans.h"

namespace fastgen {
namespace {

// A ring without room for so long is stuck: its sequences may lose their place to those of other rings.
constexpr std::uint64_t kStuckUs = 50'000;
// Keeps ages positive: the steady clock may have begun just now, and a priority can move an age back by kMaxPriority seconds.
constexpr std::uint64_t kEpochUs = 2 * std::uint64_t{kMaxPriority} * 1'000'000;

bool contains(const std::vector<TokenId>& ids, TokenId id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

std::vector<TopLogprob> top_of(const std::int32_t* ids, const float* logprobs, std::int64_t row, std::int32_t count) {
  std::vector<TopLogprob> top;
  for (std::int64_t i = row * kSampleTop; i < row * kSampleTop + count; ++i) top.push_back({ids[i], logprobs[i]});
  return top;
}

Event event_of(const Sequence& sequence, EventKind kind, std::uint64_t now_us) {
  const RequestState& request = *sequence.request;
  Event event;
  event.request = request.id;
  event.user_tag = request.request.user_tag;
  event.choice_idx = sequence.choice_idx;
  event.kind = kind;
  event.step_us = now_us;
  event.start_us = request.start_us;
  return event;
}

// What the choice did until now, into the flight recorder; its next phase begins.
void end_phase(Sequence& sequence) {
  if constexpr (kHasProfiler) {
    const std::uint64_t now = now_ns();
    const SpanKind first = sequence.has_started ? SpanKind::kPrefill : SpanKind::kQueued;
    record_span({sequence.has_drawn ? SpanKind::kDecode : first, sequence.phase_ns, now, sequence.request->id,
                 {sequence.choice_idx, sequence.prompt_len(), static_cast<std::int32_t>(sequence.output.size())}});
    sequence.phase_ns = now;
  }
  sequence.has_drawn = !sequence.output.empty();
}

}  // namespace

Roster::Roster(const SchedulerLimits& limits, std::vector<TokenId> eos_ids, std::span<const std::unique_ptr<OutputRing>> rings)
    : limits_(limits),
      eos_ids_(std::move(eos_ids)),
      rings_(rings),
      ring_full_since_us_(rings.size(), 0),
      kv_(limits.num_blocks, limits.block_size),
      host_(limits.num_host_blocks, limits.block_size) {
  for (std::int32_t slot = limits.max_batch - 1; slot >= 0; --slot) free_state_slots_.push_back(slot);
}

OutputRing& Roster::ring_of(const Sequence& sequence) const {
  return *rings_[static_cast<std::size_t>(sequence.request->request.ring_idx)];
}

// ---- requests come and go

// Everything that goes by age (the batch, who waits, who is preempted) follows the priority without knowing of it, and as
// its worth in seconds is fixed, nobody is overtaken for longer than that.
std::uint64_t Roster::age_of_arrival(std::int32_t priority) {
  last_arrival_us_ = std::max(last_arrival_us_ + 1, now_us());
  std::uint64_t age = kEpochUs + last_arrival_us_ + static_cast<std::uint64_t>(std::int64_t{priority} * 1'000'000);
  while (requests_.contains(age)) ++age;
  return age;
}

void Roster::add(TicketTable::Submitted submitted) {
  const std::uint64_t arrival = age_of_arrival(submitted.request.priority);
  const std::uint64_t now = now_ns();
  auto& request = *(requests_[arrival] = std::make_unique<RequestState>());
  request.id = submitted.id;
  request.slot = submitted.slot;
  request.request = std::move(submitted.request);
  const SamplingParams& params = request.request.sampling;
  if (params.min_tokens > 0) {
    request.banned_until_min = params.stop_token_ids;
    if (!params.ignore_eos)
      request.banned_until_min.insert(request.banned_until_min.end(), eos_ids_.begin(), eos_ids_.end());
  }
  request.num_unfinished = request.request.n;
  for (std::int32_t choice = 0; choice < request.request.n; ++choice) {
    auto& sequence = *request.choices.emplace_back(std::make_unique<Sequence>());
    sequence.request = &request;
    sequence.choice_idx = choice;
    sequence.age = arrival << 8 | static_cast<std::uint64_t>(choice);
    sequence.phase_ns = now;
    if (free_ids_.empty()) {
      free_ids_.push_back(static_cast<std::int32_t>(by_id_.size()));
      by_id_.push_back(nullptr);
    }
    sequence.id = free_ids_.back();
    free_ids_.pop_back();
    by_id_[static_cast<std::size_t>(sequence.id)] = &sequence;
  }
  wait(*request.choices[0]);
}

void Roster::cancel(const std::function<bool(RequestId, std::int32_t)>& is_cancelled) {
  const std::uint64_t now = now_us();
  for (auto next = requests_.begin(); next != requests_.end();) {
    RequestState& request = *(next++)->second;  // it may go
    for (const auto& choice : request.choices) {
      if (choice->is_over() || choice->is_cancelled || !is_cancelled(request.id, choice->choice_idx)) continue;
      choice->is_cancelled = true;
      if (choice->num_in_flight == 0) finish(*choice, FinishReason::kCancelled, now);
    }
    forget_if_over(request);
  }
}

void Roster::end_all(FinishReason reason) {
  const std::uint64_t now = now_us();
  while (!requests_.empty()) {
    RequestState& request = *requests_.begin()->second;
    for (const auto& choice : request.choices)
      if (!choice->is_over()) finish(*choice, reason, now);
    FG_CHECK(request.num_in_flight() == 0, request.id);
    forget_if_over(request);
  }
}

void Roster::wait(Sequence& sequence) {
  sequence.status = SequenceStatus::kWaiting;
  if (sequence.host_table == kNoTable) sequence.num_computed = 0;
  waiting_[sequence.age] = &sequence;
}

void Roster::give_up_holdings(Sequence& sequence) {
  waiting_.erase(sequence.age);
  running_.erase(sequence.age);
  if (sequence.table != kNoTable) kv_.release(sequence.table);
  sequence.table = kNoTable;
  if (sequence.state_slot >= 0) free_state_slots_.push_back(sequence.state_slot);
  sequence.state_slot = -1;
}

void Roster::finish(Sequence& sequence, FinishReason reason, std::uint64_t now_us) {
  FG_CHECK(!sequence.is_over(), sequence.request->id, sequence.choice_idx);
  RequestState& request = *sequence.request;
  give_up_holdings(sequence);
  if (sequence.host_table != kNoTable) host_.release(std::exchange(sequence.host_table, kNoTable));
  sequence.status = SequenceStatus::kFinished;
  ++counts_.num_finished;
  end_phase(sequence);
  Event event = event_of(sequence, EventKind::kFinish, now_us);
  event.reason = reason;
  event.last_of_request = --request.num_unfinished == 0;
  ring_of(sequence).push_finish(event);
  drop_prompt_if_unneeded(request);
  if (request.prompt_computed || sequence.choice_idx != request.leader) return;
  // The choice that was to compute the prompt is gone: the next one does, and reports all of it.
  request.next_target = 1;
  for (const auto& choice : request.choices) {
    if (choice->is_over()) continue;
    request.leader = choice->choice_idx;
    return wait(*choice);
  }
}

// Where every layer has a window, what lies behind that of the next token is never read again: not by the step in flight, whose rows
// come after the collected ones, nor by forks, which begin at the prompt's end. Penalties count all tokens of a sequence by its blocks.
void Roster::drop_behind_window(Sequence& sequence, std::int32_t num_collected) {
  const SamplingParams& params = sequence.request->request.sampling;
  const bool counts_all = params.repetition_penalty != 1 || params.frequency_penalty != 0 || params.presence_penalty != 0;
  if (limits_.window == 0 || sequence.table == kNoTable || counts_all) return;
  kv_.drop_before(sequence.table, num_collected - limits_.window);
}

void Roster::drop_prompt(RequestState& request) {
  if (request.prompt_table == kNoTable) return;
  kv_.release(request.prompt_table);
  request.prompt_table = kNoTable;
  prompts_.erase(request.choices[0]->age);
}

void Roster::drop_prompt_if_unneeded(RequestState& request) {
  if (request.prompt_table == kNoTable) return;
  const auto needs_it = [](const auto& choice) { return !choice->is_over() && !choice->has_started; };
  if (std::none_of(request.choices.begin(), request.choices.end(), needs_it)) drop_prompt(request);
}

void Roster::forget_if_over(RequestState& request) {
  if (request.num_unfinished > 0 || request.num_in_flight() > 0) return;
  for (const auto& choice : request.choices) {
    by_id_[static_cast<std::size_t>(choice->id)] = nullptr;
    free_ids_.push_back(choice->id);
  }
  requests_.erase(request.choices[0]->age >> 8);
}

// ---- planning

SequenceView Roster::view(const Sequence& sequence, bool count_sole_blocks) const {
  const RequestState& request = *sequence.request;
  const SamplingParams& params = request.request.sampling;
  SequenceView view;
  view.id = sequence.id;
  view.age = sequence.age;
  view.prompt_len = sequence.prompt_len();
  view.num_tokens = sequence.num_tokens();
  view.num_computed = sequence.num_computed;
  view.is_paged_out = sequence.host_table != kNoTable;
  if (sequence.table != kNoTable || view.is_paged_out) {
    const KvCache& tier = view.is_paged_out ? host_ : kv_;
    const TableId table = view.is_paged_out ? sequence.host_table : sequence.table;
    view.num_blocks = static_cast<std::int32_t>(tier.blocks(table).size());
    view.num_held_blocks = tier.num_held_blocks(table);
    view.num_sole_blocks = count_sole_blocks ? tier.num_sole_blocks(table) : 0;
  }
  view.ring_idx = request.request.ring_idx;
  view.in_flight = sequence.num_in_flight > 0;
  view.is_done = sequence.is_cancelled || sequence.num_planned_output >= params.max_tokens;
  const bool is_leader = !request.prompt_computed && sequence.choice_idx == request.leader;
  if (is_leader && sequence.num_planned_output == 0)
    view.num_followers = static_cast<std::int32_t>(std::count_if(
        request.choices.begin(), request.choices.end(),
        [&](const auto& choice) { return choice->status == SequenceStatus::kBlocked; }));
  view.wants_prompt_logprobs = is_leader && params.num_prompt_logprobs >= 0;
  view.first_target = request.next_target;
  return view;
}

std::vector<RingView> Roster::ring_views() {
  std::vector<RingView> views;
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    RingView view{.room = rings_[i]->room()};
    std::uint64_t& full_since_us = ring_full_since_us_[i];
    if (view.room >= kRecordsPerDraw) {
      full_since_us = 0;
    } else {
      const std::uint64_t now = now_us();
      if (full_since_us == 0) full_since_us = now;
      view.is_stuck = now - full_since_us > kStuckUs;
    }
    views.push_back(view);
  }
  return views;
}

SchedulerInput Roster::scheduler_input(bool step_in_flight) {
  SchedulerInput input;
  input.limits = limits_;
  input.free_blocks = kv_.num_free_blocks();
  input.free_host_blocks = host_.num_free_blocks();
  input.free_state_slots = static_cast<std::int32_t>(free_state_slots_.size());
  input.in_flight = step_in_flight;
  input.rings = ring_views();
  // Whose blocks are its own matters only when someone may have to give them up, and takes a walk over its table.
  const bool any_stuck = std::any_of(input.rings.begin(), input.rings.end(), [](const auto& ring) { return ring.is_stuck; });
  const std::int32_t most_needed = 2 * limits_.max_batch + kv_.blocks_for(limits_.prefill_idle);
  const bool is_tight = any_stuck || kv_.num_free_blocks() < most_needed;
  input.running.reserve(running_.size());
  for (const auto& [age, sequence] : running_) input.running.push_back(view(*sequence, is_tight));
  std::map<const RequestState*, std::int32_t> prompt_idx;
  for (const auto& [age, request] : prompts_) {
    prompt_idx[request] = static_cast<std::int32_t>(input.prompts.size());
    input.prompts.push_back({.id = request->choices[0]->id, .num_sole_blocks = kv_.num_sole_blocks(request->prompt_table)});
  }
  for (const auto& [age, sequence] : waiting_) {
    if (input.waiting.size() >= static_cast<std::size_t>(limits_.max_batch)) break;  // no step admits more
    SequenceView waiting = view(*sequence, false);
    if (input.rings[static_cast<std::size_t>(waiting.ring_idx)].room < kRecordsPerDraw) continue;
    if (const auto found = prompt_idx.find(sequence->request); found != prompt_idx.end()) waiting.prompt_idx = found->second;
    input.waiting.push_back(waiting);
  }
  return input;
}

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

void Roster::check() const {
  kv_.check();
  host_.check();
  std::size_t num_tables = prompts_.size(), num_host_tables = 0, num_slots = free_state_slots_.size(), num_waiting = 0, num_running = 0;
  for (const auto& [arrival, request] : requests_) {
    std::int32_t num_unfinished = 0;
    for (const auto& choice : request->choices) {
      num_unfinished += !choice->is_over();
      num_waiting += choice->status == SequenceStatus::kWaiting;
      num_running += choice->status == SequenceStatus::kRunning;
      num_slots += choice->state_slot >= 0;
      num_tables += choice->table != kNoTable;
      num_host_tables += choice->host_table != kNoTable;
      FG_CHECK(choice->host_table == kNoTable || choice->status == SequenceStatus::kWaiting, choice->id);
      FG_CHECK(choice->host_table == kNoTable || host_.slot(choice->host_table, choice->num_computed - 1) >= 0, choice->id);
      FG_CHECK(choice->status != SequenceStatus::kWaiting || choice->host_table != kNoTable || choice->num_computed == 0, choice->id);
      FG_CHECK((choice->table != kNoTable) == (choice->status == SequenceStatus::kRunning), choice->id);
      FG_CHECK(choice->status == SequenceStatus::kRunning || choice->state_slot < 0 ||
                   (choice->status == SequenceStatus::kBlocked && choice->num_in_flight > 0), choice->id);
      FG_CHECK(choice->table == kNoTable || kv_.slot(choice->table, choice->num_computed - 1) >= 0, choice->id);
      FG_CHECK(waiting_.contains(choice->age) == (choice->status == SequenceStatus::kWaiting), choice->id);
      FG_CHECK(running_.contains(choice->age) == (choice->status == SequenceStatus::kRunning), choice->id);
    }
    FG_CHECK(num_unfinished == request->num_unfinished, num_unfinished, request->num_unfinished);
    FG_CHECK(num_unfinished > 0 || request->num_in_flight() > 0, request->id);
  }
  FG_CHECK(num_waiting == waiting_.size() && num_running == running_.size(), num_waiting, num_running);
  FG_CHECK(num_slots == static_cast<std::size_t>(limits_.max_batch), num_slots);
  FG_CHECK(num_tables == static_cast<std::size_t>(kv_.num_tables()), num_tables, kv_.num_tables());
  FG_CHECK(num_host_tables == static_cast<std::size_t>(host_.num_tables()), num_host_tables, host_.num_tables());
}

}  // namespace fastgen
