// The check backend over whole models: nothing to say where both sides agree, and the first op that differs where one is wrong.
#include "backend/check/check_backend.h"

#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>

#include "backend/check/difference.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/forwarding.h"
#include "fastgen/error.h"
#include "model/tiny_model.h"
#include "support/model_runner.h"
#include "support/support.h"

namespace fastgen {
namespace {

std::unique_ptr<Backend> plain() { return make_cpu_backend({.num_threads = 1}); }

void move_float(const Tensor& tensor, std::int64_t element, float by) {
  if (tensor.dtype == DType::kF32) {
    tensor.as<float>()[element] += by;
  } else {
    tensor.as<std::uint16_t>()[element] ^= 0x4000;  // far off, whatever it was
  }
}

enum class Fault { kNone, kEmbed, kTokenId, kNorm, kK, kAttend, kGateUp, kDown, kGather, kTop, kDraw, kPromptLogprob };

// Right but for one thing, in the layer or at the call that is asked for.
class FaultyBackend final : public ForwardingBackend {
 public:
  explicit FaultyBackend(Fault fault) : ForwardingBackend(plain()), fault_(fault) {}

  void embed(Stream stream, const EmbedArgs& args) override {
    inner().embed(stream, args);
    if (fault_ == Fault::kEmbed) move_float(args.out, 3, 0.01f);
    if (fault_ == Fault::kTokenId) args.arena.token_ids.as<std::int32_t>()[args.slots.as<std::int32_t>()[1]] += 1;
  }
  void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps, Tensor out) override {
    inner().add_rms_norm(stream, residual, delta, weight, eps, out);
    if (fault_ == Fault::kNorm && ++num_calls_ == 3) move_float(out, out.elements() - 1, 0.1f);
  }
  void qkv_rope_store(Stream stream, const QkvArgs& args) override {
    inner().qkv_rope_store(stream, args);
    if (fault_ != Fault::kK || args.layer != 1) return;
    const std::int64_t offset = args.arena.layout.offset(args.slots.as<std::int32_t>()[0], 1, 0, 0);
    move_float(Tensor(args.arena.data, args.arena.dtype, {offset + 1}), offset, 0.1f);
  }
  void attend(Stream stream, const AttendArgs& args) override {
    inner().attend(stream, args);
    if (fault_ == Fault::kAttend && args.layer == 2) move_float(args.out, 7, 0.1f);
  }
  void linear_add(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor residual) override {
    inner().linear_add(stream, x, weight, bias, residual);
    if (fault_ == Fault::kDown && ++num_calls_ == 4) move_float(residual, 0, 0.1f);
  }
  void gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) override {
    inner().gate_up_silu(stream, x, weight, out);
    if (fault_ == Fault::kGateUp && ++num_calls_ == 2) move_float(out, 5, 0.1f);
  }
  void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) override {
    inner().gather_rows(stream, x, rows, out);
    if (fault_ == Fault::kGather) move_float(out, 1, 0.5f);
  }
  void logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena, Tensor ids,
                     const LogprobOutput& out) override {
    inner().logits_sample(stream, x, head, batch, arena, ids, out);
    if (fault_ == Fault::kTop) move_float(out.top_logprobs, 0, 0.5f);
    if (fault_ == Fault::kDraw) ids.as<std::int32_t>()[0] ^= 1;
  }
  void token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids, std::int32_t num_top, const LogprobOutput& out) override {
    inner().token_logprobs(stream, x, head, ids, num_top, out);
    if (fault_ == Fault::kPromptLogprob) out.logprobs.as<float>()[2] += 0.5f;
  }

 private:
  const Fault fault_;
  int num_calls_ = 0;
};

// What the check says of a model with this fault; empty: nothing.
std::string verdict(Fault fault, DType dtype) {
  test::TempDir dir;
  ModelConfig config = test::tiny_config();
  config.num_layers = 3;
  std::ofstream(dir.path() / "config.json") << test::config_json(config);
  test::ModelRunner runner(dir.path(), {.make_backend = [&] { return make_check_backend(plain(), std::make_unique<FaultyBackend>(fault)); },
                                        .dtype = dtype,
                                        .dummy_weights = true});
  try {
    for (const std::uint64_t number : {5, 6}) {
      const auto ids = test::random_ids(20, config.vocab, number);
      runner.force(ids, 12, 7);
      runner.generate(ids, 6, 9);
    }
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("check: a backend agrees with itself, in both dtypes") {
  CHECK(verdict(Fault::kNone, DType::kF32) == "");
  CHECK(verdict(Fault::kNone, DType::kBF16) == "");
}

TEST_CASE("check: the first op that differs is named, with its layer, tensor and worst element") {
  const std::pair<Fault, const char*> faults[] = {
      {Fault::kEmbed, "first in embed, out: 1 element, the worst at 3: "},
      {Fault::kTokenId, "first in embed, token ids: 1 element"},
      {Fault::kNorm, "first in add_rms_norm (after attend of layer 0), out: 1 element"},
      {Fault::kK, "first in qkv_rope_store of layer 1, k: 1 element"},
      {Fault::kAttend, "first in attend of layer 2, out: 1 element, the worst at 7: "},
      {Fault::kGateUp, "first in gate_up_silu (after attend of layer 1), out: 1 element, the worst at 5: "},
      {Fault::kDown, "first in linear_add (after attend of layer 1), residual: 1 element, the worst at 0: "},
      {Fault::kGather, "first in gather_rows (after attend of layer 2), out: 1 element, the worst at 1: "},
      {Fault::kTop, "first in logits_sample (after attend of layer 2), top logprobs: row 0, place 0: "},
      {Fault::kDraw, "first in logits_sample (after attend of layer 2), ids: row 0: id "},
      {Fault::kPromptLogprob, "first in token_logprobs (after attend of layer 2), logprobs: 1 element, the worst at 2: "},
  };
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [fault, expected] : faults) {
      const std::string message = verdict(fault, dtype);
      CAPTURE(expected);
      CAPTURE(message);
      CHECK(message.starts_with("--backend check: cpu differs from cpu "));
      CHECK(message.find(expected) != std::string::npos);
    }
  }
}

TEST_CASE("check: differences are measured by the dtype, and what is not finite must be the same") {
  float a[] = {1, -2, 0, INFINITY}, b[] = {1.0005f, -2.0005f, 0, INFINITY};
  const Tensor reference(a, DType::kF32, {4}), tested(b, DType::kF32, {4});
  CHECK(difference_of(reference, tested).num_beyond == 0);
  b[2] = 0.01f;
  CHECK(difference_of(reference, tested).num_beyond == 1);
  CHECK(difference_of(reference, tested).worst_element == 2);
  b[3] = 5;
  CHECK(difference_of(reference, tested).num_beyond == 2);
  CHECK(difference_of(reference, tested).worst_element == 3);
  std::int32_t c[] = {1, 2}, d[] = {1, 3};
  CHECK(difference_of(Tensor(c, DType::kI32, {2}), Tensor(d, DType::kI32, {2})).text() == "1 element, the worst at 1: 2 against 3, allowed 0");
}

}  // namespace
}  // namespace fastgen
