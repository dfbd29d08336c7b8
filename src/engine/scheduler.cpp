#include "engine/scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"
#include "engine/outlook.h"

namespace fastgen {
namespace {

// How many tokens' K and V are copied out and in again in the time in which one is computed: on an H200 4.3 of Mistral 7B's (14.5 GFLOP
// at 700 TFLOP/s, 2 x 131 KB at 55 GB/s), 4.8 of Llama 3.1 8B's, 5.9 of Qwen2.5 14B's.
constexpr std::int64_t kCopiedPerComputed = 4;

// What has been decided about a running sequence. One left out may still be preempted, for an older one that is planned later.
enum class Fate : std::uint8_t { kOpen, kPlanned, kLeftOut, kPreempted, kTooLong };

class Planner {
 public:
  explicit Planner(const SchedulerInput& input)
      : in_(input),
        free_blocks_(input.free_blocks),
        free_host_blocks_(input.free_host_blocks),
        free_slots_(input.free_state_slots),
        fates_(input.running.size(), Fate::kOpen),
        prompt_dropped_(input.prompts.size(), false) {
    for (const RingView& ring : input.rings) room_.push_back(ring.room);
    plan_.decodes.reserve(input.running.size());
  }

  StepPlan run() {
    for (std::size_t i = 0; i < in_.running.size(); ++i)
      if (is_decode(in_.running[i]) && fates_[i] == Fate::kOpen) plan_running(i);
    budget_ = prefill_budget();
    for (std::size_t i = 0; i < in_.running.size() && budget_ > 0; ++i)
      if (!is_decode(in_.running[i]) && fates_[i] == Fate::kOpen) plan_running(i);
    admit();
    return std::move(plan_);
  }

 private:
  // Decode rows share the busy limit with prefill, down to half of it: products are fast where their rows fill whole tiles.
  std::int32_t prefill_budget() const {
    const std::int32_t busy = in_.limits.prefill_busy, num_decodes = static_cast<std::int32_t>(plan_.decodes.size());
    return num_decodes == 0 ? in_.limits.prefill_idle : busy - std::min(num_decodes, busy / 2);
  }
  static bool is_decode(const SequenceView& sequence) { return sequence.num_tokens - sequence.num_computed == 1; }
  std::int32_t blocks_for(std::int64_t num_tokens) const {
    return static_cast<std::int32_t>((num_tokens + in_.limits.block_size - 1) / in_.limits.block_size);
  }
  std::int64_t& room_of(const SequenceView& sequence) { return room_[static_cast<std::size_t>(sequence.ring_idx)]; }

  void plan_running(std::size_t idx) {
    const SequenceView& sequence = in_.running[idx];
    if (sequence.is_done) return;
    std::optional<PlannedRow> row = make_row(sequence, sequence.num_computed);
    if (!row) {
      fates_[idx] = Fate::kLeftOut;
      ++plan_.num_ring_waits;
      return;
    }
    if (blocks_for(sequence.num_tokens) > in_.limits.num_blocks) {
      give_up(idx);
      return;
    }
    row->new_blocks = std::max(0, blocks_for(row->start + row->count) - sequence.num_blocks);
    fates_[idx] = Fate::kPlanned;  // so that it is not its own victim
    while (free_blocks_ < row->new_blocks) {
      if (make_room(idx)) continue;
      fates_[idx] = Fate::kLeftOut;
      ++plan_.num_block_waits;
      return;
    }
    accept(sequence, *row);
  }

  // A running sequence that outgrew the pool; one in flight is reported when it is collected.
  void give_up(std::size_t idx) {
    fates_[idx] = Fate::kTooLong;
    if (!in_.running[idx].in_flight) plan_.too_long.push_back(in_.running[idx].id);
  }

  // The largest part of the sequence from `start` that budget and ring allow, without blocks; none if the ring has no room.
  std::optional<PlannedRow> make_row(const SequenceView& sequence, std::int32_t start) {
    const std::int64_t room = room_of(sequence);
    PlannedRow row{.id = sequence.id, .start = start};
    const std::int32_t pending = sequence.num_tokens - start;
    row.count = pending == 1 ? 1 : std::min(pending, budget_);
    if (row.count == pending && num_targets(sequence, start, row.count) + kRecordsPerDraw > room) --row.count;
    if (sequence.wants_prompt_logprobs) {
      const std::int64_t silent = std::max(0, sequence.first_target - 1 - start);  // tokens that report nothing new
      if (num_targets(sequence, start, row.count) > room)
        row.count = static_cast<std::int32_t>(std::min<std::int64_t>(row.count, silent + std::max<std::int64_t>(room, 0)));
    }
    if (row.count <= 0) return std::nullopt;
    row.draws = row.count == pending;
    row.num_targets = num_targets(sequence, start, row.count);
    row.first_target = std::max(sequence.first_target, start + 1);
    row.num_records = row.num_targets + (row.draws ? kRecordsPerDraw : 0);
    return row;
  }

  // How many prompt tokens the rows of tokens start .. start + count - 1 report: each its successor.
  static std::int32_t num_targets(const SequenceView& sequence, std::int32_t start, std::int32_t count) {
    if (!sequence.wants_prompt_logprobs) return 0;
    const std::int32_t first = std::max(start, sequence.first_target - 1);
    return std::max(0, std::min(start + count, sequence.prompt_len - 1) - first);
  }

  void accept(const SequenceView& sequence, PlannedRow row) {
    free_blocks_ -= row.new_blocks;
    if (row.is_admitted) --free_slots_;
    room_of(sequence) -= row.num_records;
    if (row.draws && sequence.num_followers > 0) {
      const std::int64_t by_room = std::max<std::int64_t>(room_of(sequence), 0) / kRecordsPerDraw;
      row.num_follower_draws = static_cast<std::int32_t>(
          std::min<std::int64_t>({by_room, sequence.num_followers, free_slots_}));
      free_slots_ -= row.num_follower_draws;
      row.num_records += row.num_follower_draws * kRecordsPerDraw;
      room_of(sequence) -= row.num_follower_draws * kRecordsPerDraw;
    }
    if (row.count == 1 && row.draws) {
      plan_.decodes.push_back(row);
    } else {
      budget_ -= row.count;
      plan_.num_prefill_tokens += row.count;
      plan_.chunks.push_back(row);
    }
  }

  // ---- when blocks or state slots run out

  // Frees something that the running sequence `needy` may take; false if it must wait.
  bool make_room(std::size_t needy) {
    if (drop_prompt() || preempt_stuck()) return true;
    for (std::size_t i = in_.running.size(); i-- > needy + 1;) {
      if (!is_idle(i)) continue;
      if (!in_.running[i].in_flight) return preempt(i);
      fates_[i] = Fate::kLeftOut;  // in flight: it can be preempted in the next step
      return false;
    }
    return false;
  }

  // Has no row in this step.
  bool is_idle(std::size_t idx) const { return fates_[idx] == Fate::kOpen || fates_[idx] == Fate::kLeftOut; }

  bool drop_prompt() {
    for (std::size_t i = in_.prompts.size(); i-- > 0;) {
      if (prompt_dropped_[i] || in_.prompts[i].num_sole_blocks == 0) continue;
      prompt_dropped_[i] = true;
      free_blocks_ += in_.prompts[i].num_sole_blocks;
      plan_.dropped_prompts.push_back(in_.prompts[i].id);
      return true;
    }
    return false;
  }

  bool preempt_stuck() {
    for (std::size_t i = in_.running.size(); i-- > 0;) {
      const SequenceView& sequence = in_.running[i];
      if (is_idle(i) && !sequence.in_flight && in_.rings[static_cast<std::size_t>(sequence.ring_idx)].is_stuck &&
          room_of(sequence) < kRecordsPerDraw)
        return preempt(i);
    }
    return false;
  }

  bool preempt(std::size_t idx) {
    fates_[idx] = Fate::kPreempted;
    free_blocks_ += in_.running[idx].num_sole_blocks;
    ++free_slots_;
    if (outlook_) outlook_->remove(outlook_entry(in_.running[idx], in_.running[idx].num_others_tokens));
    plan_.preempted.push_back(in_.running[idx].id);
    page_out(in_.running[idx]);
    return true;
  }

  // All that it has or nothing: what is missing would be computed from its beginning anyway.
  void page_out(const SequenceView& victim) {
    if (in_.limits.num_host_blocks == 0 || victim.num_held_blocks > free_host_blocks_ || is_computed_sooner(victim)) return;
    free_host_blocks_ -= victim.num_held_blocks;
    plan_.paged_out.push_back(victim.id);
  }

  // Copies are of whole blocks, so that a few tokens in one block may be computed again in less time.
  bool is_computed_sooner(const SequenceView& victim) const {
    const std::int64_t copied = std::int64_t{victim.num_held_blocks} * in_.limits.block_size;
    return victim.num_computed * kCopiedPerComputed < copied;
  }

  // ---- admission

  void admit() {
    if (!plan_.preempted.empty() || plan_.num_block_waits > 0) return;  // blocks are short
    for (const SequenceView& sequence : in_.waiting) {
      if (blocks_for(sequence.num_tokens) > in_.limits.num_blocks) {
        plan_.too_long.push_back(sequence.id);
      } else if (room_of(sequence) >= kRecordsPerDraw && !admit(sequence)) {
        return;  // first come, first served
      }
    }
  }

  bool admit(const SequenceView& sequence) {
    while (free_slots_ == 0)
      if (!preempt_stuck()) return false;
    const bool looks_ahead = in_.limits.window == 0 && in_.limits.num_host_blocks == 0;
    if (looks_ahead && !outlook_) outlook_ = outlook_of_running();  // before the first is admitted
    while (true) {
      const std::int32_t fork_tokens = fork_tokens_of(sequence);
      const std::int32_t shared = sequence.is_paged_out ? sequence.num_blocks - sequence.num_held_blocks : fork_tokens / in_.limits.block_size;
      const std::int32_t wanted = blocks_for(sequence.num_tokens) - shared;
      const bool is_alone = in_.running.empty() && !in_.in_flight && !plan_.has_rows() && plan_.paged_in.empty();
      if (wanted + spoken_for() <= free_blocks_ && (is_alone || will_fit(sequence, fork_tokens)))
        return sequence.is_paged_out ? page_in(sequence, wanted) : admit(sequence, fork_tokens, shared);
      if (!preempt_stuck() && !(is_alone && drop_prompt())) return false;
    }
  }

  bool admit(const SequenceView& sequence, std::int32_t fork_tokens, std::int32_t shared) {
    if (sequence.num_tokens - fork_tokens > 1 && budget_ <= 0) return false;
    std::optional<PlannedRow> row = make_row(sequence, fork_tokens);
    if (!row) return true;  // its ring lacks room: the next may go first
    row->is_admitted = true;
    row->fork_tokens = fork_tokens;
    row->new_blocks = blocks_for(row->start + row->count) - shared;
    accept(sequence, *row);
    admitted_need_ += blocks_for(sequence.num_tokens) - blocks_for(row->start + row->count);
    count_admitted(sequence, fork_tokens);
    return true;
  }

  // `wanted`: blocks for all its tokens. Those after what it has computed are for its rows to take, from the next step on.
  bool page_in(const SequenceView& sequence, std::int32_t wanted) {
    plan_.paged_in.push_back(sequence.id);
    free_blocks_ -= sequence.num_held_blocks;
    --free_slots_;
    room_of(sequence) -= kRecordsPerDraw;
    admitted_need_ += wanted - sequence.num_held_blocks;
    count_admitted(sequence, 0);
    return true;
  }

  void count_admitted(const SequenceView& sequence, std::int32_t num_others_tokens) {
    ++num_admitted_;
    if (outlook_) outlook_->add(outlook_entry(sequence, num_others_tokens));
  }

  // Whether all have blocks until they end. One that ends before the others need more than there is may come anyway.
  bool will_fit(const SequenceView& sequence, std::int32_t num_others_tokens) const {
    if (!outlook_) return true;
    const std::int64_t room = std::int64_t{in_.limits.num_blocks} * in_.limits.block_size;
    return outlook_->peak_with(outlook_entry(sequence, num_others_tokens)) <= std::max(room, outlook_->peak());
  }
  Outlook outlook_of_running() const {
    std::vector<Outlook::Entry> entries;
    entries.reserve(in_.running.size());
    for (std::size_t i = 0; i < in_.running.size(); ++i)
      if (fates_[i] != Fate::kPreempted) entries.push_back(outlook_entry(in_.running[i], in_.running[i].num_others_tokens));
    return Outlook(std::move(entries));
  }
  Outlook::Entry outlook_entry(const SequenceView& sequence, std::int32_t num_others_tokens) const {
    const std::int64_t num_sequences = 1 + sequence.num_followers, at_end = sequence.num_tokens + sequence.num_to_come;
    const std::int64_t unused = std::int64_t{blocks_for(at_end)} * in_.limits.block_size - at_end;
    return {sequence.num_tokens - num_others_tokens + num_sequences * unused, sequence.num_to_come, num_sequences};
  }

  // Its last token is always computed anew: the draw needs its logits.
  std::int32_t fork_tokens_of(const SequenceView& sequence) const {
    if (sequence.is_paged_out || sequence.prompt_idx < 0 || prompt_dropped_[static_cast<std::size_t>(sequence.prompt_idx)]) return 0;
    return std::min(sequence.prompt_len, sequence.num_tokens - 1);
  }

  // Blocks that sequences already running will want soon: the rest of their prefill, and the next one of each.
  std::int32_t spoken_for() const {
    std::int32_t blocks = admitted_need_ + num_admitted_;
    for (std::size_t i = 0; i < in_.running.size(); ++i) {
      if (fates_[i] == Fate::kPreempted || in_.running[i].is_done) continue;
      blocks += std::max(0, blocks_for(in_.running[i].num_tokens) - in_.running[i].num_blocks) + 1;
    }
    // What the rows of this plan take is gone from free_blocks_ already.
    for (const PlannedRow& row : plan_.decodes) blocks -= row.is_admitted ? 0 : row.new_blocks;
    for (const PlannedRow& row : plan_.chunks) blocks -= row.is_admitted ? 0 : row.new_blocks;
    return std::max(0, blocks);
  }

  const SchedulerInput& in_;
  StepPlan plan_;
  std::int32_t free_blocks_;
  std::int32_t free_host_blocks_;
  std::int32_t free_slots_;
  std::int32_t budget_ = 1;         // prefill tokens left in this step
  std::int32_t admitted_need_ = 0;  // blocks for later chunks of sequences admitted in this step
  std::int32_t num_admitted_ = 0;
  std::optional<Outlook> outlook_;  // of the running sequences and those admitted; none where it is not asked for
  std::vector<std::int64_t> room_;  // records left, by ring
  std::vector<Fate> fates_;         // by place in input.running
  std::vector<bool> prompt_dropped_;
};

}  // namespace

StepPlan plan_step(const SchedulerInput& input) { return Planner(input).run(); }

}  // namespace fastgen
