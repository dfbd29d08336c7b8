// When steps are planned: the guess of how long one takes, and what it is for, over a device that takes its time.
#include "engine/step_pace.h"

#include <chrono>
#include <memory>
#include <thread>

#include "backend/echo/echo_backend.h"
#include "backend/forwarding.h"
#include "base/clock.h"
#include "engine/setup.h"
#include "engine_support.h"

using namespace fastgen;
using namespace fastgen::test;

namespace {

constexpr std::uint64_t kStepUs = 30'000;

// Echo on a device of its own: what was recorded has passed kStepUs after what was recorded before it, and the host goes on meanwhile.
class DeviceOfItsOwn final : public ForwardingBackend {
 public:
  DeviceOfItsOwn() : ForwardingBackend(make_echo_backend()) {}

  FenceId record(Stream) override {
    end_us_ = std::max(end_us_, now_us()) + kStepUs;
    return end_us_;
  }
  void wait(Stream, FenceId) override {}
  bool passed(FenceId fence) override { return fence <= now_us(); }
  void host_wait(FenceId fence) override {
    if (!passed(fence)) std::this_thread::sleep_for(std::chrono::microseconds(fence - now_us()));
  }

 private:
  std::uint64_t end_us_ = 0;
};

Request request_of(std::uint64_t tag, std::int32_t max_tokens) {
  Request request;
  request.prompt = {5, 6, 7};
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = max_tokens;
  request.user_tag = tag;
  return request;
}

// The tag of the next token, or nothing after a minute.
std::uint64_t next_token(Engine& engine) {
  for (const std::uint64_t start = now_us(); now_us() - start < 60'000'000; engine.ring(0).wait(100))
    for (Event event; engine.ring(0).pop(event);)
      if (event.kind == EventKind::kToken) return event.user_tag;
  FAIL("no token for a minute");
  return 0;
}

}  // namespace

TEST_CASE("step pace: as the shortest of the last few of its kind, less in proportion, never more") {
  StepPace pace;
  CHECK(pace.at_least(true, 5) == 0);
  pace.add(true, 100, 6000);
  CHECK(pace.at_least(false, 100) == 0);
  CHECK(pace.at_least(true, 100) == 6000);
  CHECK(pace.at_least(true, 25) == 1500);
  CHECK(pace.at_least(true, 800) == 6000);
  pace.add(false, 1000, 20'000);
  CHECK(pace.at_least(false, 500) == 10'000);
  pace.add(true, 50, 4000);
  CHECK(pace.at_least(true, 100) == 4000);
  CHECK(pace.at_least(true, 50) == 3000);
  for (int i = 0; i < 3; ++i) pace.add(true, 200, 9000);
  CHECK(pace.at_least(true, 200) == 4000);
  pace.add(true, 200, 8000);  // those of 100 and 50 tokens are forgotten
  CHECK(pace.at_least(true, 200) == 8000);
}

// A request that comes while step N runs draws in N + 1: one that streams gets the tokens of N and N + 1 until then. Planned as early as it can
// be, N + 1 would be without it, and the other would have three.
TEST_CASE("engine: a request that comes during a step is in the next one") {
  TempDir dir;
  write_config(dir.path());
  const EngineConfig config = echo_engine(dir.path());
  const auto engine = start_engine(config, set_up_engine(config, std::make_unique<DeviceOfItsOwn>()));
  constexpr int kTries = 10;
  engine->submit(*engine->try_admit(), request_of(0, 400));
  for (int i = 0; i < 3; ++i) CHECK(next_token(*engine) == 0);
  int num_prompt = 0;
  for (std::uint64_t tag = 1; tag <= kTries; ++tag) {
    CHECK(next_token(*engine) == 0);
    std::this_thread::sleep_for(std::chrono::microseconds(kStepUs / 5));  // well after the host has turned to the next step
    engine->submit(*engine->try_admit(), request_of(tag, 1));
    int num_before = 0;
    while (next_token(*engine) != tag) ++num_before;
    num_prompt += num_before <= 2;
  }
  CHECK(num_prompt >= kTries / 2);  // a busy machine may lose some
}
