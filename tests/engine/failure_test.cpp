// A backend that fails while requests run: everything ends with kError, once, and so does whatever comes later.
#include <atomic>
#include <memory>

#include "backend/echo/echo_backend.h"
#include "engine/debug_checks.h"
#include "engine/setup.h"
#include "engine_support.h"

using namespace fastgen;
using namespace fastgen::test;

namespace {

// Passes every call on to echo, and throws in the chosen call of `embed` or `host_wait`.
class FailingBackend final : public Backend {
 public:
  FailingBackend(int embed_calls, int wait_calls) : embeds_left_(embed_calls), waits_left_(wait_calls) {}
  std::string name() const override { return "failing"; }
  std::string device() const override { return echo_->device(); }
  ActivationTypes activation_types(DType model_dtype) const override { return echo_->activation_types(model_dtype); }
  bool uses_weights() const override { return false; }
  std::size_t free_bytes() const override { return echo_->free_bytes(); }
  void* allocate(MemoryKind kind, std::size_t bytes) override { return echo_->allocate(kind, bytes); }
  void reserve(const OpLimits& limits) override { echo_->reserve(limits); }
  void seal() override { echo_->seal(); }
  Weight prepare_weights(WeightKind kind, DType dtype, std::span<const Tensor> parts) override {
    return echo_->prepare_weights(kind, dtype, parts);
  }
  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override { echo_->upload(stream, device, pinned, bytes); }
  void download(Stream stream, void* pinned, const void* device, std::size_t bytes) override {
    echo_->download(stream, pinned, device, bytes);
  }
  FenceId record(Stream stream) override { return echo_->record(stream); }
  void wait(Stream stream, FenceId fence) override { echo_->wait(stream, fence); }
  bool passed(FenceId) override { return false; }  // so that a step is in flight when the next one fails
  void host_wait(FenceId fence) override {
    if (--waits_left_ == 0) throw Error("the device fell off the bus");
    echo_->host_wait(fence);
  }
  bool has_graphs() const override { return false; }
  void begin_capture() override { echo_->begin_capture(); }
  GraphId end_capture() override { return echo_->end_capture(); }
  void replay(GraphId graph) override { echo_->replay(graph); }
  void embed(Stream stream, const EmbedArgs& args) override {
    if (--embeds_left_ == 0) throw Error("the device fell off the bus");
    echo_->embed(stream, args);
  }
  void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps, Tensor out) override {
    echo_->add_rms_norm(stream, residual, delta, weight, eps, out);
  }
  void qkv_rope_store(Stream stream, const QkvArgs& args) override { echo_->qkv_rope_store(stream, args); }
  void attend(Stream stream, const AttendArgs& args) override { echo_->attend(stream, args); }
  void linear(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor out) override { echo_->linear(stream, x, weight, bias, out); }
  void linear_add(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor residual) override {
    echo_->linear_add(stream, x, weight, bias, residual);
  }
  void gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) override { echo_->gate_up_silu(stream, x, weight, out); }
  void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) override { echo_->gather_rows(stream, x, rows, out); }
  void logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena, Tensor ids,
                     const LogprobOutput& out) override {
    echo_->logits_sample(stream, x, head, batch, arena, ids, out);
  }
  void token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids, std::int32_t num_top, const LogprobOutput& out) override {
    echo_->token_logprobs(stream, x, head, ids, num_top, out);
  }
  void copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) override { echo_->copy_blocks(stream, arena, pairs); }

 private:
  std::unique_ptr<Backend> echo_ = make_echo_backend();
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
