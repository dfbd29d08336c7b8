#include "engine/roster.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"

namespace fastgen {
namespace {

// A ring without room for so long is stuck: its sequences may lose their place to those of other rings.
constexpr std::uint64_t kStuckUs = 50'000;
// Keeps ages positive: the steady clock may have begun just now, and a priority can move an age back by kMaxPriority seconds.
constexpr std::uint64_t kEpochUs = 2 * std::uint64_t{kMaxPriority} * 1'000'000;

// Before max_tokens.
bool may_stop(const SamplingParams& params) { return !params.ignore_eos || !params.stop_token_ids.empty(); }

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
  // One that was cancelled counts too: that is how stop strings and deadlines end it.
  const bool had_its_time = reason != FinishReason::kError && !sequence.output.empty();
  if (had_its_time && may_stop(request.request.sampling)) usual_length_.add(static_cast<std::int32_t>(sequence.output.size()));
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
  view.num_to_come = num_to_come(sequence);
  if (request.prompt_computed && sequence.choice_idx != request.leader) view.num_others_tokens = view.prompt_len;
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

// Up to max_tokens if nothing else ends it, else as many as answers usually have, and none if it has more by now.
std::int32_t Roster::num_to_come(const Sequence& sequence) const {
  const SamplingParams& params = sequence.request->request.sampling;
  if (sequence.is_cancelled) return 0;
  const std::int32_t least = std::max(params.min_tokens, usual_length_.tokens());
  const std::int32_t expected = may_stop(params) ? std::min(least, params.max_tokens) : params.max_tokens;
  return std::max(0, expected - sequence.num_planned_output);
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

bool Roster::has_prompts() const {
  const auto is_behind = [](const auto& running) { return running.second->num_tokens() - running.second->num_computed > 1; };
  return !waiting_.empty() || std::any_of(running_.begin(), running_.end(), is_behind);
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
