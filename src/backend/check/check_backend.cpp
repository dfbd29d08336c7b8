#include "backend/check/check_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "backend/check/difference.h"
#include "backend/forwarding.h"
#include "base/check.h"
#include "fastgen/error.h"

namespace fastgen {
namespace {

// Logprobs of one distribution, given the same inputs: what the head product's rounding may change.
constexpr float kLogprobTolerance = 0.02f;
// Draws other than greedy may fall on the other side of a border; so many of them, and this share, are let pass.
constexpr std::int64_t kOtherDrawsMin = 2;
constexpr double kOtherDrawsShare = 0.02;

struct TwinWeight {
  Weight tested, reference;
};

class CheckBackend final : public ForwardingBackend {
 public:
  CheckBackend(std::unique_ptr<Backend> reference, std::unique_ptr<Backend> tested)
      : ForwardingBackend(std::move(tested)), reference_(std::move(reference)) {}

  std::string name() const override { return fmt::format("check:{}", inner().name()); }
  std::string device() const override { return fmt::format("{}, each op compared with {}", inner().device(), reference_->name()); }

  // ---- memory
  // What is on the card is in host memory once more.
  std::size_t free_bytes() const override { return std::min(inner().free_bytes(), reference_->free_bytes() / 2); }
  void* allocate(MemoryKind kind, std::size_t bytes) override {
    void* address = inner().allocate(kind, bytes);
    if (kind == MemoryKind::kDevice) twins_[static_cast<char*>(address)] = {bytes, static_cast<char*>(reference_->allocate(kind, bytes))};
    return address;
  }
  void reserve(const OpLimits& limits) override {
    inner().reserve(limits);
    reference_->reserve(limits);
    fetched_ = static_cast<char*>(inner().allocate(MemoryKind::kPinned, kFetchBytes));
    for (Tensor* tensor : {&one_id_, &one_top_id_}) *tensor = Tensor(nullptr, DType::kI32, {1, kSampleTop});
    for (Tensor* tensor : {&one_logprob_, &one_top_logprob_}) *tensor = Tensor(nullptr, DType::kF32, {1, kSampleTop});
    for (Tensor* tensor : {&one_id_, &one_top_id_, &one_logprob_, &one_top_logprob_})
      tensor->data = reference_->allocate(MemoryKind::kDevice, tensor->bytes());
  }
  void seal() override {
    inner().seal();
    reference_->seal();
  }
  Weight prepare_weights(WeightKind kind, DType dtype, std::span<const Tensor> parts, std::span<const FilePlace> places) override {
    return keep({inner().prepare_weights(kind, dtype, parts, places), reference_->prepare_weights(kind, dtype, parts, places)});
  }
  Weight prepare_random_weights(WeightKind kind, DType dtype, std::span<const RandomPart> parts) override {
    return keep({inner().prepare_random_weights(kind, dtype, parts), reference_->prepare_random_weights(kind, dtype, parts)});
  }

  // ---- order; the reference runs everything at once, in the order of the calls
  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override {
    inner().upload(stream, device, pinned, bytes);
    // What is paged in may still be on its way out of the device; then it is there when the tested one has read it.
    if (stream == Stream::kCopyIn) inner().host_wait(inner().record(stream));
    reference_->upload(stream, of_reference(device), pinned, bytes);
  }
  bool has_graphs() const override { return false; }

  // ---- ops
  void embed(Stream stream, const EmbedArgs& args) override {
    EmbedArgs tested = args, reference = args;
    tested.table = weight(args.table).tested;
    reference.table = weight(args.table).reference;
    for (Tensor* tensor : {&reference.token_ids, &reference.state_tokens, &reference.slots, &reference.out}) translate(*tensor);
    translate(reference.arena);
    inner().embed(stream, tested);
    reference_->embed(stream, reference);
    begin(stream, "embed", -1);
    compare("out", args.out);
    for (const std::int64_t block : blocks_of(reference.slots, args.arena))
      compare("token ids", args.arena.token_ids.slice(block * args.arena.layout.block_size, args.arena.layout.block_size));
  }
  void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps, Tensor out) override {
    inner().add_rms_norm(stream, residual, delta, weight, eps, out);
    reference_->add_rms_norm(stream, twin(residual), twin(delta), twin(weight), eps, twin(out));
    begin(stream, "add_rms_norm");
    if (delta) compare("residual", residual);
    compare("out", out);
  }
  void qkv_rope_store(Stream stream, const QkvArgs& args) override {
    QkvArgs tested = args, reference = args;
    tested.weight = weight(args.weight).tested;
    reference.weight = weight(args.weight).reference;
    for (Tensor* tensor : {&reference.x, &reference.bias, &reference.q_norm, &reference.k_norm, &reference.rope, &reference.positions,
                           &reference.slots, &reference.q_out})
      translate(*tensor);
    translate(reference.arena);
    inner().qkv_rope_store(stream, tested);
    reference_->qkv_rope_store(stream, reference);
    begin(stream, "qkv_rope_store", args.layer);
    compare("q", args.q_out);
    const KvLayout& layout = args.arena.layout;
    const std::int64_t half = layout.num_kv_heads * layout.tile_elements();
    for (const std::int64_t block : blocks_of(reference.slots, args.arena)) {
      compare("k", arena_part(args.arena, layout.tile_offset(block, args.layer, 0, 0), half));
      compare("v", arena_part(args.arena, layout.tile_offset(block, args.layer, 1, 0), half));
    }
  }
  void attend(Stream stream, const AttendArgs& args) override {
    AttendArgs reference = args;
    for (Tensor* tensor : {&reference.q, &reference.batch.query_start, &reference.batch.context_len, &reference.batch.block_table, &reference.out})
      translate(*tensor);
    translate(reference.arena);
    inner().attend(stream, args);
    reference_->attend(stream, reference);
    begin(stream, "attend", args.layer);
    compare("out", args.out);
  }
  void linear(Stream stream, Tensor x, const Weight& w, Tensor bias, Tensor out) override {
    inner().linear(stream, x, weight(w).tested, bias, out);
    reference_->linear(stream, twin(x), weight(w).reference, twin(bias), twin(out));
    begin(stream, "linear");
    compare("out", out);
  }
  void linear_add(Stream stream, Tensor x, const Weight& w, Tensor bias, Tensor residual) override {
    inner().linear_add(stream, x, weight(w).tested, bias, residual);
    reference_->linear_add(stream, twin(x), weight(w).reference, twin(bias), twin(residual));
    begin(stream, "linear_add");
    compare("residual", residual);
  }
  void gate_up_silu(Stream stream, Tensor x, const Weight& w, Tensor out) override {
    inner().gate_up_silu(stream, x, weight(w).tested, out);
    reference_->gate_up_silu(stream, twin(x), weight(w).reference, twin(out));
    begin(stream, "gate_up_silu");
    compare("out", out);
  }
  void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) override {
    inner().gather_rows(stream, x, rows, out);
    reference_->gather_rows(stream, twin(x), twin(rows), twin(out));
    begin(stream, "gather_rows");
    compare("out", out);
  }
  void logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena, Tensor ids,
                     const LogprobOutput& out) override;
  void token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids, std::int32_t num_top, const LogprobOutput& out) override {
    inner().token_logprobs(stream, x, weight(head).tested, ids, num_top, out);
    reference_->token_logprobs(stream, twin(x), weight(head).reference, twin(ids), num_top, twin(out));
    begin(stream, "token_logprobs");
    compare("logprobs", out.logprobs);
    if (num_top <= 0) return;
    const std::vector<char> top = fetch(out.top_logprobs);
    for (std::int64_t row = 0; row < ids.rows(); ++row) compare_tops(row, num_top, top, out);
    copy_to_reference(out.top_ids);
    copy_to_reference(out.top_logprobs);
  }
  void fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) override {
    inner().fill_table(stream, entries, starts, table);
    reference_->fill_table(stream, twin(entries), twin(starts), twin(table));
    begin(stream, "fill_table");
    compare("table", table);
  }
  void copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) override {
    KvArena reference = arena;
    translate(reference);
    inner().copy_blocks(stream, arena, pairs);
    reference_->copy_blocks(stream, reference, twin(pairs));
    begin(stream, "copy_blocks");
    const std::int32_t* pair = twin(pairs).as<std::int32_t>();
    for (std::int64_t i = 0; i < pairs.rows(); ++i) {
      const std::int64_t to = pair[2 * i + 1], elements = arena.layout.block_elements();
      compare("block", arena_part(arena, to * elements, elements));
      compare("token ids", arena.token_ids.slice(to * arena.layout.block_size, arena.layout.block_size));
    }
  }

 private:
  static constexpr std::size_t kFetchBytes = std::size_t{4} << 20;
  struct Twin {
    std::size_t bytes = 0;
    char* reference = nullptr;
  };

  // ---- what belongs to what
  Weight keep(const TwinWeight& both) {
    weights_.push_back(both);
    Weight out = both.tested;
    out.handle = &weights_.back();
    return out;
  }
  static const TwinWeight& weight(const Weight& weight) { return *static_cast<const TwinWeight*>(weight.handle); }
  char* of_reference(const void* address) const {
    const char* place = static_cast<const char*>(address);
    auto at = twins_.upper_bound(place);
    FG_CHECK(at != twins_.begin());
    --at;
    const std::ptrdiff_t offset = place - at->first;
    FG_CHECK(offset <= static_cast<std::ptrdiff_t>(at->second.bytes), offset, at->second.bytes);
    return at->second.reference + offset;
  }
  Tensor twin(Tensor tensor) const {
    if (tensor.data != nullptr) tensor.data = of_reference(tensor.data);
    return tensor;
  }
  LogprobOutput twin(const LogprobOutput& out) const { return {twin(out.logprobs), twin(out.top_ids), twin(out.top_logprobs)}; }
  void translate(Tensor& tensor) const { tensor = twin(tensor); }
  void translate(KvArena& arena) const {
    arena.data = of_reference(arena.data);
    translate(arena.token_ids);
  }
  // Blocks that the slots lie in. The slots are the reference's, which the host may read.
  static std::set<std::int64_t> blocks_of(const Tensor& slots, const KvArena& arena) {
    std::set<std::int64_t> blocks;
    for (std::int64_t i = 0; i < slots.rows(); ++i)
      if (const std::int32_t slot = slots.as<std::int32_t>()[i]; slot >= 0) blocks.insert(slot / arena.layout.block_size);
    return blocks;
  }
  static Tensor arena_part(const KvArena& arena, std::int64_t first, std::int64_t elements) {
    return {static_cast<char*>(arena.data) + static_cast<std::size_t>(first) * dtype_bytes(arena.dtype), arena.dtype, {elements}};
  }

  // ---- comparing
  void begin(Stream stream, const char* op, std::int32_t layer) {
    stream_ = stream;
    place_ = layer < 0 ? op : fmt::format("{} of layer {}", op, layer);
    last_place_ = place_;
  }
  void begin(Stream stream, const char* op) {
    stream_ = stream;
    place_ = fmt::format("{} (after {})", op, last_place_);
  }
  [[noreturn]] void fail(const std::string& tensor, const std::string& what) const {
    throw Error(fmt::format("--backend check: {} differs from {} first in {}, {}: {}", inner().name(), reference_->name(), place_, tensor, what));
  }
  // The tested tensor's bytes, in pieces through pinned memory.
  std::vector<char> fetch(const Tensor& tested) {
    std::vector<char> bytes(tested.bytes());
    for (std::size_t first = 0; first < bytes.size(); first += kFetchBytes) {
      const std::size_t count = std::min(kFetchBytes, bytes.size() - first);
      inner().download(stream_, fetched_, static_cast<char*>(tested.data) + first, count);
      inner().host_wait(inner().record(stream_));
      std::memcpy(bytes.data() + first, fetched_, count);
    }
    return bytes;
  }
  void copy_to_reference(const Tensor& tested) {
    const std::vector<char> bytes = fetch(tested);
    if (!bytes.empty()) std::memcpy(of_reference(tested.data), bytes.data(), bytes.size());
  }
  // Equal within tolerance, or the run ends. The reference goes on with the tested one's values.
  void compare(const char* name, const Tensor& tested) {
    if (!tested || tested.elements() == 0) return;
    std::vector<char> bytes = fetch(tested);
    Tensor host = tested;
    host.data = bytes.data();
    const Difference found = difference_of(twin(tested), host);
    if (found.num_beyond > 0) fail(name, found.text());
    std::memcpy(of_reference(tested.data), bytes.data(), bytes.size());
  }
  // Ids of equal logprob may come in any order, so that only the values count.
  void compare_tops(std::int64_t row, std::int32_t num_top, const std::vector<char>& tested, const LogprobOutput& out) const {
    const float* a = twin(out.top_logprobs).as<float>() + row * kSampleTop;
    const float* b = reinterpret_cast<const float*>(tested.data()) + row * kSampleTop;
    for (std::int32_t i = 0; i < num_top; ++i)
      if (!(std::abs(a[i] - b[i]) <= kLogprobTolerance) && a[i] != b[i])
        fail("top logprobs", fmt::format("row {}, place {}: {} against {}, allowed {}", row, i, a[i], b[i], kLogprobTolerance));
  }
  float reference_logprob(Tensor x, const Weight& head, std::int64_t row, std::int32_t id);
  void check_draw(const SampleRow& row, std::int64_t row_idx, std::int32_t reference_id, std::int32_t tested_id, Tensor x, const Weight& head);

  std::unique_ptr<Backend> reference_;
  std::map<const char*, Twin> twins_;  // by the tested buffer's address
  std::deque<TwinWeight> weights_;     // handles point here
  char* fetched_ = nullptr;            // pinned, kFetchBytes
  Tensor one_id_, one_logprob_, one_top_id_, one_top_logprob_;  // the reference's
  Stream stream_ = Stream::kCompute;
  std::string place_, last_place_ = "the start";
  std::int64_t num_draws_ = 0, num_other_draws_ = 0;
};

float CheckBackend::reference_logprob(Tensor x, const Weight& head, std::int64_t row, std::int32_t id) {
  one_id_.as<std::int32_t>()[0] = id;
  reference_->token_logprobs(stream_, twin(x).slice(row, 1), weight(head).reference, Tensor(one_id_.data, DType::kI32, {1}), 0,
                             {Tensor(one_logprob_.data, DType::kF32, {1}), one_top_id_, one_top_logprob_});
  return one_logprob_.as<float>()[0];
}

// Another id is right where the two are as likely as each other within rounding (greedy), or seldom.
void CheckBackend::check_draw(const SampleRow& row, std::int64_t row_idx, std::int32_t reference_id, std::int32_t tested_id, Tensor x,
                              const Weight& head) {
  ++num_draws_;
  if (tested_id == reference_id) return;
  const float reference = reference_logprob(x, head, row.logits_row, reference_id), tested = reference_logprob(x, head, row.logits_row, tested_id);
  const bool is_plain = row.temperature == 0 && !row.has_penalties() && row.bias_count == 0;
  const std::string what = fmt::format("row {}: id {} (logprob {}) against {} ({})", row_idx, reference_id, reference, tested_id, tested);
  if (is_plain && !(std::abs(reference - tested) <= 2 * kLogprobTolerance)) fail("ids", what);
  ++num_other_draws_;
  const auto let_pass = std::max(kOtherDrawsMin, static_cast<std::int64_t>(kOtherDrawsShare * static_cast<double>(num_draws_)));
  if (!is_plain && num_other_draws_ > let_pass) fail("ids", fmt::format("{}; {} of {} draws differ", what, num_other_draws_, num_draws_));
}

void CheckBackend::logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena, Tensor ids,
                                 const LogprobOutput& out) {
  SampleBatch reference = batch;
  for (Tensor* tensor : {&reference.rows, &reference.bias_ids, &reference.bias_values, &reference.block_table, &reference.state_tokens})
    translate(*tensor);
  KvArena reference_arena = arena;
  translate(reference_arena);
  inner().logits_sample(stream, x, weight(head).tested, batch, arena, ids, out);
  reference_->logits_sample(stream, twin(x), weight(head).reference, reference, reference_arena, twin(ids), twin(out));
  begin(stream, "logits_sample");
  const std::vector<char> id_bytes = fetch(ids), logprob_bytes = fetch(out.logprobs), tops = fetch(out.top_logprobs);
  const auto* tested_ids = reinterpret_cast<const std::int32_t*>(id_bytes.data());
  const auto* tested_logprobs = reinterpret_cast<const float*>(logprob_bytes.data());
  std::int32_t* reference_ids = twin(ids).as<std::int32_t>();
  const SampleRow* rows = static_cast<const SampleRow*>(reference.rows.data);
  for (std::int64_t i = 0; i < batch.rows.rows(); ++i) {
    const SampleRow& row = rows[i];
    if (row.state_slot < 0) continue;
    check_draw(row, i, reference_ids[i], tested_ids[i], x, head);
    if (row.num_top >= 0 && reference_ids[i] == tested_ids[i]) {
      const float a = twin(out.logprobs).as<float>()[i], b = tested_logprobs[i];
      if (!(std::abs(a - b) <= kLogprobTolerance)) fail("logprobs", fmt::format("row {}: {} against {}, allowed {}", i, a, b, kLogprobTolerance));
    }
    compare_tops(i, row.num_top, tops, out);
    reference_ids[i] = tested_ids[i];
    reference.state_tokens.as<std::int32_t>()[row.state_slot] = tested_ids[i];
  }
  compare("state tokens", batch.state_tokens);
}

}  // namespace

std::unique_ptr<Backend> make_check_backend(std::unique_ptr<Backend> reference, std::unique_ptr<Backend> tested) {
  FG_CHECK(reference != nullptr && tested != nullptr);
  return std::make_unique<CheckBackend>(std::move(reference), std::move(tested));
}

}  // namespace fastgen
