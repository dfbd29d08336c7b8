#include "backend/echo/echo_backend.h"

#include "backend/echo/echo_ops.h"
#include "backend/host_backend.h"
#include "base/check.h"

namespace fastgen {

namespace {

class EchoBackend final : public HostBackend {
 public:
  std::string name() const override { return "echo"; }
  std::string device() const override { return "exact integers, no model"; }
  ActivationTypes activation_types(DType) const override { return {}; }
  bool uses_weights() const override { return false; }

  void reserve(const OpLimits& limits) override {
    FG_CHECK(limits.vocab > 0, limits.vocab);
    vocab_ = limits.vocab;
  }
  std::size_t workspace_bytes(const OpLimits&) const override { return 0; }
  Weight prepare_weights(WeightKind kind, DType, std::span<const Tensor>, std::span<const FilePlace>) override {
    check_failed(__FILE__, __LINE__, "echo reads no weights", check_values(static_cast<int>(kind)));
  }
  Weight prepare_random_weights(WeightKind kind, DType, std::span<const RandomPart>) override {
    check_failed(__FILE__, __LINE__, "echo reads no weights", check_values(static_cast<int>(kind)));
  }

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

 private:
  std::int32_t vocab_ = 0;
};

}  // namespace

std::unique_ptr<Backend> make_echo_backend() { return std::make_unique<EchoBackend>(); }

}  // namespace fastgen
