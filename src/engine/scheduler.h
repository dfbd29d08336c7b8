// Decides what the next step computes. Pure: the plan depends on the input alone.
//
// Policy. Running sequences with one token to compute are decode rows, the oldest first; then prefill chunks, the oldest first, within
// the step's budget of prefill tokens; then waiting sequences are admitted first come, first served, when the blocks for all their
// tokens are there beside what running prefills still need and one for each running sequence, and when the pool will hold all of them
// until they end, as far as that is known (outlook.h). The last is not asked of one that nobody runs beside, nor where windows bound
// what a sequence holds, nor with a host tier, where giving way costs little. When a running sequence lacks blocks, it takes, in this
// order: prompts kept for choices that have not started (the youngest), sequences whose ring is stuck, the youngest of the sequences
// younger than itself that have no row in the step yet. A victim in flight is left out of the step instead and preempted in the next
// one. Whoever loses its blocks is paged out where the host tier has room and the copies take less time than to compute its tokens
// again; else it is recomputed later. The latter is so for fewer tokens than a quarter of its blocks hold.
//
// One that is paged out is admitted in its turn like others, but without a row: its blocks come back beside this step, so that
// the next one finds it running where it was.
//
// Nobody waits for ever: the oldest sequence can always take from all others or, alone, does not fit in an empty
// pool and is reported in `too_long`; sequences whose consumer does not take its events keep no one else waiting.
#pragma once

#include "engine/plan.h"

namespace fastgen {

StepPlan plan_step(const SchedulerInput& input);

// What must hold for every plan, checked independently of how it was made; aborts on a broken one.
void check_plan(const SchedulerInput& input, const StepPlan& plan);

}  // namespace fastgen
