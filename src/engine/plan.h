// What the scheduler sees and what it decides: plain data, ids and counts only, no pointers into the engine.
#pragma once

#include <cstdint>
#include <vector>

namespace fastgen {

struct SchedulerLimits {
  std::int32_t max_batch = 0;     // sequences that hold a state slot, so also decode rows of a step
  std::int32_t prefill_busy = 0;  // prefill tokens of a step that also decodes; its decode rows count too, up to half of it
  std::int32_t prefill_idle = 0;  // of one that does not
  std::int32_t block_size = 0;    // tokens
  std::int32_t num_blocks = 0;    // of the pool
  std::int32_t num_host_blocks = 0;  // of the host tier; 0: there is none
  std::int32_t window = 0;        // tokens that a row sees in every layer, itself included; 0: there is a layer that sees all
};

// Records written for a drawn token, the finish event that may follow included.
inline constexpr std::int32_t kRecordsPerDraw = 2;

// One sequence that waits or runs. The lists that hold them are sorted by age, the oldest first.
struct SequenceView {
  std::int32_t id = 0;           // the engine's handle
  std::uint64_t age = 0;         // smaller is older; unique
  std::int32_t prompt_len = 0;
  std::int32_t num_tokens = 0;   // prompt and output, tokens that steps in flight draw included
  std::int32_t num_to_come = 0;  // output beyond these that it is expected to draw
  std::int32_t num_computed = 0;  // of num_tokens, the first whose K and V are stored or will be by steps in flight
  std::int32_t num_blocks = 0;   // of its table; of one that is paged out, of its table in the host tier
  std::int32_t num_held_blocks = 0;  // of these, not given up behind a window: what paging it out or in takes
  std::int32_t num_sole_blocks = 0;  // of these, held by no other table
  std::int32_t num_others_tokens = 0;  // of its first tokens, about so many lie in blocks that count as another choice's
  std::int32_t ring_idx = 0;
  bool in_flight = false;  // a step not yet collected has a row of it: it must not be preempted (second rule of the lag)
  bool is_done = false;    // what is in flight ends it: it gets no more rows
  bool is_paged_out = false;  // it waits, and K and V of its num_computed tokens are in the host tier
  std::int32_t prompt_idx = -1;     // into SchedulerInput::prompts: K and V of its prompt that it can fork from
  std::int32_t num_followers = 0;   // choices that wait for its prompt and can draw their first token beside it
  std::int32_t first_target = 0;    // prompt logprobs: tokens first_target .. prompt_len - 1 have yet to be reported
  bool wants_prompt_logprobs = false;
};

// The K and V of a prompt, kept until every choice of its request has started.
struct PromptView {
  std::int32_t id = 0;
  std::int32_t num_sole_blocks = 0;
};

struct RingView {
  std::int64_t room = 0;  // free records, less those that the steps in flight will write
  bool is_stuck = false;  // no room for long: its sequences may lose their place to others
};

struct SchedulerInput {
  SchedulerLimits limits;
  std::int32_t free_blocks = 0;
  std::int32_t free_host_blocks = 0;
  std::int32_t free_state_slots = 0;
  bool in_flight = false;  // a step is
  std::vector<SequenceView> running;
  std::vector<SequenceView> waiting;
  std::vector<PromptView> prompts;  // the oldest first
  std::vector<RingView> rings;
};

// One sequence's part of a step: tokens start .. start + count - 1.
struct PlannedRow {
  std::int32_t id = 0;
  std::int32_t start = 0;
  std::int32_t count = 0;
  bool is_admitted = false;      // from the waiting list; takes a state slot
  std::int32_t fork_tokens = 0;  // > 0: its table begins as a fork of so many tokens of its request's prompt
  std::int32_t new_blocks = 0;   // that reserving start + count tokens takes, the copy of a fork included
  bool draws = false;            // the last token's logits give the next one
  std::int32_t num_follower_draws = 0;  // choices that draw their first token from the same logits, one state slot each
  std::int32_t num_targets = 0;  // prompt logprobs reported: the last tokens before the prompt's end that it can see
  std::int32_t first_target = 0;  // the first of them, as a place in the prompt
  std::int32_t num_records = 0;  // of its ring
};

struct StepPlan {
  // Carried out in this order; ids as in the input.
  std::vector<std::int32_t> dropped_prompts;
  std::vector<std::int32_t> preempted;
  std::vector<std::int32_t> paged_out;  // of the preempted: what they computed goes to the host tier
  std::vector<std::int32_t> too_long;  // sequences that do not fit in an empty pool
  // Admitted from the host tier, each with a state slot: they run, and have their next row in a later step, behind this one's copies.
  std::vector<std::int32_t> paged_in;
  std::vector<PlannedRow> decodes;     // count == 1 and draws
  std::vector<PlannedRow> chunks;

  std::int32_t num_prefill_tokens = 0;  // of the chunks
  std::int32_t num_ring_waits = 0;      // running sequences left out because their ring has no room
  std::int32_t num_block_waits = 0;     // left out until blocks come free

  bool has_rows() const { return !decodes.empty() || !chunks.empty(); }
  bool changes_anything() const {
    return has_rows() || !dropped_prompts.empty() || !preempted.empty() || !too_long.empty() || !paged_in.empty();
  }
};

}  // namespace fastgen
