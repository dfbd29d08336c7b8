#include "cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>

#include "attend_kernel.h"
#include "backend/cuda_factory.h"
#include "check.h"
#include "profiler.h"
#include "row_kernels.h"
#include "sample_kernels.h"
#include "skinny_kernel.h"
#include "weight_kernels.h"

namespace fastgen {

namespace {

constexpr std::size_t kNumEvents = 1024;    // far more than steps can be in flight
constexpr std::int64_t kLogitRowsMin = 64;  // token_logprobs goes in chunks of at least so many

const std::int32_t* ints(const Tensor& tensor) { return tensor ? tensor.as<std::int32_t>() : nullptr; }
const float* floats(const Tensor& tensor) { return tensor ? tensor.as<float>() : nullptr; }
std::int64_t logit_rows(const OpLimits& limits) { return std::max(limits.max_logit_rows, kLogitRowsMin); }
std::int32_t count(std::int64_t n) { return static_cast<std::int32_t>(n); }
bool is_bf16(DType dtype) { return dtype == DType::kBF16; }
bool fits_skinny(const Tensor& x, const Weight& weight) {
  FG_CHECK(x.dtype == weight.dtype && x.row_elements() == weight.in_dim, x.row_elements(), weight.in_dim);
  return is_skinny(x.dtype, x.rows(), weight.in_dim);
}
device::SkinnyProduct skinny(const Tensor& x, const Weight& weight) {
  return {weight.handle, x.data, count(x.rows()), count(weight.out_dim), count(weight.in_dim)};
}
// A kernel that could not be launched; what goes wrong while it runs shows at a later call.
void check_launch(const char* op) { cuda_check(cudaGetLastError(), op); }

std::string describe_device() {
  int num_devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&num_devices);
  if (status != cudaSuccess)
    throw Error(fmt::format("--backend cuda: no usable GPU: {}", cudaGetErrorString(status)));
  if (num_devices == 0) throw Error("--backend cuda: no GPU");
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  cuda_check(cudaSetDevice(0), "cudaSetDevice");  // makes the context, which takes memory too
  if (properties.major < 8)
    throw Error(fmt::format("--backend cuda: {} has compute capability {}.{}, at least 8.0 is needed",
                            properties.name, properties.major, properties.minor));
  return fmt::format("{}, {} SMs, {:.1f} GB", properties.name, properties.multiProcessorCount,
                     static_cast<double>(properties.totalGlobalMem) / 1e9);
}

}  // namespace

CudaBackend::CudaBackend(const BackendOptions& options)
    : device_(describe_device()), memory_(options.gpu_gb, options.gpu_fraction) {
  for (cudaStream_t& stream : streams_)
    cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  events_.resize(kNumEvents);
  for (cudaEvent_t& event : events_)
    cuda_check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  products_ = std::make_unique<Products>();
  install_gpu_profiler();
}

CudaBackend::~CudaBackend() {
  loader_.reset();
  cudaDeviceSynchronize();
  products_.reset();
  for (cudaGraphExec_t graph : graphs_) cudaGraphExecDestroy(graph);
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
  for (cudaStream_t stream : streams_) cudaStreamDestroy(stream);
}

ActivationTypes CudaBackend::activation_types(DType model_dtype) const {
  return {DType::kF32, model_dtype, model_dtype};
}

// ---- memory

void* CudaBackend::allocate(MemoryKind kind, std::size_t bytes) {
  FG_CHECK(!sealed_, bytes);
  if (kind == MemoryKind::kPinned) return memory_.allocate_pinned(bytes);
  void* address = memory_.allocate(bytes);
  // On the stream that uses it, and waited for: other streams do not wait for the default one.
  cuda_check(cudaMemsetAsync(address, 0, bytes, at(Stream::kCompute)), "cudaMemset");
  cuda_check(cudaStreamSynchronize(at(Stream::kCompute)), "cudaMemset");
  return address;
}

void CudaBackend::seal() {
  loader_.reset();
  sealed_ = true;
}

void CudaBackend::reserve(const OpLimits& limits) {
  loader_.reset();
  max_logit_rows_ = logit_rows(limits);
  std::vector<Products::Scratch> scratch;
  for (const Workspace& workspace : workspaces(limits)) {
    void* const data = this->*workspace.place = allocate(MemoryKind::kDevice, workspace.bytes);
    if (workspace.is_scratch) scratch.push_back({data, workspace.bytes});
  }
  // Before anything is captured, and before the arena takes what is left: the library loads its kernels into GPU memory.
  products_->tune(scratch, {limits.max_tokens, max_logit_rows_});
}

std::vector<CudaBackend::Workspace> CudaBackend::workspaces(const OpLimits& limits) {
  const auto floats = [](std::int64_t elements) { return static_cast<std::size_t>(elements) * sizeof(float); };
  const std::int64_t qkv_dim = std::int64_t{limits.num_heads + 2 * limits.num_kv_heads} * limits.head_dim;
  return {{&CudaBackend::qkv_, floats(limits.max_tokens * qkv_dim), true},
          {&CudaBackend::gate_up_, floats(limits.max_tokens * 2 * limits.ffn_dim), true},
          {&CudaBackend::attend_, device::attend_workspace_bytes(limits.head_dim), false},
          {&CudaBackend::logits_, floats(logit_rows(limits) * limits.vocab), true},
          {&CudaBackend::sampling_, floats(limits.max_sample_rows * limits.vocab), false}};
}

std::size_t CudaBackend::workspace_bytes(const OpLimits& limits) const {
  std::size_t bytes = 0;
  for (const Workspace& workspace : workspaces(limits)) bytes += workspace.bytes;
  return bytes;
}

Weight CudaBackend::prepare_weights(WeightKind kind, DType dtype, std::span<const Tensor> parts,
                                    std::span<const FilePlace> places) {
  FG_CHECK(!sealed_ && !parts.empty() && parts[0].rank == 2, parts.size());
  std::int64_t out_dim = 0;
  for (const Tensor& part : parts) {
    FG_CHECK(part.row_elements() == parts[0].row_elements(), part.row_elements());
    out_dim += part.rows();
  }
  const std::int64_t in_dim = parts[0].row_elements();
  if (!loader_) loader_ = std::make_unique<WeightLoader>();
  char* data = static_cast<char*>(memory_.allocate(static_cast<std::size_t>(out_dim * in_dim) * dtype_bytes(dtype)));
  const Weight weight{data, kind, dtype, out_dim, in_dim};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    loader_->copy(parts[i], places.empty() ? FilePlace{} : places[i], dtype, data, at(Stream::kCompute));
    data += static_cast<std::size_t>(parts[i].elements()) * dtype_bytes(dtype);
  }
  learn(weight);
  return weight;
}

Weight CudaBackend::prepare_random_weights(WeightKind kind, DType dtype, std::span<const RandomPart> parts) {
  FG_CHECK(!sealed_ && !parts.empty(), parts.size());
  std::int64_t out_dim = 0;
  for (const RandomPart& part : parts) out_dim += part.rows;
  const std::int64_t in_dim = parts[0].columns;
  char* data = static_cast<char*>(memory_.allocate(static_cast<std::size_t>(out_dim * in_dim) * dtype_bytes(dtype)));
  const Weight weight{data, kind, dtype, out_dim, in_dim};
  for (const RandomPart& part : parts) {
    FG_CHECK(part.columns == in_dim, part.columns, in_dim);
    device::fill_random(part.seed, part.stream, part.rows * in_dim, data, dtype, at(Stream::kCompute));
    check_launch("prepare_random_weights");
    data += static_cast<std::size_t>(part.rows * in_dim) * dtype_bytes(dtype);
  }
  learn(weight);
  return weight;
}

// The products that the forward pass makes of each kind of weight.
void CudaBackend::learn(const Weight& weight) {
  const bool is_linear = weight.kind == WeightKind::kLinear, is_head = weight.kind == WeightKind::kHead;
  const DType out_dtype = is_linear || is_head ? DType::kF32 : weight.dtype;
  products_->learn({weight.dtype, out_dtype, weight.out_dim, weight.in_dim, is_linear}, weight.handle, is_head);
}

// ---- order

void CudaBackend::upload(Stream stream, void* device, const void* pinned, std::size_t bytes) {
  cuda_check(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, at(stream)), "upload");
}

void CudaBackend::download(Stream stream, void* pinned, const void* device, std::size_t bytes) {
  cuda_check(cudaMemcpyAsync(pinned, device, bytes, cudaMemcpyDeviceToHost, at(stream)), "download");
}

cudaEvent_t CudaBackend::event_of(FenceId fence) const {
  FG_CHECK(fence > 0 && fence <= last_fence_ && last_fence_ - fence < kNumEvents, fence, last_fence_);
  return events_[fence % kNumEvents];
}

FenceId CudaBackend::record(Stream stream) {
  ++last_fence_;
  cuda_check(cudaEventRecord(event_of(last_fence_), at(stream)), "record");
  return last_fence_;
}

void CudaBackend::wait(Stream stream, FenceId fence) {
  if (fence == 0) return;
  cuda_check(cudaStreamWaitEvent(at(stream), event_of(fence), 0), "wait");
}

bool CudaBackend::passed(FenceId fence) {
  if (fence == 0) return true;
  const cudaError_t status = cudaEventQuery(event_of(fence));
  if (status == cudaErrorNotReady) return false;
  cuda_check(status, "a step failed on the GPU");
  return true;
}

void CudaBackend::host_wait(FenceId fence) {
  if (fence != 0) cuda_check(cudaEventSynchronize(event_of(fence)), "a step failed on the GPU");
}

// ---- graphs

void CudaBackend::begin_capture() {
  cuda_check(cudaStreamBeginCapture(at(Stream::kCompute), cudaStreamCaptureModeThreadLocal), "begin capture");
}

GraphId CudaBackend::end_capture() {
  cudaGraph_t graph = nullptr;
  cuda_check(cudaStreamEndCapture(at(Stream::kCompute), &graph), "end capture");
  const std::size_t free_bytes_before = sealed_ ? 0 : memory_.free_bytes();
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  cuda_check(status, "instantiate a graph");
  graphs_.push_back(executable);
  // Now and not at the first replay: what it takes is then known, and that step does not wait for it.
  cuda_check(cudaGraphUpload(executable, at(Stream::kCompute)), "upload a graph");
  if (!sealed_) {
    cuda_check(cudaStreamSynchronize(at(Stream::kCompute)), "upload a graph");
    graph_bytes_ += free_bytes_before - std::min(free_bytes_before, memory_.free_bytes());
  }
  return static_cast<GraphId>(graphs_.size()) - 1;
}

void CudaBackend::replay(GraphId graph) {
  FG_CHECK(graph >= 0 && graph < static_cast<GraphId>(graphs_.size()), graph);
  cuda_check(cudaGraphLaunch(graphs_[static_cast<std::size_t>(graph)], at(Stream::kCompute)),
             "launch a graph");
}

// ---- ops

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
    product(stream, args.x, args.weight, {}, qkv_, args.x.dtype, false);
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
  if (fits_skinny(x, weight) && out.row_elements() % 16 == 0) {
    device::skinny_gate_up(skinny(x, weight), out.data, at(stream));
  } else {
    product(stream, x, weight, {}, gate_up_, x.dtype, false);
    device::silu_mul(gate_up_, out.data, count(x.rows()), count(out.row_elements()), is_bf16(out.dtype), at(stream));
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

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options) {
  return std::make_unique<CudaBackend>(options);
}

}  // namespace fastgen
