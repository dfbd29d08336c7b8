// All requests and sequences in the engine, and what they hold: state slots, block tables, promises on event rings.
//
// It shows itself to the scheduler as plain data, carries the plan out, and takes the step's results in. Engine thread only.
//
// Invariants (check() walks them): 1. a choice is blocked, waiting, running or has had its one finish event; 2. exactly running
// sequences have a table, and they or followers in flight a state slot; 3. a finished choice holds nothing, and its request goes
// when no step in flight has a row of it; 4. a table has blocks for all tokens that the planned steps compute; 5. a waiting sequence
// has computed nothing, or has it all in the host tier.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engine/outlook.h"
#include "engine/output.h"
#include "engine/plan.h"
#include "engine/sequence.h"
#include "engine/step.h"
#include "engine/tickets.h"
#include "kv/kv_cache.h"

namespace fastgen {

class Roster {
 public:
  struct Counts {
    std::uint64_t num_finished = 0;
    std::uint64_t num_preemptions = 0;
    std::uint64_t num_ring_waits = 0;
    std::uint64_t num_page_outs = 0, num_page_ins = 0;  // sequences
  };
  Roster(const SchedulerLimits& limits, std::vector<TokenId> eos_ids, std::span<const std::unique_ptr<OutputRing>> rings);

  // ---- requests come and go
  void add(TicketTable::Submitted submitted);
  void cancel(const std::function<bool(RequestId, std::int32_t)>& is_cancelled);  // of every choice
  void end_all(FinishReason reason);  // what is in flight ends when it is collected; or forget_steps

  // ---- a step
  SchedulerInput scheduler_input(bool step_in_flight);
  Step carry_out(const StepPlan& plan);
  void collect(const Step& step, std::uint64_t now_us);
  // The backend failed: no step in flight will be collected.
  void forget_step(const Step& step);

  const KvCache& kv() const { return kv_; }
  const KvCache& host() const { return host_; }
  const Counts& counts() const { return counts_; }
  std::int32_t num_waiting() const { return static_cast<std::int32_t>(waiting_.size()); }
  std::int32_t num_running() const { return static_cast<std::int32_t>(running_.size()); }
  bool is_empty() const { return requests_.empty(); }
  bool has_prompts() const;  // or other tokens to compute before the next one can be drawn
  void check() const;

 private:
  using ByAge = std::map<std::uint64_t, Sequence*>;

  SequenceView view(const Sequence& sequence, bool count_sole_blocks) const;
  std::int32_t num_to_come(const Sequence& sequence) const;
  std::vector<RingView> ring_views();
  void preempt(Sequence& victim, bool is_paged_out, Step& step);
  void page_in(Sequence& sequence, Step& step);
  void start_running(Sequence& sequence);  // state slot, place in the lists
  void admit(Sequence& sequence, const PlannedRow& planned, Step& step);
  void add_row(const PlannedRow& planned, Step& step);
  void add_followers(RequestState& request, std::int32_t count, Step& step);

  void collect_prompt(const Step& step, const StepRow& row, std::uint64_t now_us);
  void collect_token(const Step& step, const StepRow& row, std::uint64_t now_us);
  FinishReason finish_reason(const Sequence& sequence, TokenId token) const;
  void on_prompt_computed(RequestState& request);

  std::uint64_t age_of_arrival(std::int32_t priority);
  void wait(Sequence& sequence);            // into the waiting list, holding nothing but what is paged out
  void give_up_holdings(Sequence& sequence);  // table, state slot, place in the lists
  void finish(Sequence& sequence, FinishReason reason, std::uint64_t now_us);
  void drop_behind_window(Sequence& sequence, std::int32_t num_collected);
  void drop_prompt(RequestState& request);
  void drop_prompt_if_unneeded(RequestState& request);
  void forget_if_over(RequestState& request);
  OutputRing& ring_of(const Sequence& sequence) const;

  const SchedulerLimits limits_;
  const std::vector<TokenId> eos_ids_;
  const std::span<const std::unique_ptr<OutputRing>> rings_;
  std::vector<std::uint64_t> ring_full_since_us_;  // by ring; 0: it has room
  KvCache kv_;
  KvCache host_;  // the host tier
  std::vector<std::int32_t> free_state_slots_;
  // By age: the time of arrival, moved by the priority, and where two are the same by order of arrival.
  std::map<std::uint64_t, std::unique_ptr<RequestState>> requests_;
  std::vector<Sequence*> by_id_;
  std::vector<std::int32_t> free_ids_;
  ByAge waiting_, running_;
  std::map<std::uint64_t, RequestState*> prompts_;  // those with a kept prompt, by age
  std::uint64_t last_arrival_us_ = 0;
  UsualLength usual_length_;  // of answers that may end before max_tokens
  Counts counts_;
};

}  // namespace fastgen
