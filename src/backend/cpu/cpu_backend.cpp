#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>

#include "backend/cpu/attention.h"
#include "backend/cpu/cpu_info.h"
#include "backend/cpu/packed_matrix.h"
#include "backend/cpu/random_fill.h"
#include "backend/cpu/row_ops.h"
#include "backend/cpu/sampling.h"
#include "backend/cpu/thread_pool.h"
#include "backend/cpu/workspace.h"
#include "backend/host_backend.h"
#include "base/check.h"
#include "fastgen/error.h"

namespace fastgen {

namespace {

// Rows of logits held at once: 64 rows of 49,152 are 12.6 MB.
constexpr std::int64_t kLogitChunk = 64;
// Elements of work below which waking the other threads costs more than it saves.
constexpr std::int64_t kSerialElements = 8192;

char* row_address(const Tensor& tensor, std::int64_t row) {
  return static_cast<char*>(tensor.data) + static_cast<std::size_t>(row * tensor.row_elements()) * dtype_bytes(tensor.dtype);
}

const PackedMatrix& matrix_of(const Weight& weight) {
  FG_CHECK(weight.handle != nullptr, static_cast<int>(weight.kind));
  return *static_cast<const PackedMatrix*>(weight.handle);
}

const float* floats_or_null(const Tensor& tensor) { return tensor ? tensor.as<float>() : nullptr; }

class CpuBackend final : public HostBackend {
 public:
  CpuBackend(int num_threads, const ProductTuning& tuning)
      : pool_(num_threads), workspace_(num_threads), tuning_(tuning) {}

  std::string name() const override { return "cpu"; }
  std::string device() const override {
    return fmt::format("{}, {} thread{}, {}", cpu_name(), pool_.num_threads(), pool_.num_threads() == 1 ? "" : "s",
                       cpu_features_text());
  }
  ActivationTypes activation_types(DType model_dtype) const override {
    const DType product = model_dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
    return {DType::kF32, product, product};
  }

  void reserve(const OpLimits& limits) override;
  std::size_t workspace_bytes(const OpLimits& limits) const override;
  void seal() override {
    HostBackend::seal();
    workspace_.seal();
  }
  Weight prepare_weights(WeightKind kind, DType dtype, std::span<const Tensor> parts, std::span<const FilePlace> places) override;
  Weight prepare_random_weights(WeightKind kind, DType dtype, std::span<const RandomPart> parts) override;

  void embed(Stream stream, const EmbedArgs& args) override {
    calls_.run(stream, [=, this] { run_embed(args); });
  }
  void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps, Tensor out) override {
    calls_.run(stream, [=, this] { run_add_rms_norm(residual, delta, weight, eps, out); });
  }
  void qkv_rope_store(Stream stream, const QkvArgs& args) override {
    calls_.run(stream, [=, this] { run_qkv(args); });
  }
  void attend(Stream stream, const AttendArgs& args) override {
    calls_.run(stream, [=, this] { fastgen::attend(pool_, workspace_, tuning_.native_bf16, args); });
  }
  void linear(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor out) override {
    calls_.run(stream, [=, this] { run_linear(Epilogue::kStore, x, weight, bias, out); });
  }
  void linear_add(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor residual) override {
    calls_.run(stream, [=, this] { run_linear(Epilogue::kAdd, x, weight, bias, residual); });
  }
  void gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) override {
    calls_.run(stream, [=, this] { run_linear(Epilogue::kSiluMul, x, weight, Tensor(), out); });
  }
  void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) override {
    calls_.run(stream, [=] { run_gather_rows(x, rows, out); });
  }
  void logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena,
                     Tensor ids, const LogprobOutput& out) override {
    calls_.run(stream, [=, this] { run_logits_sample(x, head, batch, arena, ids, out); });
  }
  void token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids, std::int32_t num_top,
                      const LogprobOutput& out) override {
    calls_.run(stream, [=, this] { run_token_logprobs(x, head, ids, num_top, out); });
  }

 private:
  // body(row, thread_idx) for rows [0, n), on all threads where the work is worth it.
  template <typename Body>
  void for_rows(std::int64_t n, std::int64_t elements_per_row, const Body& body) {
    if (n * elements_per_row < kSerialElements) {
      for (std::int64_t row = 0; row < n; ++row) body(row, 0);
      return;
    }
    const std::int64_t grain = std::max<std::int64_t>(1, n / (4 * pool_.num_threads()));
    pool_.parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t row = begin; row < end; ++row) body(row, thread);
    });
  }

  void run_embed(const EmbedArgs& args);
  void run_add_rms_norm(Tensor residual, Tensor delta, Tensor weight, float eps, Tensor out);
  void run_qkv(const QkvArgs& args);
  void finish_qkv_row(const QkvArgs& args, float* row, std::int64_t row_idx);
  void run_linear(Epilogue epilogue, Tensor x, const Weight& weight, Tensor bias, Tensor out);
  static void run_gather_rows(Tensor x, Tensor rows, Tensor out);
  void run_logits_sample(Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena, Tensor ids,
                         const LogprobOutput& out);
  void sample_row(const SampleRow& row, std::int64_t row_idx, const float* logits, std::int64_t vocab,
                  const SampleBatch& batch, const KvArena& arena, Tensor ids, const LogprobOutput& out, int thread);
  void run_token_logprobs(Tensor x, const Weight& head, Tensor ids, std::int32_t num_top, const LogprobOutput& out);
  float* head_product(Tensor x, const Weight& head, std::int64_t first, std::int64_t count);

  ThreadPool pool_;
  Workspace workspace_;
  const ProductTuning tuning_;
  std::deque<PackedMatrix> matrices_;  // handles point here
};

void CpuBackend::reserve(const OpLimits& limits) {
  const std::int64_t qkv = std::int64_t{limits.num_heads + 2 * limits.num_kv_heads} * limits.head_dim;
  workspace_.qkv.get<float>(limits.max_tokens * qkv);
  workspace_.logits.get<float>(kLogitChunk * limits.vocab);
  reserve_attention(workspace_, limits);
  const std::int64_t widest =
      std::max<std::int64_t>({limits.model_dim, limits.ffn_dim, limits.num_heads * limits.head_dim});
  for (ThreadScratch& thread : workspace_.threads) {
    thread.product.get<float>(product_scratch_floats(widest));
    thread.sampling.get<float>(sample_scratch_floats(limits.vocab));
    thread.marks.get<std::int32_t>(limits.vocab);
  }
}

// The two large ones; what a thread needs is a few times the vocabulary.
std::size_t CpuBackend::workspace_bytes(const OpLimits& limits) const {
  const std::int64_t qkv = std::int64_t{limits.num_heads + 2 * limits.num_kv_heads} * limits.head_dim;
  const std::int64_t per_thread = 4 * std::int64_t{limits.vocab};
  return sizeof(float) * static_cast<std::size_t>(limits.max_tokens * qkv + kLogitChunk * limits.vocab + pool_.num_threads() * per_thread);
}

// A part that lies in a file is its mapping, whose pages come as they are packed: sooner if the kernel knows.
Weight CpuBackend::prepare_weights(WeightKind kind, DType dtype, std::span<const Tensor> parts, std::span<const FilePlace> places) {
  FG_CHECK(!sealed_, static_cast<int>(kind));
  for (std::size_t i = 0; i < places.size(); ++i)
    if (places[i].descriptor >= 0)
      posix_fadvise(places[i].descriptor, static_cast<off_t>(places[i].offset), static_cast<off_t>(parts[i].bytes()), POSIX_FADV_WILLNEED);
  PackedMatrix matrix = packed_shape(kind, dtype, parts);
  matrix.data = memory_.allocate(matrix.bytes());
  pack(pool_, parts, matrix);
  matrices_.push_back(matrix);
  return {&matrices_.back(), kind, dtype, matrix.out_dim, matrix.in_dim};
}

// What is filled at once is one part, in host memory, until it is packed.
Weight CpuBackend::prepare_random_weights(WeightKind kind, DType dtype, std::span<const RandomPart> parts) {
  constexpr std::int64_t kGrain = 1 << 16;  // a multiple of 4, as fill_random wants it
  std::vector<std::unique_ptr<std::byte[]>> buffers;
  std::vector<Tensor> tensors;
  for (const RandomPart& part : parts) {
    Tensor& tensor = tensors.emplace_back(nullptr, dtype, std::initializer_list<std::int64_t>{part.rows, part.columns});
    buffers.push_back(std::make_unique_for_overwrite<std::byte[]>(tensor.bytes()));
    tensor.data = buffers.back().get();
    const std::int64_t count = tensor.elements();
    pool_.parallel_for((count + kGrain - 1) / kGrain, 1, [&](std::int64_t begin, std::int64_t end, int) {
      const std::int64_t first = begin * kGrain, last = std::min(end * kGrain, count);
      if (dtype == DType::kF32) {
        fill_random(part.seed, part.stream, first, last, tensor.as<float>());
      } else {
        fill_random(part.seed, part.stream, first, last, tensor.as<std::uint16_t>());
      }
    });
  }
  return prepare_weights(kind, dtype, tensors, {});
}

void CpuBackend::run_embed(const EmbedArgs& args) {
  const PackedMatrix& table = matrix_of(args.table);
  FG_CHECK(args.out.dtype == DType::kF32 && args.out.row_elements() == table.in_dim, args.out.row_elements(), table.in_dim);
  const std::int32_t* token_ids = args.token_ids.as<std::int32_t>();
  const std::int32_t* slots = args.slots.as<std::int32_t>();
  for_rows(args.token_ids.rows(), table.in_dim, [&](std::int64_t t, int) {
    float* out = args.out.as<float>() + t * table.in_dim;
    if (slots[t] < 0) {
      std::fill(out, out + table.in_dim, 0.0f);
      return;
    }
    const std::int32_t id = token_ids[t] < 0 ? args.state_tokens.as<std::int32_t>()[-1 - token_ids[t]] : token_ids[t];
    unpack_row(table, id, out);
    args.arena.token_ids.as<std::int32_t>()[slots[t]] = id;
  });
}

void CpuBackend::run_add_rms_norm(Tensor residual, Tensor delta, Tensor weight, float eps, Tensor out) {
  const std::int64_t dim = residual.row_elements();
  FG_CHECK(weight.elements() == dim && out.row_elements() == dim && out.rows() == residual.rows(), dim, out.rows());
  if (delta) FG_CHECK(delta.rows() == residual.rows() && delta.row_elements() == dim, delta.rows(), dim);
  for_rows(residual.rows(), dim, [&](std::int64_t row, int) {
    add_rms_norm_row(residual.as<float>() + row * dim, delta ? delta.as<float>() + row * dim : nullptr,
                     weight.as<float>(), eps, dim, row_address(out, row), out.dtype);
  });
}

void CpuBackend::run_qkv(const QkvArgs& args) {
  const PackedMatrix& weight = matrix_of(args.weight);
  FG_CHECK(args.x.dtype == weight.dtype && args.x.row_elements() == weight.in_dim, args.x.row_elements(), weight.in_dim);
  const std::int64_t num_rows = args.x.rows(), width = weight.out_dim;
  FG_CHECK(args.q_out.rows() == num_rows, args.q_out.rows(), num_rows);
  float* qkv = workspace_.qkv.get<float>(num_rows * width);
  ProductJob job;
  job.weight = &weight;
  job.x = args.x.data;
  job.num_rows = num_rows;
  job.bias = floats_or_null(args.bias);
  job.out = qkv;
  job.out_stride = width;
  product(pool_, workspace_, tuning_, job);
  for_rows(num_rows, width, [&](std::int64_t row, int) { finish_qkv_row(args, qkv + row * width, row); });
}

// Norms and rotates the heads of one row, writes q out and k and v into the arena.
void CpuBackend::finish_qkv_row(const QkvArgs& args, float* row, std::int64_t row_idx) {
  const KvLayout& layout = args.arena.layout;
  const std::int64_t head_dim = layout.head_dim, kv_heads = layout.num_kv_heads;
  const std::int64_t heads = args.q_out.shape[1];
  const float* angles = args.rope.as<float>() + args.positions.as<std::int32_t>()[row_idx] * head_dim;
  const std::int64_t slot = args.slots.as<std::int32_t>()[row_idx];
  const std::size_t kv_bytes = dtype_bytes(args.arena.dtype), q_bytes = dtype_bytes(args.q_out.dtype);
  for (std::int64_t h = 0; h < heads; ++h, row += head_dim) {
    if (args.q_norm) rms_norm_in_place(row, args.q_norm.as<float>(), args.norm_eps, head_dim);
    rope_row(row, angles, head_dim, row_address(args.q_out, row_idx) + static_cast<std::size_t>(h * head_dim) * q_bytes,
             args.q_out.dtype);
  }
  if (slot < 0) return;
  const auto place = [&](int kv, std::int64_t h) {
    const std::int64_t offset = layout.offset(slot, args.layer, kv, static_cast<int>(h));
    return static_cast<char*>(args.arena.data) + static_cast<std::size_t>(offset) * kv_bytes;
  };
  for (std::int64_t h = 0; h < kv_heads; ++h, row += head_dim) {
    if (args.k_norm) rms_norm_in_place(row, args.k_norm.as<float>(), args.norm_eps, head_dim);
    rope_row(row, angles, head_dim, place(0, h), args.arena.dtype);
  }
  for (std::int64_t h = 0; h < kv_heads; ++h, row += head_dim) {
    convert_row(row, head_dim, place(1, h), args.arena.dtype);
  }
}

void CpuBackend::run_linear(Epilogue epilogue, Tensor x, const Weight& weight, Tensor bias, Tensor out) {
  ProductJob job;
  job.weight = &matrix_of(weight);
  job.x = x.data;
  job.num_rows = x.rows();
  job.bias = floats_or_null(bias);
  job.epilogue = epilogue;
  job.out = out.data;
  job.out_dtype = out.dtype;
  job.out_stride = out.row_elements();
  FG_CHECK(x.dtype == job.weight->dtype && x.row_elements() == job.weight->in_dim, x.row_elements(), job.weight->in_dim);
  FG_CHECK(out.rows() == x.rows() && out.row_elements() == job.out_columns(), out.rows(), out.row_elements());
  FG_CHECK((epilogue == Epilogue::kSiluMul) == (job.weight->kind == WeightKind::kGateUp), static_cast<int>(epilogue));
  FG_CHECK(epilogue == Epilogue::kSiluMul || out.dtype == DType::kF32, dtype_name(out.dtype));
  product(pool_, workspace_, tuning_, job);
}

void CpuBackend::run_gather_rows(Tensor x, Tensor rows, Tensor out) {
  FG_CHECK(x.dtype == out.dtype && x.row_elements() == out.row_elements() && rows.rows() == out.rows(), out.rows());
  const std::size_t row_bytes = static_cast<std::size_t>(x.row_elements()) * dtype_bytes(x.dtype);
  for (std::int64_t r = 0; r < rows.rows(); ++r) {
    const std::int32_t row = rows.as<std::int32_t>()[r];
    FG_CHECK(row < x.rows(), row, x.rows());
    if (row < 0) {
      std::memset(row_address(out, r), 0, row_bytes);
    } else {
      std::memcpy(row_address(out, r), row_address(x, row), row_bytes);
    }
  }
}

// Logits of rows [first, first + count) of x, [count, V] f32 in the workspace.
float* CpuBackend::head_product(Tensor x, const Weight& head, std::int64_t first, std::int64_t count) {
  const PackedMatrix& matrix = matrix_of(head);
  Tensor logits(workspace_.logits.get<float>(kLogitChunk * matrix.out_dim), DType::kF32, {count, matrix.out_dim});
  run_linear(Epilogue::kStore, x.slice(first, count), head, Tensor(), logits);
  return logits.as<float>();
}

void CpuBackend::run_logits_sample(Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena,
                                   Tensor ids, const LogprobOutput& out) {
  const SampleRow* rows = static_cast<const SampleRow*>(batch.rows.data);
  const std::int64_t num_rows = batch.rows.rows(), vocab = head.out_dim;
  for (std::int64_t first = 0; first < x.rows(); first += kLogitChunk) {
    const std::int64_t count = std::min(kLogitChunk, x.rows() - first);
    const float* logits = head_product(x, head, first, count);
    pool_.parallel_for(num_rows, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t r = rows[i].logits_row - first;
        if (rows[i].state_slot < 0 || r < 0 || r >= count) continue;
        sample_row(rows[i], i, logits + r * vocab, vocab, batch, arena, ids, out, thread);
      }
    });
  }
}

void CpuBackend::sample_row(const SampleRow& row, std::int64_t row_idx, const float* logits, std::int64_t vocab,
                            const SampleBatch& batch, const KvArena& arena, Tensor ids, const LogprobOutput& out,
                            int thread) {
  SampleInput in;
  in.row = row;
  in.logits = logits;
  in.vocab = vocab;
  if (row.bias_count > 0) {
    in.bias_ids = batch.bias_ids.as<std::int32_t>();
    in.bias_values = batch.bias_values.as<float>();
  }
  if (row.has_penalties()) {
    in.block_table = batch.block_table.as<std::int32_t>() + row.table_row * batch.block_table.row_elements();
    in.slot_tokens = arena.token_ids.as<std::int32_t>();
    in.block_size = arena.layout.block_size;
  }
  ThreadScratch& scratch = workspace_.threads[static_cast<std::size_t>(thread)];
  const std::int32_t id = sample_token(in, scratch.sampling.get<float>(sample_scratch_floats(vocab)),
                                       scratch.marks.get<std::int32_t>(vocab));
  ids.as<std::int32_t>()[row_idx] = id;
  batch.state_tokens.as<std::int32_t>()[row.state_slot] = id;
  if (row.num_top < 0) return;
  const float lse = log_sum_exp(logits, vocab);
  out.logprobs.as<float>()[row_idx] = logits[id] - lse;
  top_logprobs(logits, vocab, lse, std::min(row.num_top, kSampleTop), out.top_ids.as<std::int32_t>() + row_idx * kSampleTop,
               out.top_logprobs.as<float>() + row_idx * kSampleTop);
}

void CpuBackend::run_token_logprobs(Tensor x, const Weight& head, Tensor ids, std::int32_t num_top,
                                    const LogprobOutput& out) {
  const std::int64_t vocab = head.out_dim;
  for (std::int64_t first = 0; first < x.rows(); first += kLogitChunk) {
    const std::int64_t count = std::min(kLogitChunk, x.rows() - first);
    const float* chunk = head_product(x, head, first, count);
    pool_.parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) {
        const float* logits = chunk + r * vocab;
        const std::int64_t row = first + r;
        const std::int32_t id = ids.as<std::int32_t>()[row];
        const float lse = log_sum_exp(logits, vocab);
        if (id >= 0 && id < vocab) out.logprobs.as<float>()[row] = logits[id] - lse;
        if (num_top <= 0) continue;
        top_logprobs(logits, vocab, lse, std::min(num_top, kSampleTop), out.top_ids.as<std::int32_t>() + row * kSampleTop,
                     out.top_logprobs.as<float>() + row * kSampleTop);
      }
    });
  }
}

bool enabled(const char* variable) {
  const char* value = std::getenv(variable);
  return value == nullptr || std::string(value) != "0";
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  ProductTuning tuning;
  tuning.onednn = enabled("FG_ONEDNN");
  tuning.native_bf16 = enabled("FG_NATIVE_BF16");
  return make_cpu_backend(options, tuning);
}

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options, const ProductTuning& tuning) {
  if (options.num_threads < 0) throw Error(fmt::format("--threads {}: must not be negative", options.num_threads));
  const int num_threads = options.num_threads > 0 ? options.num_threads : num_cores();
  return std::make_unique<CpuBackend>(num_threads, tuning);
}

}  // namespace fastgen
