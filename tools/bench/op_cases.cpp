#include "bench/op_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <sstream>

#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

constexpr Stream kStream = Stream::kCompute;
constexpr std::int64_t kMaxLayers = 4096;    // of a small arena that must not fit in a cache
constexpr std::int64_t kSampleDim = 64;      // of the head product before sampling
constexpr std::int32_t kHistory = 256;       // tokens that penalties count

std::int32_t positive(std::string_view text, const char* flag, const std::string& whole) {
  std::int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1)
    throw Error(fmt::format("{} {}: \"{}\" is not a positive number", flag, whole, text));
  return value;
}

// Before and behind the first `mark`; the second is empty without one.
std::pair<std::string, std::string> split(const std::string& text, char mark) {
  const std::size_t at = text.find(mark);
  return at == std::string::npos ? std::pair{text, std::string()} : std::pair{text.substr(0, at), text.substr(at + 1)};
}

OpLimits limits_of(const ModelShape& s, std::int64_t num_tokens, std::int64_t num_seqs, std::int64_t table_width) {
  return {.max_tokens = num_tokens, .max_seqs = num_seqs, .max_logit_rows = num_seqs, .max_sample_rows = num_seqs,
          .max_blocks_per_seq = table_width, .model_dim = s.model_dim, .num_heads = s.num_heads, .num_kv_heads = s.num_kv_heads,
          .head_dim = s.head_dim, .ffn_dim = s.ffn_dim, .vocab = s.vocab};
}

KvArena make_arena(Lab& lab, const ModelShape& shape, std::int64_t num_blocks, std::int64_t num_layers, std::int32_t block_size) {
  KvArena arena;
  arena.dtype = lab.types().kv;
  arena.layout = {std::int32_t(num_layers), shape.num_kv_heads, block_size, shape.head_dim};
  arena.num_blocks = num_blocks;
  arena.data = lab.random(arena.dtype, {num_blocks, arena.layout.block_elements()}).data;
  arena.token_ids = lab.zeros(DType::kI32, {num_blocks * block_size});
  return arena;
}

// Attention over an arena of several layers, one after the other, so that the caches are cold.
class AttentionBench {
 public:
  AttentionBench(const OpSettings& settings, std::vector<std::int32_t> contexts, std::int32_t num_query, bool decodes)
      : settings_(settings), lab_(settings.lab), contexts_(std::move(contexts)), num_query_(num_query), decodes_(decodes) {
    make_tables();
    lab_.backend().reserve(limits_of(settings_.shape, num_tokens(), num_seqs(), table_width_));
    const std::int64_t tokens = std::accumulate(contexts_.begin(), contexts_.end(), std::int64_t{0});
    kv_bytes_ = 2.0 * double(settings_.shape.kv_dim()) * double(dtype_bytes(lab_.types().kv)) * double(tokens);
    num_layers_ = std::max<std::int64_t>(2, lab_.num_sets(kv_bytes_, kMaxLayers));
    arena_ = make_arena(lab_, settings_.shape, num_blocks_, num_layers_, settings_.block_size);
  }

  Timing time() {
    const ModelShape& s = settings_.shape;
    const Tensor q = lab_.random(lab_.types().product, {num_tokens(), s.num_heads, s.head_dim});
    const Tensor out = lab_.zeros(lab_.types().product, {num_tokens(), s.q_dim()});
    const AttendBatch batch = make_batch();
    const auto op = [&](std::int64_t call) {
      lab_.backend().attend(kStream, {q, batch, arena_, std::int32_t(call % num_layers_), s.window,
                                      1 / std::sqrt(float(s.head_dim)), out});
    };
    return lab_.time(op, num_layers_);
  }

  // One layer's.
  Work work() const {
    ModelShape one = settings_.shape;
    one.num_layers = 1;
    Work work;
    for (std::int32_t context : contexts_) {
      const double seen = seen_tokens(one, context - num_query_, num_query_);
      const double read = one.window > 0 ? std::min(context, one.window + num_query_ - 1) : context;
      work += attention_work(one, seen, read, arena_.dtype);
    }
    work.bytes += 2.0 * double(num_tokens() * one.q_dim()) * double(dtype_bytes(settings_.lab.dtype == "float32" ? DType::kF32 : DType::kBF16));
    return work;
  }

 private:
  std::int64_t num_seqs() const { return std::int64_t(contexts_.size()); }
  std::int64_t num_tokens() const { return num_seqs() * num_query_; }
  std::int64_t blocks_of(std::int64_t tokens) const { return (tokens + settings_.block_size - 1) / settings_.block_size; }

  void make_tables() {
    const std::int32_t longest = std::max(*std::max_element(contexts_.begin(), contexts_.end()), settings_.table_tokens);
    table_width_ = blocks_of(longest);
    for (std::int32_t context : contexts_) num_blocks_ += blocks_of(context);
    std::vector<std::int32_t> order(static_cast<std::size_t>(num_blocks_));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(3));
    table_.assign(static_cast<std::size_t>(num_seqs() * table_width_), 0);
    std::size_t next = 0;
    for (std::size_t seq = 0; seq < contexts_.size(); ++seq)
      for (std::int64_t i = 0; i < blocks_of(contexts_[seq]); ++i)
        table_[seq * std::size_t(table_width_) + std::size_t(i)] = order[next++];
  }

  AttendBatch make_batch() {
    std::vector<std::int32_t> starts;
    for (std::int32_t i = 0; i <= std::int32_t(num_seqs()); ++i) starts.push_back(i * num_query_);
    return {.query_start = lab_.ints(starts, {num_seqs() + 1}),
            .context_len = lab_.ints(contexts_, {num_seqs()}),
            .block_table = lab_.ints(table_, {num_seqs(), table_width_}),
            .num_decode_seqs = decodes_ ? std::int32_t(num_seqs()) : 0,
            .num_query = 1};
  }

  const OpSettings& settings_;
  Lab lab_;
  std::vector<std::int32_t> contexts_, table_;
  std::int32_t num_query_;
  bool decodes_;
  std::int64_t table_width_ = 0, num_blocks_ = 0, num_layers_ = 0;
  double kv_bytes_ = 0;
  KvArena arena_;
};

// One matrix of the model, in as many copies as keep the caches cold.
class ProductBench {
 public:
  ProductBench(const OpSettings& settings, std::string matrix, std::int64_t num_rows)
      : settings_(settings), lab_(settings.lab), matrix_(std::move(matrix)), rows_(num_rows) {
    const ModelShape& s = settings_.shape;
    if (matrix_ == "qkv") parts_ = {{s.q_dim(), s.model_dim}, {s.kv_dim(), s.model_dim}, {s.kv_dim(), s.model_dim}};
    if (matrix_ == "o") parts_ = {{s.model_dim, s.q_dim()}};
    if (matrix_ == "gate-up") parts_ = {{s.ffn_dim, s.model_dim}, {s.ffn_dim, s.model_dim}};
    if (matrix_ == "down") parts_ = {{s.model_dim, s.ffn_dim}};
    if (matrix_ == "head") parts_ = {{s.vocab, s.model_dim}};
    if (parts_.empty()) throw Error(fmt::format("--matrices {}: the choices are {}", matrix_, fmt::join(kMatrices, ", ")));
    const WeightKind kind = matrix_ == "qkv" ? WeightKind::kQkv : matrix_ == "gate-up" ? WeightKind::kGateUp : WeightKind::kLinear;
    weights_ = lab_.weights(kind, parts_, lab_.num_sets(weight_bytes()));
    lab_.backend().reserve(limits_of(s, rows_, rows_, 1));  // after the weights, as an engine does: a backend may time them then
    x_ = lab_.random(lab_.types().product, {rows_, in_dim()});
  }

  Timing time() {
    if (matrix_ == "qkv") return time_qkv();
    const bool is_gate_up = matrix_ == "gate-up";
    const Tensor out = lab_.zeros(is_gate_up ? lab_.types().product : lab_.types().residual, {rows_, is_gate_up ? out_dim() / 2 : out_dim()});
    const auto op = [&](std::int64_t call) {
      const Weight& weight = weights_[std::size_t(call) % weights_.size()];
      if (is_gate_up) lab_.backend().gate_up_silu(kStream, x_, weight, out);
      else if (matrix_ == "head") lab_.backend().linear(kStream, x_, weight, Tensor(), out);
      else lab_.backend().linear_add(kStream, x_, weight, Tensor(), out);
    };
    return lab_.time(op, std::int64_t(weights_.size()));
  }

  // Rows in and out once, weights once. The residual of linear_add is read too.
  Work work() {
    const double in_bytes = double(x_.bytes()), wide = double(dtype_bytes(lab_.types().residual)), narrow = double(dtype_bytes(x_.dtype));
    double out_bytes = double(rows_ * out_dim()) * narrow;
    if (matrix_ == "gate-up") out_bytes /= 2;
    if (matrix_ == "head") out_bytes = double(rows_ * out_dim()) * wide;
    if (matrix_ == "o" || matrix_ == "down") out_bytes = 2 * double(rows_ * out_dim()) * wide;
    return {.flops = 2 * double(rows_) * double(out_dim()) * double(in_dim()), .bytes = weight_bytes() + in_bytes + out_bytes};
  }

 private:
  std::int64_t in_dim() const { return parts_[0].second; }
  std::int64_t out_dim() const {
    std::int64_t sum = 0;
    for (const auto& part : parts_) sum += part.first;
    return sum;
  }
  double weight_bytes() const { return double(out_dim() * in_dim()) * double(dtype_bytes(lab_.dtype())); }

  Timing time_qkv() {
    const ModelShape& s = settings_.shape;
    const std::int64_t num_blocks = (rows_ + settings_.block_size - 1) / settings_.block_size;
    std::vector<std::int32_t> places(static_cast<std::size_t>(rows_));
    std::iota(places.begin(), places.end(), 0);
    QkvArgs args;
    args.x = x_;
    args.rope = lab_.random(DType::kF32, {rows_, s.head_dim});
    args.positions = args.slots = lab_.ints(places, {rows_});
    args.arena = make_arena(lab_, s, num_blocks, 1, settings_.block_size);
    args.q_out = lab_.zeros(lab_.types().product, {rows_, s.num_heads, s.head_dim});
    const auto op = [&](std::int64_t call) {
      args.weight = weights_[std::size_t(call) % weights_.size()];
      lab_.backend().qkv_rope_store(kStream, args);
    };
    return lab_.time(op, std::int64_t(weights_.size()));
  }

  const OpSettings& settings_;
  Lab lab_;
  std::string matrix_;
  std::int64_t rows_;
  std::vector<std::pair<std::int64_t, std::int64_t>> parts_;
  std::vector<Weight> weights_;
  Tensor x_;
};

SampleRow sample_row(const std::string& draw, std::int32_t idx) {
  SampleRow row;
  row.logits_row = row.state_slot = row.table_row = idx;
  row.history_len = kHistory;
  row.prompt_len = kHistory / 2;
  row.seed = std::uint64_t(idx) * 7919;
  row.temperature = draw == "greedy" ? 0.0f : 0.8f;
  if (draw == "top-k") row.top_k = 50;
  if (draw == "top-p") row.top_p = 0.95f;
  if (draw == "penalties") row.repetition_penalty = 1.1f, row.frequency_penalty = 0.1f;
  if (std::find(std::begin(kDraws), std::end(kDraws), draw) == std::end(kDraws))
    throw Error(fmt::format("--draws {}: the choices are {}", draw, fmt::join(kDraws, ", ")));
  return row;
}

}  // namespace

Lengths parse_lengths(const std::string& text) {
  Lengths lengths{.text = text, .contexts = {}};
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, ',');) {
    const auto [count, context] = split(part, 'x');
    const std::int32_t times = positive(count, "--lengths", text), tokens = positive(context, "--lengths", text);
    if (times > 65536) throw Error(fmt::format("--lengths {}: more than 65536 sequences", text));
    lengths.contexts.insert(lengths.contexts.end(), std::size_t(times), tokens);
  }
  if (lengths.contexts.empty()) throw Error(fmt::format("--lengths {}: needs something like 8x8192,56x90", text));
  return lengths;
}

Chunks parse_chunks(const std::string& text) {
  const auto [count, rest] = split(text, 'x');
  const auto [rows, context] = split(rest, ':');
  Chunks chunks{.text = text, .count = positive(count, "--chunks", text), .rows = positive(rows, "--chunks", text), .context = 0};
  chunks.context = context.empty() ? chunks.rows : positive(context, "--chunks", text);
  if (chunks.context < chunks.rows) throw Error(fmt::format("--chunks {}: the context holds the rows, it cannot be shorter", text));
  return chunks;
}

OpResult decode_attention(const OpSettings& settings, const Lengths& lengths) {
  AttentionBench bench(settings, lengths.contexts, 1, true);
  return {"decode-attention", lengths.text, bench.time(), bench.work()};
}

OpResult prefill_attention(const OpSettings& settings, const Chunks& chunks) {
  AttentionBench bench(settings, std::vector<std::int32_t>(std::size_t(chunks.count), chunks.context), chunks.rows, false);
  return {"prefill-attention", chunks.text, bench.time(), bench.work()};
}

OpResult product(const OpSettings& settings, const std::string& matrix, std::int64_t num_rows) {
  ProductBench bench(settings, matrix, num_rows);
  return {"products", fmt::format("{} of {}", matrix, num_rows), bench.time(), bench.work()};
}

OpResult sampling(const OpSettings& settings, const std::string& draw, std::int64_t num_rows) {
  std::vector<SampleRow> rows;
  for (std::int32_t i = 0; i < std::int32_t(num_rows); ++i) rows.push_back(sample_row(draw, i));
  Lab lab(settings.lab);
  ModelShape shape = settings.shape;
  shape.model_dim = kSampleDim;
  const std::int64_t width = (kHistory + settings.block_size - 1) / settings.block_size;
  lab.backend().reserve(limits_of(shape, num_rows, num_rows, width));
  const Weight head = lab.weights(WeightKind::kHead, {{shape.vocab, kSampleDim}}, 1)[0];
  const KvArena arena = make_arena(lab, shape, num_rows * width, 1, settings.block_size);
  std::vector<std::int32_t> table(static_cast<std::size_t>(num_rows * width));
  std::iota(table.begin(), table.end(), 0);
  const SampleBatch batch{.rows = lab.zeros(DType::kU8, {num_rows, std::int64_t(sizeof(SampleRow))}),
                          .bias_ids = lab.zeros(DType::kI32, {1}),
                          .bias_values = lab.zeros(DType::kF32, {1}),
                          .block_table = lab.ints(table, {num_rows, width}),
                          .state_tokens = lab.zeros(DType::kI32, {num_rows})};
  lab.upload(batch.rows, rows.data());
  const LogprobOutput out{lab.zeros(DType::kF32, {num_rows}), lab.zeros(DType::kI32, {num_rows, kSampleTop}),
                          lab.zeros(DType::kF32, {num_rows, kSampleTop})};
  const Tensor x = lab.random(lab.types().product, {num_rows, kSampleDim}), ids = lab.zeros(DType::kI32, {num_rows});
  const auto op = [&](std::int64_t) { lab.backend().logits_sample(kStream, x, head, batch, arena, ids, out); };
  // Logits are written by the product and read once by the draw.
  const double logits_bytes = 4.0 * double(num_rows) * shape.vocab;
  return {"sampling", fmt::format("{} of {}", draw, num_rows), lab.time(op, 1),
          {.flops = 2.0 * double(num_rows) * shape.vocab * kSampleDim, .bytes = 2 * logits_bytes}};
}

OpResult norm(const OpSettings& settings, std::int64_t num_rows) {
  Lab lab(settings.lab);
  const ModelShape& s = settings.shape;
  lab.backend().reserve(limits_of(s, num_rows, num_rows, 1));
  const ActivationTypes types = lab.types();
  const std::int64_t elements = num_rows * s.model_dim;
  // Residual read and written, delta read, the result written.
  const double bytes = double(elements) * (3 * double(dtype_bytes(types.residual)) + double(dtype_bytes(types.product)));
  const std::int64_t num_sets = lab.num_sets(bytes), all = num_sets * num_rows;
  const Tensor residual = lab.random(types.residual, {all, s.model_dim}), delta = lab.random(types.residual, {all, s.model_dim}),
               out = lab.zeros(types.product, {all, s.model_dim}), weight = lab.random(DType::kF32, {s.model_dim});
  const auto op = [&](std::int64_t call) {
    const std::int64_t first = call % num_sets * num_rows;
    lab.backend().add_rms_norm(kStream, residual.slice(first, num_rows), delta.slice(first, num_rows), weight, 1e-5f,
                               out.slice(first, num_rows));
  };
  return {"norm", fmt::format("{} rows", num_rows), lab.time(op, num_sets), {.flops = 0, .bytes = bytes}};
}

}  // namespace fastgen::bench
