// A backend that fails while requests run: everything ends with kError, once, and so does whatever comes later.
#include <atomic>
#include <memory>

#include "backend/echo/echo_backend.h"
#include "backend/forwarding.h"
#include "engine/debug_checks.h"
#include "engine/setup.h"
#include "engine_support.h"

using namespace fastgen;
using namespace fastgen::test;

namespace {

// Throws in the chosen call of `embed` or `host_wait`.
class FailingBackend final : public ForwardingBackend {
 public:
  FailingBackend(int embed_calls, int wait_calls)
      : ForwardingBackend(make_echo_backend()), embeds_left_(embed_calls), waits_left_(wait_calls) {}
  std::string name() const override { return "failing"; }
  bool passed(FenceId) override { return false; }  // so that a step is in flight when the next one fails
  void host_wait(FenceId fence) override {
    if (--waits_left_ == 0) throw Error("the device fell off the bus");
    inner().host_wait(fence);
  }
  bool has_graphs() const override { return false; }
  void embed(Stream stream, const EmbedArgs& args) override {
    if (--embeds_left_ == 0) throw Error("the device fell off the bus");
    inner().embed(stream, args);
  }

 private:
  int embeds_left_, waits_left_;
};

}  // namespace

TEST_CASE("engine: a failing backend ends every choice with kError, and every later one") {
  check_every_step = true;
  TempDir dir;
  write_config(dir.path());
  const EngineConfig config = echo_engine(dir.path());
  for (const auto& [embeds, waits] : {std::pair{9, -1}, std::pair{-1, 7}}) {
    CAPTURE(embeds);
    auto engine = start_engine(config, set_up_engine(config, std::make_unique<FailingBackend>(embeds, waits)));
    std::vector<Request> requests(12);
    for (Request& request : requests) {
      request.prompt = {4, 5, 6, 7};
      request.n = 3;
      request.sampling = {.max_tokens = 50, .ignore_eos = true};
    }
    const Answers answers = run_all(*engine, requests);
    CHECK(answers.size() == 36);
    for (const auto& [key, answer] : answers) {
      CHECK(answer.reason == FinishReason::kError);
      CHECK(answer.num_finishes == 1);
    }
    CHECK(engine->stats().failed);
    for (const auto& [key, answer] : run_all(*engine, {requests[0]})) {
      CHECK(answer.reason == FinishReason::kError);
      CHECK(answer.tokens.empty());
    }
    const EngineStats stats = engine->stats();
    CHECK(stats.tickets_in_use == 0);
    CHECK(stats.num_free_blocks == stats.num_blocks);
  }
}

TEST_CASE("engine: fail-after fails in the step it names, captured or not") {
  TempDir dir;
  write_config(dir.path());
  for (const std::int32_t num_graphs : {0, 16}) {
    EngineConfig config = echo_engine(dir.path(), "fail-after:9:echo");
    config.num_graphs = num_graphs;
    auto engine = Engine::create(config);
    Request request;
    request.prompt = {4, 5, 6, 7};
    request.sampling = {.max_tokens = 50, .ignore_eos = true};
    const Answer answer = run_all(*engine, {request}).at({0, 0});
    CHECK(answer.reason == FinishReason::kError);
    CHECK(engine->stats().failed);
    // Step 10 is launched before step 9 is collected, so that the ninth token is lost with it.
    CHECK(answer.tokens.size() >= 8);
    CHECK(answer.tokens.size() <= 9);
    Request twin = request;
    const std::vector<TokenId> expected = expected_echo(twin, 0).tokens;
    CHECK(std::equal(answer.tokens.begin(), answer.tokens.end(), expected.begin()));
  }
}
