#include "backend/echo/echo_backend.h"

#include <cstring>

#include "backend/call_recorder.h"
#include "backend/cpu/memory.h"
#include "backend/echo/echo_ops.h"
#include "base/check.h"

namespace fastgen {

namespace {

class EchoBackend final : public Backend {
 public:
  std::string name() const override { return "echo"; }
  std::string device() const override { return "exact integers, no model"; }
  ActivationTypes activation_types(DType) const override { return {}; }
  bool uses_weights() const override { return false; }

  std::size_t free_bytes() const override { return free_memory_bytes(); }
  void* allocate(MemoryKind, std::size_t bytes) override {
    FG_CHECK(!sealed_, bytes);
    return memory_.allocate(bytes);
  }
  void reserve(const OpLimits& limits) override {
    FG_CHECK(limits.vocab > 0, limits.vocab);
    vocab_ = limits.vocab;
  }
  std::size_t workspace_bytes(const OpLimits&) const override { return 0; }
  void seal() override { sealed_ = true; }
  Weight prepare_weights(WeightKind kind, DType, std::span<const Tensor>, std::span<const FilePlace>) override {
    check_failed(__FILE__, __LINE__, "echo reads no weights", check_values(static_cast<int>(kind)));
  }
  Weight prepare_random_weights(WeightKind kind, DType, std::span<const RandomPart>) override {
    check_failed(__FILE__, __LINE__, "echo reads no weights", check_values(static_cast<int>(kind)));
  }

  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override {
    calls_.run(stream, [=] { std::memcpy(device, pinned, bytes); });
  }
  void download(Stream stream, void* pinned, const void* device, std::size_t bytes) override {
    calls_.run(stream, [=] { std::memcpy(pinned, device, bytes); });
  }
  FenceId record(Stream) override { return 0; }
  void wait(Stream, FenceId) override {}
  bool passed(FenceId) override { return true; }
  void host_wait(FenceId) override {}

  bool has_graphs() const override { return true; }
  void begin_capture() override { calls_.begin(); }
  GraphId end_capture() override { return calls_.end(); }
  void replay(GraphId graph) override { calls_.replay(graph); }
  std::size_t graph_bytes() const override { return 0; }

  void embed(Stream stream, const EmbedArgs& args) override {
    calls_.run(stream, [=, this] { echo::embed(args, vocab_); });
  }
  void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor, float, Tensor out) override {
    calls_.run(stream, [=] { echo::add_norm(residual, delta, out); });
  }
  void qkv_rope_store(Stream stream, const QkvArgs& args) override {
    calls_.run(stream, [=] { echo::store_kv(args); });
  }
  void attend(Stream stream, const AttendArgs& args) override {
    calls_.run(stream, [=] { echo::attend(args); });
  }
  void linear(Stream stream, Tensor x, const Weight&, Tensor, Tensor out) override {
    calls_.run(stream, [=] { echo::linear(x, out); });
  }
  void linear_add(Stream stream, Tensor x, const Weight&, Tensor, Tensor residual) override {
    calls_.run(stream, [=] { echo::linear_add(x, residual); });
  }
  // Nothing to say: the product that follows adds zero to the residual.
  void gate_up_silu(Stream stream, Tensor, const Weight&, Tensor out) override {
    calls_.run(stream, [=] { echo::fill_zero(out); });
  }
  void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) override {
    calls_.run(stream, [=] { echo::gather_rows(x, rows, out); });
  }
  void logits_sample(Stream stream, Tensor x, const Weight&, const SampleBatch& batch, const KvArena& arena,
                     Tensor ids, const LogprobOutput& out) override {
    calls_.run(stream, [=, this] { echo::logits_sample(x, batch, arena, vocab_, ids, out); });
  }
  void token_logprobs(Stream stream, Tensor x, const Weight&, Tensor ids, std::int32_t num_top,
                      const LogprobOutput& out) override {
    calls_.run(stream, [=, this] { echo::token_logprobs(x, ids, num_top, vocab_, out); });
  }
  void fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) override {
    calls_.run(stream, [=] { echo::fill_table(entries, starts, table); });
  }
  void copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) override {
    calls_.run(stream, [=] { echo::copy_blocks(arena, pairs); });
  }

 private:
  CallRecorder calls_;
  MemoryPool memory_;
  std::int32_t vocab_ = 0;
  bool sealed_ = false;
};

}  // namespace

std::unique_ptr<Backend> make_echo_backend() { return std::make_unique<EchoBackend>(); }

}  // namespace fastgen
