// The ops of the CUDA backend: tensors become launches, on the kernel that serves their shape.
#include <algorithm>

#include "attend_kernel.h"
#include "check.h"
#include "cuda_backend.h"
#include "gate_up_wgmma.h"
#include "row_kernels.h"
#include "sample_kernels.h"
#include "skinny_kernel.h"

namespace fastgen {

namespace {

const std::int32_t* ints(const Tensor& tensor) { return tensor ? tensor.as<std::int32_t>() : nullptr; }
const float* floats(const Tensor& tensor) { return tensor ? tensor.as<float>() : nullptr; }
std::int32_t count(std::int64_t n) { return static_cast<std::int32_t>(n); }
bool is_bf16(DType dtype) { return dtype == DType::kBF16; }
bool fits_skinny(const Tensor& x, const Weight& weight) {
  FG_CHECK(x.dtype == weight.dtype && x.row_elements() == weight.in_dim, x.row_elements(), weight.in_dim);
  return is_skinny(x.dtype, x.rows(), weight.in_dim);
}
device::SkinnyProduct skinny(const Tensor& x, const Weight& weight) {
  return {weight.handle, x.data, count(x.rows()), count(weight.out_dim), count(weight.in_dim)};
}

}  // namespace

void CudaBackend::embed(Stream stream, const EmbedArgs& args) {
  device::EmbedLaunch a{};
  a.token_ids = ints(args.token_ids);
  a.state_tokens = ints(args.state_tokens);
  a.slots = ints(args.slots);
  a.table = args.table.handle;
  a.arena_token_ids = args.arena.token_ids.as<std::int32_t>();
  a.residual = args.out.as<float>();
  a.num_tokens = count(args.token_ids.rows());
  a.dim = count(args.out.row_elements());
  a.bf16 = is_bf16(args.table.dtype);
  device::embed(a, at(stream));
  check_launch("embed");
}

void CudaBackend::add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps,
                               Tensor out) {
  FG_CHECK(residual.row_elements() <= device::kNormDimMax, residual.row_elements());
  device::add_rms_norm({residual.as<float>(), floats(delta), weight.as<float>(), out.data, eps,
                        count(residual.rows()), count(residual.row_elements()), is_bf16(out.dtype)},
                       at(stream));
  check_launch("add_rms_norm");
}

void CudaBackend::qkv_rope_store(Stream stream, const QkvArgs& args) {
  device::RopeLaunch a{};
  a.qkv = qkv_;
  a.bias = floats(args.bias);
  a.q_norm = floats(args.q_norm);
  a.k_norm = floats(args.k_norm);
  a.norm_eps = args.norm_eps;
  a.rope = floats(args.rope);
  a.positions = ints(args.positions);
  a.slots = ints(args.slots);
  a.arena = args.arena.data;
  a.layout = args.arena.layout;
  a.q_out = args.q_out.data;
  a.num_tokens = count(args.x.rows());
  a.num_heads = count(args.q_out.shape[1]);
  a.layer = args.layer;
  a.bf16 = is_bf16(args.x.dtype);
  if (fits_skinny(args.x, args.weight) && !args.q_norm && !args.k_norm && a.layout.head_dim % 32 == 0) {
    device::skinny_qkv(skinny(args.x, args.weight), a, at(stream));
  } else {
    const DType dtype = between_dtype(args.x);
    product(stream, args.x, args.weight, {}, qkv_, dtype, false);
    a.qkv_bf16 = is_bf16(dtype);
    device::rope_store(a, at(stream));
  }
  check_launch("qkv_rope_store");
}

void CudaBackend::attend(Stream stream, const AttendArgs& args) {
  FG_CHECK(attend_ != nullptr && args.scale > 0, args.scale);
  device::AttendLaunch a{};
  a.q = args.q.data;
  a.query_start = ints(args.batch.query_start);
  a.context_len = ints(args.batch.context_len);
  a.block_table = ints(args.batch.block_table);
  a.arena = args.arena.data;
  a.layout = args.arena.layout;
  a.out = args.out.data;
  a.workspace = attend_;
  a.num_tokens = count(args.q.rows());
  a.num_seqs = count(args.batch.context_len.rows());
  a.num_heads = count(args.q.shape[1]);
  a.blocks_per_seq = count(args.batch.block_table.row_elements());
  a.layer = args.layer;
  a.window = args.window;
  a.num_decode_seqs = args.batch.num_query == 1 ? args.batch.num_decode_seqs : 0;
  a.scale = args.scale;
  a.bf16 = is_bf16(args.q.dtype);
  device::attend(a, at(stream));
  check_launch("attend");
}

DType CudaBackend::between_dtype(const Tensor& x) const { return !capturing_ && x.rows() <= kExactRowsMax ? DType::kF32 : x.dtype; }

void CudaBackend::product(Stream stream, Tensor x, const Weight& weight, Tensor bias, void* out,
                          DType out_dtype, bool add) {
  FG_CHECK(x.dtype == weight.dtype && x.row_elements() == weight.in_dim, x.row_elements(), weight.in_dim);
  products_->run(at(stream), {x.dtype, out_dtype, weight.out_dim, weight.in_dim, add}, weight.handle, x.data,
                 floats(bias), out, x.rows());
}

void CudaBackend::linear(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor out) {
  product(stream, x, weight, bias, out.data, out.dtype, false);
  check_launch("linear");
}

void CudaBackend::linear_add(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor residual) {
  product(stream, x, weight, bias, residual.data, residual.dtype, true);
  check_launch("linear_add");
}

void CudaBackend::gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) {
  const device::GateUpLaunch many{weight.handle,     x.data, out.data, count(x.rows()), count(out.row_elements()),
                                  count(weight.in_dim)};
  if (fits_skinny(x, weight) && out.row_elements() % 16 == 0) {
    device::skinny_gate_up(skinny(x, weight), out.data, at(stream));
  } else if (!is_bf16(x.dtype) || !device::gate_up_wgmma(many, at(stream))) {
    const DType dtype = between_dtype(x);
    product(stream, x, weight, {}, gate_up_, dtype, false);
    device::silu_mul(gate_up_, is_bf16(dtype), out.data, count(x.rows()), count(out.row_elements()), is_bf16(out.dtype), at(stream));
  }
  check_launch("gate_up_silu");
}

void CudaBackend::gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) {
  const std::int64_t row_bytes = x.row_elements() * static_cast<std::int64_t>(dtype_bytes(x.dtype));
  FG_CHECK(row_bytes % 4 == 0, row_bytes);
  device::gather_rows(x.data, ints(rows), out.data, count(rows.rows()), row_bytes, at(stream));
  check_launch("gather_rows");
}

void CudaBackend::logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch,
                                const KvArena& arena, Tensor ids, const LogprobOutput& out) {
  FG_CHECK(x.rows() <= max_logit_rows_, x.rows(), max_logit_rows_);
  product(stream, x, head, {}, logits_, DType::kF32, false);
  device::SampleLaunch a{};
  a.rows = static_cast<const SampleRow*>(batch.rows.data);
  a.logits = static_cast<const float*>(logits_);
  a.work = static_cast<float*>(sampling_);
  a.bias_ids = ints(batch.bias_ids);
  a.bias_values = floats(batch.bias_values);
  a.block_table = ints(batch.block_table);
  a.arena_token_ids = ints(arena.token_ids);
  a.state_tokens = batch.state_tokens.as<std::int32_t>();
  a.ids = ids.as<std::int32_t>();
  a.logprobs = out.logprobs.as<float>();
  a.top_ids = out.top_ids.as<std::int32_t>();
  a.top_logprobs = out.top_logprobs.as<float>();
  a.num_rows = count(batch.rows.rows());
  a.vocab = count(head.out_dim);
  a.blocks_per_seq = count(batch.block_table.row_elements());
  a.block_size = arena.layout.block_size;
  device::sample(a, at(stream));
  check_launch("logits_sample");
}

void CudaBackend::token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids,
                                 std::int32_t num_top, const LogprobOutput& out) {
  for (std::int64_t first = 0; first < x.rows(); first += max_logit_rows_) {
    const std::int64_t n = std::min(max_logit_rows_, x.rows() - first);
    product(stream, x.slice(first, n), head, {}, logits_, DType::kF32, false);
    device::token_logprobs(
        {static_cast<const float*>(logits_), ints(ids) + first, out.logprobs.as<float>() + first,
         out.top_ids.as<std::int32_t>() + first * kSampleTop,
         out.top_logprobs.as<float>() + first * kSampleTop, count(n), count(head.out_dim), num_top},
        at(stream));
  }
  check_launch("token_logprobs");
}

void CudaBackend::fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) {
  FG_CHECK(starts.rows() <= table.rows() + 1, starts.rows(), table.rows());
  device::fill_table(ints(entries), ints(starts), table.as<std::int32_t>(), count(starts.rows()) - 1,
                     count(table.row_elements()), at(stream));
  check_launch("fill_table");
}

void CudaBackend::copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) {
  const std::int64_t block_bytes =
      arena.layout.block_elements() * static_cast<std::int64_t>(dtype_bytes(arena.dtype));
  FG_CHECK(block_bytes % 16 == 0, block_bytes);
  device::copy_blocks(arena.data, arena.token_ids.as<std::int32_t>(), ints(pairs), count(pairs.rows()),
                      block_bytes, arena.layout.block_size, at(stream));
  check_launch("copy_blocks");
}

}  // namespace fastgen
