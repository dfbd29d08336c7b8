// The engine thread's loop (rows 5-10 of "Life of a request") and what other threads call.
#include "fastgen/engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <exception>
#include <functional>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/snapshot.h"
#include "base/spans.h"
#include "base/step_trace.h"
#include "base/wake.h"
#include "engine/debug_checks.h"
#include "engine/output.h"
#include "engine/roster.h"
#include "engine/scheduler.h"
#include "engine/setup.h"
#include "engine/step_pace.h"
#include "engine/tickets.h"
#include "engine/validate.h"
#include "fastgen/error.h"

namespace fastgen {

std::atomic<bool> check_every_step{false};

namespace {

// A step is collected once this many younger ones are queued behind it: the host plans one ahead of the device.
constexpr std::size_t kMaxStepsInFlight = 1;
// How often a sequence that waits for its consumer to take events looks again.
constexpr int kRingPollMs = 1;
// So long after the last step the other steps are captured, a few milliseconds each: a client that sends one request after the other
// never waits for a capture.
constexpr int kRestMs = 10;
// A step is planned this late in the one before it, so that the host has a quarter of a step to do it, half a millisecond at least; and
// after so long at the latest, for whoever stops the engine.
constexpr std::uint64_t kLatePercent = 75, kLateStepMinUs = 2000, kLateMaxUs = 50'000;

std::vector<std::unique_ptr<OutputRing>> make_rings(const EngineConfig& config) {
  std::vector<std::unique_ptr<OutputRing>> rings;
  for (std::int32_t i = 0; i < config.num_event_rings; ++i) rings.push_back(std::make_unique<OutputRing>(config.event_ring_size));
  return rings;
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineConfig& config, EngineSetup setup)
      : info_(std::move(setup.info)),
        tickets_(config.max_queue),
        rings_(make_rings(config)),
        runner_(std::move(setup.runner)),
        roster_(setup.limits, info_.eos_ids, rings_),
        thread_([this] { run(); }) {}
  ~EngineImpl() override { stop(); }

  // ---- any thread
  const EngineInfo& info() const override { return info_; }
  EngineStats stats() const override {
    EngineStats stats = stats_.read();
    stats.tickets_in_use = tickets_.num_in_use();
    // A sign of progress may come between the two readings, so it can lie in what is the future here.
    const std::uint64_t progress_us = progress_us_.load(std::memory_order_relaxed), now = now_us();
    stats.silent_us = progress_us == 0 || progress_us > now ? 0 : now - progress_us;
    return stats;
  }
  EventRing& ring(std::int32_t ring_idx) override {
    FG_CHECK(ring_idx >= 0 && static_cast<std::size_t>(ring_idx) < rings_.size(), ring_idx, rings_.size());
    return *rings_[static_cast<std::size_t>(ring_idx)];
  }
  std::optional<Ticket> try_admit() override {
    const std::optional<std::uint32_t> slot = tickets_.take();
    return slot ? std::optional<Ticket>(make_ticket(this, *slot)) : std::nullopt;
  }
  std::string validate(const Request& request, std::string* field) const override {
    return validate_request(request, info_, static_cast<std::int32_t>(rings_.size()), field);
  }
  RequestId submit(Ticket ticket, Request request) override {
    const std::string fault = validate(request, nullptr);
    FG_CHECK(fault.empty(), fault);
    const RequestId id = tickets_.put(take_slot(ticket), std::move(request));
    wake_.signal();
    return id;
  }
  void cancel(RequestId request, std::int32_t choice_idx) override {
    if (tickets_.cancel(request, choice_idx)) wake_.signal();
  }
  void stop() override {
    if (!thread_.joinable()) return;
    stopping_.store(true, std::memory_order_release);
    wake_.signal();
    thread_.join();
  }

 protected:
  void return_ticket(std::uint32_t slot) override { tickets_.give_back(slot); }

 private:
  // ---- the engine thread
  void run() {
    runner_->report_progress(&progress_us_);
    name_thread("engine");
    while (true) {
      progress_us_.store(now_us(), std::memory_order_relaxed);
      wait_for_requests();
      wake_.drain();
      // After the drain: a stop that comes later signals once more, one that came before it must not be slept through.
      if (stopping_.load(std::memory_order_acquire)) break;
      tracer_.before_step();
      take_requests();
      bool progressed = false;
      try {
        progressed = step() || capture_at_rest();
      } catch (const std::exception& error) {
        fail(error.what());
      }
      emit();
      if (!progressed) sleep();
    }
    shut_down();
  }

  // A request that comes now can be in the next step if that is not planned yet, else only in the one after it. So as long as the next
  // would have decode rows alone, its plan waits for most of the time that the step on the device will take.
  void wait_for_requests() {
    if (in_flight_.empty() || roster_.has_prompts()) return;
    const Step& running = in_flight_.back();
    const std::uint64_t least = pace_.at_least(running.is_graph, running.prefill_tokens + running.decode_tokens);
    if (least < kLateStepMinUs) return;
    const std::uint64_t until = busy_since_us() + std::min(least * kLatePercent / 100, kLateMaxUs), now = now_us();
    if (now >= until) return;
    const SpanScope span(SpanKind::kWait);
    std::this_thread::sleep_for(std::chrono::microseconds(until - now));
  }
  // When the device began the step that it runs, if it has no work beyond those in flight.
  std::uint64_t busy_since_us() const { return std::max(rest_end_us_, last_step_us_); }

  // One turn: plan step N, reserve, pack, launch it, collect N - 1. False if there was nothing to do.
  bool step() {
    SpanScope span(SpanKind::kPlan);
    const SchedulerInput input = roster_.scheduler_input(!in_flight_.empty());
    const StepPlan plan = plan_step(input);
    if (check_every_step) check_plan(input, plan);
    Step& next = in_flight_.emplace_back(roster_.carry_out(plan));
    span.end();
    runner_->page(next.page_outs, next.page_ins);
    if (plan.has_rows()) {
      launch(next);
      runner_->capture_missing();  // while the device has work
    } else {
      in_flight_.pop_back();
    }
    if (check_every_step) roster_.check();
    const bool progressed = plan.changes_anything() || !in_flight_.empty();
    const std::size_t may_stay = plan.has_rows() ? kMaxStepsInFlight : 0;
    while (!in_flight_.empty() && (in_flight_.size() > may_stay || runner_->backend().passed(in_flight_.front().fence))) collect();
    return progressed;
  }

  // A request that comes meanwhile waits for one capture.
  bool capture_at_rest() {
    const bool is_at_rest = roster_.is_empty() && now_us() - last_step_us_ >= std::uint64_t{kRestMs} * 1000;
    return is_at_rest && !failed_ && runner_->capture_next();
  }
  bool has_captures_left() const { return !failed_ && runner_->lacks_graphs(); }

  void take_requests() {
    const auto is_cancelled = [this](RequestId id, std::int32_t choice) { return tickets_.is_cancelled(id, choice); };
    // The marks first: a cancel follows its submit, so the request of a mark seen here is in the queue.
    bool must_look = tickets_.take_any_cancelled();
    while (std::optional<TicketTable::Submitted> submitted = tickets_.take_request()) {
      for (std::int32_t choice = 0; choice < submitted->request.n; ++choice) must_look = must_look || is_cancelled(submitted->id, choice);
      roster_.add(std::move(*submitted));
    }
    if (must_look) roster_.cancel(is_cancelled);
    if (failed_) roster_.end_all(FinishReason::kError);
  }

  void launch(Step& step) {
    SpanScope span(SpanKind::kPack);
    step.start_ns = span.start_ns();
    const BatchShape shape = pack_step(step, roster_.kv(), *runner_);
    if (in_flight_.size() == 1) rest_end_us_ = now_us();
    span.next(SpanKind::kLaunch);
    const std::uint64_t graphs_before = runner_->num_graph_steps();
    step.fence = runner_->launch(shape, step.wanted);
    step.result = runner_->result();
    step.is_graph = runner_->num_graph_steps() > graphs_before;
  }

  void collect() {
    SpanScope span(SpanKind::kWait);
    runner_->backend().host_wait(in_flight_.front().fence);
    span.next(SpanKind::kCollect);
    const Step step = std::move(in_flight_.front());
    in_flight_.pop_front();
    const std::uint64_t now = now_us();
    roster_.collect(step, now);
    if (check_every_step) roster_.check();
    count(step, now);
  }

  void count(const Step& step, std::uint64_t now) {
    ++num_steps_;
    num_mixed_steps_ += step.prefill_tokens > 0 && step.decode_tokens > 0;
    num_prefill_steps_ += step.decode_tokens == 0;
    prefill_tokens_ += step.prefill_tokens;
    decode_tokens_ += step.decode_tokens;
    const std::uint64_t took_us = now - busy_since_us();
    step_us_.add(took_us);
    pace_.add(step.is_graph, step.prefill_tokens + step.decode_tokens, took_us);
    step_tokens_.add(step.prefill_tokens + step.decode_tokens);
    last_step_us_ = now;
    record_step(step, num_steps_);
    tracer_.after_step();
  }

  void emit() {
    const SpanScope span(SpanKind::kEmit);
    update_stats();  // before the events, so that whoever sees the last one sees its counters too
    for (const auto& ring : rings_) ring->flush(give_ticket_back_);
  }

  // Nothing can be planned: wait for a request or a cancel, for consumers that owe room, or until there is time to capture.
  void sleep() {
    const bool waits_for_room = !roster_.is_empty() ||
                                std::any_of(rings_.begin(), rings_.end(), [](const auto& ring) { return ring->has_unsent(); });
    if (!waits_for_room) progress_us_.store(0, std::memory_order_relaxed);
    wake_.wait(waits_for_room ? kRingPollMs : has_captures_left() ? kRestMs : -1);
  }

  // The backend gave up: every open choice ends, and whatever comes later too.
  void fail(const char* what) {
    log_error("the backend failed, all requests end: {}", what);
    failed_ = true;
    for (const Step& step : in_flight_) roster_.forget_step(step);
    in_flight_.clear();
    roster_.end_all(FinishReason::kError);
  }

  void shut_down() {
    try {
      while (!in_flight_.empty()) collect();
    } catch (const std::exception& error) {
      fail(error.what());
    }
    take_requests();
    roster_.end_all(FinishReason::kCancelled);
    emit();
    tracer_.finish();
    for (const auto& ring : rings_) ring->close(give_ticket_back_);
  }

  void update_stats() {
    EngineStats stats;
    stats.num_steps = num_steps_;
    stats.num_graph_steps = runner_->num_graph_steps();
    stats.prefill_tokens = prefill_tokens_;
    stats.decode_tokens = decode_tokens_;
    stats.num_finished = roster_.counts().num_finished;
    stats.num_preemptions = roster_.counts().num_preemptions;
    stats.num_ring_waits = roster_.counts().num_ring_waits;
    stats.num_page_outs = roster_.counts().num_page_outs;
    stats.num_page_ins = roster_.counts().num_page_ins;
    stats.last_step_us = last_step_us_;
    stats.num_mixed_steps = num_mixed_steps_;
    stats.num_prefill_steps = num_prefill_steps_;
    stats.step_us = step_us_;
    stats.step_tokens = step_tokens_;
    stats.num_waiting = roster_.num_waiting();
    stats.num_running = roster_.num_running();
    stats.num_blocks = roster_.kv().num_blocks();
    stats.num_free_blocks = roster_.kv().num_free_blocks();
    stats.num_host_blocks = roster_.host().num_blocks();
    stats.num_free_host_blocks = roster_.host().num_free_blocks();
    stats.failed = failed_;
    stats_.publish(stats);
  }

  // Shared.
  const EngineInfo info_;
  TicketTable tickets_;
  std::vector<std::unique_ptr<OutputRing>> rings_;
  Wake wake_;
  std::atomic<bool> stopping_{false};  // says only that stop was called; the join orders the rest
  Snapshot<EngineStats> stats_;        // once per step; whoever asks does not hold the engine up, nor it them
  std::atomic<std::uint64_t> progress_us_{0};  // for people and health checks: orders nothing

  // The engine thread's.
  std::unique_ptr<Runner> runner_;
  Roster roster_;
  std::deque<Step> in_flight_;
  std::uint64_t num_steps_ = 0, prefill_tokens_ = 0, decode_tokens_ = 0, last_step_us_ = 0;
  std::uint64_t num_mixed_steps_ = 0, num_prefill_steps_ = 0, rest_end_us_ = 0;  // the last: when work began after a rest
  StepHistogram step_us_{.first = 128}, step_tokens_;
  StepPace pace_;
  bool failed_ = false;
  StepTracer tracer_;
  const std::function<void(const Event&)> give_ticket_back_ = [this](const Event& last) { tickets_.give_back(slot_of(last.request)); };

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

std::unique_ptr<Engine> start_engine(const EngineConfig& config, EngineSetup setup) {
  try {
    return std::make_unique<EngineImpl>(config, std::move(setup));
  } catch (const std::system_error& error) {
    throw Error(fmt::format("the engine's thread cannot start: {}", error.code().message()));
  }
}

std::unique_ptr<Engine> Engine::create(const EngineConfig& config) { return start_engine(config, set_up_engine(config)); }

std::uint32_t Engine::take_slot(Ticket& ticket) {
  FG_CHECK(ticket.engine_ == this, ticket.slot_);
  ticket.engine_ = nullptr;
  return ticket.slot_;
}

Ticket::Ticket(Ticket&& other) noexcept : engine_(std::exchange(other.engine_, nullptr)), slot_(other.slot_) {}
Ticket& Ticket::operator=(Ticket&& other) noexcept {
  std::swap(engine_, other.engine_);
  std::swap(slot_, other.slot_);
  return *this;
}
Ticket::~Ticket() {
  if (engine_) engine_->return_ticket(slot_);
}

}  // namespace fastgen
