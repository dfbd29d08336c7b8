// Many threads at once against a tiny engine: they submit, cancel and take events slowly, while blocks, state slots and room in the
// rings are always short. Every token, logprob and alternative is checked, and everything that was lent must come back.
//
// FG_STRESS_ROUNDS=N runs longer than the few rounds that fit beside the other tests.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

#include "backend/echo/echo_backend.h"
#include "backend/failing/failing_backend.h"
#include "backend/forwarding.h"
#include "backend/late/late_backend.h"
#include "engine/debug_checks.h"
#include "engine/setup.h"
#include "engine_support.h"

using namespace fastgen;
using namespace fastgen::test;

namespace {

// Echo for a model whose every layer has a window.
class WindowedEcho final : public ForwardingBackend {
 public:
  explicit WindowedEcho(std::int32_t window) : ForwardingBackend(make_echo_backend()), window_(window) {}
  void attend(Stream stream, const AttendArgs& args) override {
    AttendArgs windowed = args;
    windowed.window = window_;
    inner().attend(stream, windowed);
  }

 private:
  const std::int32_t window_;
};

// How a round ends.
enum class Ending { kAllAnswered, kStopped, kBackendFails };

struct Round {
  EngineConfig config;
  std::int32_t window = 0;
  std::uint64_t late_seed = 0;
  bool is_late = false;
  Ending ending = Ending::kAllAnswered;
  std::int64_t num_good_steps = 0;  // before the backend fails

  std::unique_ptr<Engine> start() const {
    auto backend = window > 0 ? std::make_unique<WindowedEcho>(window) : make_echo_backend();
    if (ending == Ending::kBackendFails) backend = make_failing_backend(std::move(backend), num_good_steps);
    if (is_late) backend = make_late_backend(std::move(backend), late_seed);
    EngineSetup setup = set_up_engine(config, std::move(backend));
    setup.limits.window = window;
    return start_engine(config, std::move(setup));
  }
};

Round random_round(const std::filesystem::path& folder, std::mt19937_64& random, int round_idx) {
  const auto one_of = [&](std::initializer_list<std::int32_t> values) { return values.begin()[random() % values.size()]; };
  Round round;
  round.config = echo_engine(folder);
  EngineConfig& config = round.config;
  // The longest request has 100 tokens. Blocks are certainly short in the first round: one pool for many sequences at once, which keep
  // what they have computed and are held up by nothing else.
  const bool is_tight = round_idx == 0;
  config.block_size = one_of({1, 4, 16});
  config.kv_gb = echo_kv_gb(100 / config.block_size + 1 + (is_tight ? 0 : one_of({0, 2, 10})), config.block_size);
  config.host_kv_gb = echo_kv_gb(is_tight ? 400 / config.block_size : one_of({0, 0, 30, 400}), config.block_size);
  config.max_batch = is_tight ? 16 : one_of({1, 4, 16});
  config.max_prefill = one_of({3, 32, 256});
  config.max_queue = one_of({4, 32});
  config.num_graphs = one_of({0, 4});
  config.num_event_rings = one_of({1, 3});
  config.event_ring_size = one_of({4, 16, 256});
  round.window = one_of({0, 0, 5, 40});
  if (is_tight) {
    config.max_prefill = config.max_queue = 32;
    config.event_ring_size = 256;
    round.window = 0;
  }
  round.is_late = random() % 2;
  round.late_seed = random() % 1000;
  round.ending = round_idx % 4 == 3 ? Ending::kBackendFails : round_idx % 4 == 2 ? Ending::kStopped : Ending::kAllAnswered;
  round.num_good_steps = static_cast<std::int64_t>(random() % 400);
  return round;
}

class Stress {
 public:
  static constexpr std::size_t kRequests = 80, kSubmitters = 3;

  Stress(const Round& round, std::uint64_t round_seed) : round_(round), seed_(round_seed), engine_(round.start()) {
    std::mt19937_64 random(seed_);
    const auto num_rings = static_cast<std::uint64_t>(round.config.num_event_rings);
    requests_per_ring_.resize(num_rings);
    for (std::size_t i = 0; i < kRequests; ++i) {
      Request& request = requests_.emplace_back(random_request(random));
      request.user_tag = i;
      request.ring_idx = static_cast<std::int32_t>(random() % num_rings);
      request.priority = static_cast<std::int32_t>(random() % 3) - 1;
      // Penalties change nothing on echo but that it looks at all tokens, which a window gives back.
      if (round.window == 0 && random() % 3 == 0) request.sampling.repetition_penalty = 1.1f;
      ++requests_per_ring_[static_cast<std::size_t>(request.ring_idx)];
    }
  }

  void run() {
    std::vector<std::thread> submitters, consumers;
    for (std::size_t i = 0; i < requests_per_ring_.size(); ++i) consumers.emplace_back([this, i] { guard([&] { consume(i); }); });
    for (std::size_t i = 0; i < kSubmitters; ++i) submitters.emplace_back([this, i] { guard([&] { submit(i); }); });
    for (std::thread& thread : submitters) thread.join();
    if (round_.ending == Ending::kStopped) engine_->stop();
    for (std::thread& thread : consumers) thread.join();
    REQUIRE(!has_failed_);
    for (std::size_t i = 0; i < kRequests; ++i) check_request(i);
    check_engine();
  }

  EngineStats stats() const { return engine_->stats(); }
  std::size_t num_cancelled() const { return num_cancelled_; }

 private:
  // A failed REQUIRE leaves its thread by an exception.
  template <typename Body>
  void guard(const Body& body) {
    try {
      body();
    } catch (...) {
      has_failed_ = true;
    }
  }

  void submit(std::size_t submitter) {
    std::mt19937_64 random(seed_ + 1 + submitter);
    for (std::size_t i = submitter; i < kRequests && !has_failed_; i += kSubmitters) {
      std::optional<Ticket> ticket = engine_->try_admit();
      for (; !ticket && !has_failed_; ticket = engine_->try_admit()) cancel_some(random);
      if (!ticket) return;
      if (random() % 8 == 0) Ticket unused = std::move(*std::exchange(ticket, engine_->try_admit()));
      while (!ticket && !has_failed_) ticket = engine_->try_admit();
      if (!ticket) return;
      ids_[i].store(engine_->submit(std::move(*ticket), requests_[i]), std::memory_order_release);
      if (random() % 4 == 0) cancel_some(random);
    }
  }

  // Any request, also one that is over or not yet in, whole or one choice.
  void cancel_some(std::mt19937_64& random) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    const std::size_t i = random() % kRequests;
    const RequestId id = ids_[i].load(std::memory_order_acquire);
    if (id == 0 || random() % 4 != 0) return;
    asked_to_cancel_[i] = true;
    engine_->cancel(id, random() % 2 ? -1 : static_cast<std::int32_t>(random() % 6));
  }

  // Now fast, now slow, through wait() or the descriptor.
  void consume(std::size_t ring_idx) {
    std::mt19937_64 random(seed_ + 100 + ring_idx);
    EventRing& ring = engine_->ring(static_cast<std::int32_t>(ring_idx));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(10);
    Answers answers;
    for (std::size_t num_over = 0; num_over < requests_per_ring_[ring_idx];) {
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      ring.wait(20);
      std::uint64_t num_wanted = random() % 2 ? 1 + random() % 20 : 1'000'000;
      for (Event event; num_wanted-- > 0 && ring.pop(event);) {
        REQUIRE(requests_[event.user_tag].ring_idx == static_cast<std::int32_t>(ring_idx));
        take_event(answers, event, ring.top(event));
        num_over += event.last_of_request;
      }
      if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    }
    Event surplus;
    CHECK(!ring.pop(surplus));
    const std::lock_guard lock(mutex_);
    answers_.merge(answers);
  }

  void check_request(std::size_t i) {
    const Request& request = requests_[i];
    int num_last = 0;
    bool any_whole = false, any_prompt_whole = false;
    for (std::int32_t choice = 0; choice < request.n; ++choice) {
      CAPTURE(i);
      CAPTURE(choice);
      REQUIRE(answers_.contains({i, choice}));
      const Answer& answer = answers_.at({i, choice});
      const Answer expected = expected_echo(request, choice, round_.window);
      num_last += answer.last_of_request;
      num_cancelled_ += answer.reason == FinishReason::kCancelled;
      const bool may_be_cut = (answer.reason == FinishReason::kCancelled && (asked_to_cancel_[i] || round_.ending == Ending::kStopped)) ||
                              (answer.reason == FinishReason::kError && round_.ending == Ending::kBackendFails);
      if (may_be_cut) {
        check_begun(answer, expected);
      } else {
        check_whole(answer, expected);
      }
      any_whole = any_whole || !may_be_cut;
      any_prompt_whole = any_prompt_whole || answer.prompt.size() == expected.prompt.size();
      // Which choice tells of the prompt depends on who was cancelled; what it tells does not.
      REQUIRE(answer.prompt.size() <= expected.prompt.size());
      CHECK(std::equal(answer.prompt.begin(), answer.prompt.end(), expected.prompt.begin()));
    }
    CHECK(num_last == 1);
    CHECK((any_prompt_whole || !any_whole));
  }

  void check_engine() {
    const EngineStats stats = engine_->stats();
    CHECK(stats.tickets_in_use == 0);
    CHECK(stats.num_waiting == 0);
    CHECK((!stats.failed || round_.ending == Ending::kBackendFails));
    CHECK(stats.num_free_host_blocks == stats.num_host_blocks);
    if (round_.ending == Ending::kAllAnswered) check_idle(*engine_);
  }

  const Round& round_;
  const std::uint64_t seed_;
  std::unique_ptr<Engine> engine_;
  std::vector<Request> requests_;  // by user_tag
  std::vector<std::size_t> requests_per_ring_;
  std::array<std::atomic<RequestId>, kRequests> ids_{};  // 0: not submitted yet
  std::array<std::atomic<bool>, kRequests> asked_to_cancel_{};
  std::atomic<bool> has_failed_{false};
  std::mutex mutex_;
  Answers answers_;  // guarded by mutex_ until the consumers are joined
  std::size_t num_cancelled_ = 0;
};

}  // namespace

TEST_CASE("engine: many threads, slow consumers, cancels and a tiny pool: every token is right and everything comes back") {
  check_every_step = true;
  const char* text = std::getenv("FG_STRESS_ROUNDS");
  const int num_rounds = text ? std::atoi(text) : 8;
  std::mt19937_64 random(seed());
  TempDir dir;
  write_config(dir.path());
  std::uint64_t num_preemptions = 0, num_ring_waits = 0, num_page_ins = 0;
  std::size_t num_cancelled = 0;
  for (int i = 0; i < num_rounds; ++i) {
    const Round round = random_round(dir.path(), random, i);
    CAPTURE(i);
    Stress stress(round, random());
    stress.run();
    num_preemptions += stress.stats().num_preemptions;
    num_ring_waits += stress.stats().num_ring_waits;
    num_page_ins += stress.stats().num_page_ins;
    num_cancelled += stress.num_cancelled();
  }
  MESSAGE(num_preemptions, " preemptions, ", num_page_ins, " page-ins, ", num_ring_waits, " waits for a ring, ", num_cancelled, " choices cancelled");
  CHECK(num_preemptions > 0);
  CHECK(num_ring_waits > 0);
  CHECK(num_page_ins > 0);
  CHECK(num_cancelled > 0);
}
