#include "backend/late/late_backend.h"

#include <utility>

#include "backend/forwarding.h"
#include "backend/late/late_queue.h"
#include "base/check.h"

namespace fastgen {

namespace {

class LateBackend final : public ForwardingBackend {
 public:
  LateBackend(std::unique_ptr<Backend> inner, std::uint64_t seed, int num_false_polls)
      : ForwardingBackend(std::move(inner)), queue_(seed), num_false_polls_(num_false_polls) {}

  std::string name() const override { return "late:" + inner().name(); }
  std::string device() const override { return inner().device() + ", as late as legal"; }

  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override {
    queue(stream, [=, this] { inner().upload(stream, device, pinned, bytes); });
  }
  void download(Stream stream, void* pinned, const void* device, std::size_t bytes) override {
    queue(stream, [=, this] { inner().download(stream, pinned, device, bytes); });
  }
  FenceId record(Stream stream) override {
    check_not_captured(stream);
    return queue_.record(stream, [=, this] { inner_fence(stream) = inner().record(stream); });
  }
  void wait(Stream stream, FenceId fence) override {
    check_not_captured(stream);
    queue_.wait(stream, fence, [=, this] { inner().wait(stream, inner_fence(LateQueue::stream_of(fence))); });
  }
  bool passed(FenceId fence) override;
  void host_wait(FenceId fence) override {
    FG_CHECK(!capturing_, fence);
    queue_.force(fence);
    num_polls_ = 0;
    if (fence != 0) inner().host_wait(inner_fence(LateQueue::stream_of(fence)));
  }

  void begin_capture() override {
    capturing_ = true;
    inner().begin_capture();
  }
  GraphId end_capture() override {
    capturing_ = false;
    return inner().end_capture();
  }
  void replay(GraphId graph) override {
    FG_CHECK(!capturing_, graph);
    queue(Stream::kCompute, [=, this] { inner().replay(graph); });
  }

  void embed(Stream stream, const EmbedArgs& args) override {
    queue(stream, [=, this] { inner().embed(stream, args); });
  }
  void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps,
                    Tensor out) override {
    queue(stream, [=, this] { inner().add_rms_norm(stream, residual, delta, weight, eps, out); });
  }
  void qkv_rope_store(Stream stream, const QkvArgs& args) override {
    queue(stream, [=, this] { inner().qkv_rope_store(stream, args); });
  }
  void attend(Stream stream, const AttendArgs& args) override {
    queue(stream, [=, this] { inner().attend(stream, args); });
  }
  void linear(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor out) override {
    queue(stream, [=, this] { inner().linear(stream, x, weight, bias, out); });
  }
  void linear_add(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor residual) override {
    queue(stream, [=, this] { inner().linear_add(stream, x, weight, bias, residual); });
  }
  void gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) override {
    queue(stream, [=, this] { inner().gate_up_silu(stream, x, weight, out); });
  }
  void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) override {
    queue(stream, [=, this] { inner().gather_rows(stream, x, rows, out); });
  }
  void logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch,
                     const KvArena& arena, Tensor ids, const LogprobOutput& out) override {
    queue(stream, [=, this] { inner().logits_sample(stream, x, head, batch, arena, ids, out); });
  }
  void token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids, std::int32_t num_top,
                      const LogprobOutput& out) override {
    queue(stream, [=, this] { inner().token_logprobs(stream, x, head, ids, num_top, out); });
  }
  void fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) override {
    queue(stream, [=, this] { inner().fill_table(stream, entries, starts, table); });
  }
  void copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) override {
    queue(stream, [=, this] { inner().copy_blocks(stream, arena, pairs); });
  }

 private:
  // A captured call goes to the wrapped backend at once, which records it without running it.
  template <typename Call>
  void queue(Stream stream, Call call) {
    if (capturing_ && stream == Stream::kCompute) {
      call();
    } else {
      queue_.push(stream, std::move(call));
    }
  }
  void check_not_captured(Stream stream) const {
    FG_CHECK(!capturing_ || stream != Stream::kCompute, static_cast<int>(stream));
  }
  // The wrapped backend's fence for the last of ours that was reached on a stream: never earlier than the one
  // meant.
  FenceId& inner_fence(Stream stream) { return inner_fences_[static_cast<std::size_t>(stream)]; }

  LateQueue queue_;
  bool capturing_ = false;
  const int num_false_polls_;
  int num_polls_ = 0;  // false ones since something was last forced
  FenceId inner_fences_[kNumStreams] = {};
};

bool LateBackend::passed(FenceId fence) {
  if (!queue_.reached(fence)) {
    if (num_polls_ < num_false_polls_) {
      ++num_polls_;
      return false;
    }
    FG_CHECK(!capturing_, fence);
    queue_.force(fence);
    num_polls_ = 0;
  }
  return fence == 0 || inner().passed(inner_fence(LateQueue::stream_of(fence)));
}

}  // namespace

std::unique_ptr<Backend> make_late_backend(std::unique_ptr<Backend> inner, std::uint64_t seed,
                                           int num_false_polls) {
  FG_CHECK(inner != nullptr && num_false_polls >= 0, num_false_polls);
  return std::make_unique<LateBackend>(std::move(inner), seed, num_false_polls);
}

}  // namespace fastgen
