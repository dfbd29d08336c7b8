// What every plan must keep to, told from the input and the plan alone: nothing is shared with how plans are made.
#include <algorithm>
#include <set>

#include "base/check.h"
#include "engine/scheduler.h"

namespace fastgen {
namespace {

const SequenceView& find(const std::vector<SequenceView>& sequences, std::int32_t id) {
  const auto found = std::find_if(sequences.begin(), sequences.end(), [&](const auto& view) { return view.id == id; });
  FG_CHECK(found != sequences.end(), id);
  return *found;
}

// Returns the blocks that the row takes.
std::int32_t check_row(const SchedulerInput& input, const PlannedRow& row, std::vector<std::int64_t>& room) {
  const SequenceView& sequence = find(row.is_admitted ? input.waiting : input.running, row.id);
  FG_CHECK(!sequence.is_paged_out, row.id);  // its K and V are not there yet
  const std::int32_t block_size = input.limits.block_size;
  FG_CHECK(!sequence.is_done && row.count >= 1, row.id, row.count);
  FG_CHECK(row.start == (row.is_admitted ? row.fork_tokens : sequence.num_computed), row.id, row.start);
  FG_CHECK(row.start + row.count <= sequence.num_tokens, row.start, row.count, sequence.num_tokens);
  FG_CHECK(row.draws == (row.start + row.count == sequence.num_tokens), row.start, row.count);
  const std::int32_t owned = row.is_admitted ? row.fork_tokens / block_size : sequence.num_blocks;
  FG_CHECK((owned + row.new_blocks) * std::int64_t{block_size} >= row.start + row.count, owned, row.new_blocks);
  room[static_cast<std::size_t>(sequence.ring_idx)] -= row.num_records;
  return row.new_blocks;
}

}  // namespace

void check_plan(const SchedulerInput& input, const StepPlan& plan) {
  std::int64_t free_blocks = input.free_blocks;
  std::int64_t free_slots = input.free_state_slots + static_cast<std::int64_t>(plan.preempted.size());
  std::vector<std::int64_t> room;
  for (const RingView& ring : input.rings) room.push_back(ring.room);
  std::set<std::int32_t> seen;
  for (std::int32_t id : plan.preempted) {
    FG_CHECK(!find(input.running, id).in_flight && seen.insert(id).second, id);
    free_blocks += find(input.running, id).num_sole_blocks;
  }
  std::int64_t free_host_blocks = input.free_host_blocks;
  for (std::int32_t id : plan.paged_out) {
    FG_CHECK(std::count(plan.preempted.begin(), plan.preempted.end(), id) == 1, id);
    free_host_blocks -= find(input.running, id).num_held_blocks;
  }
  FG_CHECK(free_host_blocks >= 0, free_host_blocks);
  for (std::int32_t id : plan.too_long) FG_CHECK(seen.insert(id).second, id);
  for (std::int32_t id : plan.paged_in) {
    FG_CHECK(find(input.waiting, id).is_paged_out && seen.insert(id).second, id);
    free_blocks -= find(input.waiting, id).num_held_blocks;
    --free_slots;
  }
  for (const PromptView& prompt : input.prompts)
    if (std::count(plan.dropped_prompts.begin(), plan.dropped_prompts.end(), prompt.id))
      free_blocks += prompt.num_sole_blocks;
  std::int32_t num_prefill = 0;
  for (const auto* rows : {&plan.decodes, &plan.chunks}) {
    for (const PlannedRow& row : *rows) {
      FG_CHECK(seen.insert(row.id).second, row.id);
      FG_CHECK((rows == &plan.decodes) == (row.count == 1 && row.draws), row.id, row.count);
      free_blocks -= check_row(input, row, room);
      free_slots -= row.is_admitted + row.num_follower_draws;
      if (rows == &plan.chunks) num_prefill += row.count;
    }
  }
  FG_CHECK(free_blocks >= 0 && free_slots >= 0, free_blocks, free_slots);
  const bool decodes = std::any_of(plan.decodes.begin(), plan.decodes.end(), [](const auto& row) { return !row.is_admitted; });
  FG_CHECK(num_prefill <= (decodes ? input.limits.prefill_busy : input.limits.prefill_idle), num_prefill);
  FG_CHECK(num_prefill == plan.num_prefill_tokens, num_prefill, plan.num_prefill_tokens);
  FG_CHECK(static_cast<std::int32_t>(plan.decodes.size()) <= input.limits.max_batch, plan.decodes.size());
  for (std::size_t i = 0; i < room.size(); ++i) FG_CHECK(room[i] >= std::min<std::int64_t>(0, input.rings[i].room), i, room[i]);
}

}  // namespace fastgen
