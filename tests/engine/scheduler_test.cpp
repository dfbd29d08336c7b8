#include "engine/scheduler.h"

#include <algorithm>
#include <map>
#include <random>

#include "support/support.h"

using namespace fastgen;

namespace {

std::int32_t blocks_for(std::int32_t tokens, std::int32_t block_size) { return (tokens + block_size - 1) / block_size; }

SchedulerInput empty_input() {
  SchedulerInput input;
  input.limits = {.max_batch = 8, .prefill_busy = 16, .prefill_idle = 64, .block_size = 4, .num_blocks = 100};
  input.free_blocks = 100;
  input.free_state_slots = 8;
  input.rings = {{.room = 1000}};
  return input;
}

SequenceView waiting_view(std::int32_t id, std::int32_t prompt_len) {
  return {.id = id, .age = static_cast<std::uint64_t>(id), .prompt_len = prompt_len, .num_tokens = prompt_len};
}

// One that has computed all but its last token.
SequenceView decoding_view(std::int32_t id, std::int32_t num_tokens, std::int32_t num_blocks) {
  return {.id = id, .age = static_cast<std::uint64_t>(id), .prompt_len = 1, .num_tokens = num_tokens,
          .num_computed = num_tokens - 1, .num_blocks = num_blocks, .num_held_blocks = num_blocks, .num_sole_blocks = num_blocks};
}

bool same(const StepPlan& a, const StepPlan& b) {
  const auto same_rows = [](const std::vector<PlannedRow>& x, const std::vector<PlannedRow>& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const PlannedRow& p, const PlannedRow& q) {
      return p.id == q.id && p.start == q.start && p.count == q.count && p.fork_tokens == q.fork_tokens &&
             p.new_blocks == q.new_blocks && p.num_follower_draws == q.num_follower_draws && p.num_records == q.num_records;
    });
  };
  return a.dropped_prompts == b.dropped_prompts && a.preempted == b.preempted && a.paged_out == b.paged_out && a.paged_in == b.paged_in &&
         a.too_long == b.too_long &&
         same_rows(a.decodes, b.decodes) && same_rows(a.chunks, b.chunks);
}

// Sequences that live by their plans alone: no engine, no backend. Collects with a lag of 0 or 1 steps. With a narrow
// ring, prompts whose logprobs go there take many steps, while younger sequences decode.
class Simulation {
 public:
  Simulation(std::mt19937_64& random, int lag, bool has_narrow_ring, std::int32_t num_host_blocks)
      : random_(random), lag_(lag), has_narrow_ring_(has_narrow_ring) {
    input_ = empty_input();
    input_.limits.num_blocks = input_.free_blocks = 12 + below(20);
    input_.limits.max_batch = input_.free_state_slots = 1 + below(10);
    input_.limits.num_host_blocks = input_.free_host_blocks = num_host_blocks;
    input_.limits.prefill_busy = 1 + below(16);
    input_.limits.prefill_idle = input_.limits.prefill_busy + below(32);
  }
  void submit(std::int32_t count) {
    for (std::int32_t i = 0; i < count; ++i) {
      const std::int32_t id = static_cast<std::int32_t>(output_len_.size());
      const std::int32_t most = input_.limits.num_blocks * input_.limits.block_size;
      const std::int32_t prompt_len = 1 + below(most / 2);
      input_.waiting.push_back(waiting_view(id, prompt_len));
      input_.waiting.back().wants_prompt_logprobs = has_narrow_ring_ && below(2) == 0;
      input_.waiting.back().ring_idx = input_.waiting.back().wants_prompt_logprobs;
      input_.waiting.back().first_target = 1;
      output_len_.push_back(1 + below(std::min(30, most - prompt_len)));
    }
  }
  // Runs until all are over; the number of steps is bounded, or someone waits forever.
  void run() {
    int steps = 0;
    while (num_over_ < output_len_.size()) {
      REQUIRE(++steps < 20'000);
      turn();
    }
    CHECK(input_.free_blocks == input_.limits.num_blocks);
    CHECK(input_.free_host_blocks == input_.limits.num_host_blocks);
  }
  int num_preempted = 0, num_paged_out = 0, num_paged_in = 0;

 private:
  std::int32_t below(std::int32_t bound) { return static_cast<std::int32_t>(random_() % static_cast<std::uint64_t>(bound)); }

  void turn() {
    input_.in_flight = !in_flight_.empty();
    if (has_narrow_ring_) input_.rings = {{.room = 1000}, {.room = below(4)}};
    const StepPlan plan = plan_step(input_);
    check_plan(input_, plan);
    REQUIRE(same(plan, plan_step(input_)));
    REQUIRE(plan.too_long.empty());
    if (!has_narrow_ring_) check_fairness(plan);
    for (std::int32_t id : plan.preempted) preempt(id, std::count(plan.paged_out.begin(), plan.paged_out.end(), id) > 0);
    for (std::int32_t id : plan.paged_in) page_in(id);
    for (const auto* rows : {&plan.decodes, &plan.chunks})
      for (const PlannedRow& row : *rows) carry_out(row);
    if (plan.has_rows()) in_flight_.push_back(plan);
    while (!in_flight_.empty() && static_cast<int>(in_flight_.size()) > (plan.has_rows() ? lag_ : 0)) collect();
  }
  // First come, first served: whoever is admitted is older than all who stay behind (one ring, always with room).
  void check_fairness(const StepPlan& plan) const {
    std::uint64_t youngest = 0;
    std::size_t num_admitted = 0;
    for (const auto* rows : {&plan.decodes, &plan.chunks})
      for (const PlannedRow& row : *rows)
        if (row.is_admitted) youngest = std::max<std::uint64_t>(youngest, static_cast<std::uint64_t>(row.id)), ++num_admitted;
    for (std::int32_t id : plan.paged_in) youngest = std::max<std::uint64_t>(youngest, static_cast<std::uint64_t>(id)), ++num_admitted;
    for (const SequenceView& view : input_.waiting) num_admitted -= view.age <= youngest && num_admitted > 0;
    CHECK(num_admitted == 0);
    // A victim is younger than everyone who runs on.
    for (std::int32_t victim : plan.preempted)
      for (const PlannedRow& row : plan.decodes) CHECK(row.id < victim);
  }
  SequenceView take(std::vector<SequenceView>& from, std::int32_t id) {
    const auto found = std::find_if(from.begin(), from.end(), [&](const auto& view) { return view.id == id; });
    const SequenceView view = *found;
    from.erase(found);
    return view;
  }
  static void put(std::vector<SequenceView>& to, const SequenceView& view) {
    to.insert(std::find_if(to.begin(), to.end(), [&](const auto& other) { return other.age > view.age; }), view);
  }
  void preempt(std::int32_t id, bool is_paged_out) {
    SequenceView view = take(input_.running, id);
    ++num_preempted;
    input_.free_blocks += view.num_blocks;
    ++input_.free_state_slots;
    view.num_sole_blocks = 0;
    view.is_paged_out = is_paged_out;
    num_paged_out += is_paged_out;
    if (is_paged_out) {
      input_.free_host_blocks -= view.num_blocks;
    } else {
      view.num_computed = view.num_blocks = view.num_held_blocks = 0;
    }
    put(input_.waiting, view);
  }
  void page_in(std::int32_t id) {
    SequenceView view = take(input_.waiting, id);
    ++num_paged_in;
    input_.free_blocks -= view.num_blocks;
    input_.free_host_blocks += view.num_blocks;
    --input_.free_state_slots;
    view.num_sole_blocks = view.num_blocks;
    view.is_paged_out = false;
    put(input_.running, view);
  }
  void carry_out(const PlannedRow& row) {
    SequenceView view = take(row.is_admitted ? input_.waiting : input_.running, row.id);
    if (row.is_admitted) --input_.free_state_slots;
    view.num_blocks += row.new_blocks;
    view.num_held_blocks = view.num_sole_blocks = view.num_blocks;
    REQUIRE(view.num_blocks >= blocks_for(row.start + row.count, input_.limits.block_size));
    input_.free_blocks -= row.new_blocks;
    view.num_computed = row.start + row.count;
    view.num_tokens += row.draws;
    if (row.num_targets > 0) view.first_target = row.first_target + row.num_targets;
    view.is_done = view.num_tokens - view.prompt_len >= output_len_[static_cast<std::size_t>(view.id)];
    view.in_flight = true;
    ++num_in_flight_[view.id];
    put(input_.running, view);
  }
  void collect() {
    for (const auto* rows : {&in_flight_.front().decodes, &in_flight_.front().chunks}) {
      for (const PlannedRow& row : *rows) {
        SequenceView view = take(input_.running, row.id);
        view.in_flight = --num_in_flight_[row.id] > 0;
        if (view.in_flight || !view.is_done) {
          put(input_.running, view);
          continue;
        }
        input_.free_blocks += view.num_blocks;
        ++input_.free_state_slots;
        ++num_over_;
      }
    }
    in_flight_.erase(in_flight_.begin());
  }

  std::mt19937_64& random_;
  int lag_;
  bool has_narrow_ring_;
  SchedulerInput input_;
  std::vector<std::int32_t> output_len_;  // by id
  std::map<std::int32_t, int> num_in_flight_;
  std::vector<StepPlan> in_flight_;
  std::size_t num_over_ = 0;
};

}  // namespace

TEST_CASE("scheduler: random loads end, within budget and blocks, first come first served") {
  std::mt19937_64 random(test::seed());
  int num_preempted = 0, num_paged_out = 0;
  for (int round = 0; round < 200; ++round) {
    const std::int32_t num_host_blocks = round % 3 == 0 ? 0 : round % 3 == 1 ? 10 : 1000;
    Simulation simulation(random, round % 2, round % 4 >= 2, num_host_blocks);
    simulation.submit(25);
    simulation.run();
    num_preempted += simulation.num_preempted;
    num_paged_out += simulation.num_paged_out;
    CHECK(simulation.num_paged_in == simulation.num_paged_out);
    if (num_host_blocks == 0) CHECK(simulation.num_paged_out == 0);
    if (num_host_blocks == 1000) CHECK(simulation.num_paged_out == simulation.num_preempted);
  }
  CHECK(num_paged_out > 0);
  CHECK(num_preempted > num_paged_out);
}

TEST_CASE("scheduler: decode rows come first and cut the prefill budget") {
  SchedulerInput input = empty_input();
  input.waiting = {waiting_view(5, 100)};
  StepPlan plan = plan_step(input);
  REQUIRE(plan.chunks.size() == 1);
  CHECK(plan.chunks[0].count == 64);
  input.running = {decoding_view(1, 8, 2)};
  input.free_blocks -= 2;
  plan = plan_step(input);
  REQUIRE(plan.decodes.size() == 1);
  CHECK(plan.decodes[0].new_blocks == 0);
  CHECK(plan.chunks[0].count == 15);  // with the decode row 16, the busy limit
  CHECK(!plan.chunks[0].draws);
  for (std::int32_t id = 10; id < 20; ++id) input.running.push_back(decoding_view(id, 8, 2));
  CHECK(plan_step(input).chunks[0].count == 8);  // never less than half of it
}

TEST_CASE("scheduler: nobody is admitted whom the pool cannot hold to the end, beside those who run") {
  SchedulerInput input = empty_input();
  const auto admitted = [&] {
    const StepPlan plan = plan_step(input);
    check_plan(input, plan);
    return plan.chunks.size() + plan.paged_in.size();
  };
  // Ends with 190 tokens in blocks of 4, while the pool has 400: two fit, three do not.
  const auto long_one = [](std::int32_t id) {
    SequenceView view = waiting_view(id, 10);
    view.num_to_come = 180;
    return view;
  };
  input.waiting = {long_one(1), long_one(2), long_one(3)};
  CHECK(admitted() == 2);
  for (SequenceView& view : input.waiting) view.num_to_come = 0;  // nobody knows
  CHECK(admitted() == 3);
  input.waiting = {long_one(3)};
  for (std::int32_t id : {1, 2}) {
    input.running.push_back(decoding_view(id, 100, 25));
    input.running.back().num_to_come = 90;
    input.free_blocks -= 25;
  }
  CHECK(admitted() == 0);
  SUBCASE("one that ends before the others are long may come") {
    input.waiting[0].num_to_come = 5;
    CHECK(admitted() == 1);
  }
  SUBCASE("so may one when a running one ends early") {
    input.running[1].num_to_come = 10;
    CHECK(admitted() == 1);
  }
  SUBCASE("and anyone where there is a host tier to page to") {
    input.limits.num_host_blocks = input.free_host_blocks = 1;
    CHECK(admitted() == 1);
  }
  SUBCASE("one whose prompt counts as another's") {
    input.running[1].num_others_tokens = 100;
    CHECK(admitted() == 1);
  }
  SUBCASE("and all where windows bound what they hold") {
    input.limits.window = 100;
    CHECK(admitted() == 1);
  }
}

TEST_CASE("scheduler: one that will outgrow the pool is admitted alone, and short ones beside it") {
  SchedulerInput input = empty_input();
  input.waiting = {waiting_view(1, 10), waiting_view(2, 10)};
  input.waiting[0].num_to_come = 1000;
  CHECK(plan_step(input).chunks.size() == 2);
  input.waiting[1].num_to_come = 1000;
  CHECK(plan_step(input).chunks.size() == 1);
  input.waiting[1].num_to_come = 0;
  input.waiting[1].num_followers = 4;  // no more of them than of tokens
  CHECK(plan_step(input).chunks.size() == 2);
}

TEST_CASE("scheduler: a stuck one is not reckoned with once it has lost its place") {
  SchedulerInput input = empty_input();
  input.rings = {{.room = 0, .is_stuck = true}, {.room = 100}};
  input.running = {decoding_view(1, 100, 25)};
  input.running[0].num_to_come = 250;
  input.free_blocks -= 25;
  input.waiting = {waiting_view(2, 10), waiting_view(3, 10)};
  for (SequenceView& view : input.waiting) {
    view.ring_idx = 1;
    view.num_to_come = 180;
  }
  const StepPlan plan = plan_step(input);
  check_plan(input, plan);
  CHECK(plan.preempted == std::vector<std::int32_t>{1});
  CHECK(plan.chunks.size() == 2);
}

TEST_CASE("scheduler: the youngest gives way, and one in flight only in the next step") {
  SchedulerInput input = empty_input();
  input.free_blocks = 0;
  input.free_state_slots = 5;
  input.running = {decoding_view(1, 9, 2), decoding_view(2, 7, 2), decoding_view(3, 7, 2)};
  StepPlan plan = plan_step(input);
  CHECK(plan.preempted == std::vector<std::int32_t>{3});
  CHECK(plan.decodes.size() == 2);
  input.running[2].in_flight = true;
  plan = plan_step(input);
  CHECK(plan.preempted.empty());
  REQUIRE(plan.decodes.size() == 1);  // 1 waits for blocks, 3 is left out so that it can be preempted
  CHECK(plan.decodes[0].id == 2);
}

TEST_CASE("scheduler: one that waits for blocks itself gives way to an older one that prefills") {
  SchedulerInput input = empty_input();
  input.free_blocks = 0;
  SequenceView prefilling = waiting_view(1, 30);
  prefilling.num_computed = 8;
  prefilling.num_blocks = prefilling.num_sole_blocks = 2;
  input.running = {prefilling, decoding_view(2, 9, 2)};
  StepPlan plan = plan_step(input);
  CHECK(plan.preempted == std::vector<std::int32_t>{2});
  check_plan(input, plan);
  // In flight it can be preempted in the next step only.
  input.running[1].in_flight = true;
  plan = plan_step(input);
  CHECK(plan.preempted.empty());
  CHECK(!plan.has_rows());
}

TEST_CASE("scheduler: prompts kept for later choices go before any sequence does") {
  SchedulerInput input = empty_input();
  input.free_blocks = 0;
  input.running = {decoding_view(1, 9, 2), decoding_view(2, 7, 2)};
  input.prompts = {{.id = 8, .num_sole_blocks = 2}, {.id = 9, .num_sole_blocks = 1}};
  const StepPlan plan = plan_step(input);
  CHECK(plan.dropped_prompts == std::vector<std::int32_t>{9});
  CHECK(plan.preempted.empty());
  CHECK(plan.decodes.size() == 2);
}

TEST_CASE("scheduler: a head that does not fit an empty pool is reported, the next is served") {
  SchedulerInput input = empty_input();
  input.waiting = {waiting_view(1, 401), waiting_view(2, 10)};
  const StepPlan plan = plan_step(input);
  CHECK(plan.too_long == std::vector<std::int32_t>{1});
  REQUIRE(plan.chunks.size() == 1);
  CHECK(plan.chunks[0].id == 2);
}

TEST_CASE("scheduler: a ring without room leaves its sequences out and counts them") {
  SchedulerInput input = empty_input();
  input.rings = {{.room = 1}, {.room = 3}};
  input.running = {decoding_view(1, 6, 2), decoding_view(2, 6, 2), decoding_view(3, 6, 2)};
  input.running[1].ring_idx = input.running[2].ring_idx = 1;
  const StepPlan plan = plan_step(input);
  REQUIRE(plan.decodes.size() == 1);
  CHECK(plan.decodes[0].id == 2);
  CHECK(plan.num_ring_waits == 2);
}

TEST_CASE("scheduler: a stuck ring's sequences lose their rows to those that wait") {
  SchedulerInput input = empty_input();
  input.free_state_slots = 0;
  input.rings = {{.room = 0}, {.room = 100}};
  for (std::int32_t id = 1; id <= 8; ++id) input.running.push_back(decoding_view(id, 6, 2));
  input.waiting = {waiting_view(9, 5)};
  input.waiting[0].ring_idx = 1;
  CHECK(!plan_step(input).has_rows());
  input.rings[0].is_stuck = true;
  const StepPlan plan = plan_step(input);
  CHECK(plan.preempted == std::vector<std::int32_t>{8});
  REQUIRE(plan.chunks.size() == 1);
  CHECK(plan.chunks[0].id == 9);
}

TEST_CASE("scheduler: choices draw beside the first one as far as slots and ring reach, forks count their copy") {
  SchedulerInput input = empty_input();
  input.free_state_slots = 4;
  input.waiting = {waiting_view(1, 10)};
  input.waiting[0].num_followers = 9;
  StepPlan plan = plan_step(input);
  REQUIRE(plan.chunks.size() == 1);
  CHECK(plan.chunks[0].num_follower_draws == 3);
  CHECK(plan.chunks[0].num_records == 4 * kRecordsPerDraw);

  input = empty_input();
  input.prompts = {{.id = 1, .num_sole_blocks = 3}};
  input.waiting = {waiting_view(2, 10), waiting_view(3, 10)};
  input.waiting[0].num_tokens = 11;  // it has its first token
  for (SequenceView& view : input.waiting) view.prompt_idx = 0;
  plan = plan_step(input);
  REQUIRE(plan.decodes.size() == 2);
  CHECK(plan.decodes[0].fork_tokens == 10);
  CHECK(plan.decodes[1].fork_tokens == 9);  // its last token again: the draw needs the logits
  CHECK(plan.decodes[0].new_blocks == 1);
  CHECK(plan.decodes[1].new_blocks == 1);
}

TEST_CASE("scheduler: prompt logprobs make chunks as small as the ring has room") {
  SchedulerInput input = empty_input();
  input.waiting = {waiting_view(1, 30)};
  input.waiting[0].wants_prompt_logprobs = true;
  input.waiting[0].first_target = 1;
  input.rings[0].room = 12;
  StepPlan plan = plan_step(input);
  REQUIRE(plan.chunks.size() == 1);
  CHECK(plan.chunks[0].count == 12);
  CHECK(plan.chunks[0].num_targets == 12);
  input.rings[0].room = 30;  // 29 prompt tokens fit, but not the first token and its finish as well
  plan = plan_step(input);
  CHECK(plan.chunks[0].count == 29);
  CHECK(!plan.chunks[0].draws);
  input.rings[0].room = 31;
  plan = plan_step(input);
  CHECK(plan.chunks[0].count == 30);
  CHECK(plan.chunks[0].draws);
  // Computed again after a preemption: nothing is reported twice.
  input.waiting[0].first_target = 21;
  plan = plan_step(input);
  CHECK(plan.chunks[0].num_targets == 9);
  CHECK(plan.chunks[0].first_target == 21);
}

TEST_CASE("scheduler: victims are paged out as far as the host tier has room, the others are recomputed") {
  SchedulerInput input = empty_input();
  input.free_blocks = 0;
  input.limits.num_host_blocks = 10;
  input.free_host_blocks = 4;
  input.running = {decoding_view(1, 9, 2), decoding_view(2, 9, 3), decoding_view(3, 9, 2)};
  input.running[2].num_sole_blocks = 0;  // all shared: it frees nothing, and the next one has to go too
  StepPlan plan = plan_step(input);
  check_plan(input, plan);
  CHECK(plan.preempted == std::vector<std::int32_t>{3, 2});
  CHECK(plan.paged_out == std::vector<std::int32_t>{3});
  input.free_host_blocks = 5;
  plan = plan_step(input);
  check_plan(input, plan);
  CHECK(plan.paged_out == std::vector<std::int32_t>{3, 2});
}

TEST_CASE("scheduler: a victim whose tokens are computed again sooner than its blocks are copied is not paged out") {
  SchedulerInput input = empty_input();
  input.free_blocks = 0;
  input.limits.block_size = 64;
  input.limits.num_host_blocks = input.free_host_blocks = 10;
  for (const auto& [num_tokens, num_blocks, is_paged_out] : {std::tuple{16, 1, false}, {17, 1, true}, {65, 2, true}, {33, 2, true}, {32, 2, false}}) {
    CAPTURE(num_tokens);
    input.running = {decoding_view(1, 65, 1), decoding_view(2, num_tokens, num_blocks)};  // the last token is yet to be computed
    const StepPlan plan = plan_step(input);
    check_plan(input, plan);
    CHECK(plan.preempted == std::vector<std::int32_t>{2});
    CHECK(plan.paged_out.size() == (is_paged_out ? 1u : 0u));
  }
}

TEST_CASE("scheduler: one that is paged out comes back when all its blocks are there, and has its row in the next step") {
  SchedulerInput input = empty_input();
  input.limits.num_host_blocks = 10;
  input.free_host_blocks = 7;
  SequenceView away = decoding_view(3, 13, 3);
  away.is_paged_out = true;
  away.num_sole_blocks = 0;
  input.waiting = {away, waiting_view(4, 6)};
  input.free_blocks = 3;  // its next token takes a fourth
  StepPlan plan = plan_step(input);
  CHECK(!plan.changes_anything());
  input.free_blocks = 7;  // and the younger one two, beside what may be the next of the first
  plan = plan_step(input);
  check_plan(input, plan);
  CHECK(plan.paged_in == std::vector<std::int32_t>{3});
  CHECK(plan.decodes.empty());
  REQUIRE(plan.chunks.size() == 1);
  CHECK(plan.chunks[0].id == 4);
  input.free_blocks = 6;
  CHECK(!plan_step(input).has_rows());
  // A prompt's end that it could fork is no use to it.
  input.free_blocks = 4;
  input.prompts = {{.id = 3, .num_sole_blocks = 0}};
  input.waiting[0].prompt_idx = 0;
  CHECK(plan_step(input).paged_in == std::vector<std::int32_t>{3});
  // Behind a window two blocks were given up: it needs two fewer.
  input.waiting[0].num_held_blocks = 1;
  input.free_blocks = 2;
  plan = plan_step(input);
  check_plan(input, plan);
  CHECK(plan.paged_in == std::vector<std::int32_t>{3});
  // No state slot, or no room in its ring: it stays.
  input.free_state_slots = 0;
  CHECK(!plan_step(input).changes_anything());
  input.free_state_slots = 1;
  input.rings[0].room = 1;
  CHECK(!plan_step(input).changes_anything());
}
