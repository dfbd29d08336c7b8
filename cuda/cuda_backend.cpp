#include "cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>

#include "attend_kernel.h"
#include "backend/cuda_factory.h"
#include "check.h"
#include "profiler.h"
#include "weight_kernels.h"

namespace fastgen {

namespace {

constexpr std::size_t kNumEvents = 1024;    // far more than steps can be in flight
constexpr double kTuneS = 1;                 // when nobody says how long
constexpr std::int64_t kLogitRowsMin = 64;  // token_logprobs goes in chunks of at least so many

std::int64_t logit_rows(const OpLimits& limits) { return std::max(limits.max_logit_rows, kLogitRowsMin); }

std::string cuda_version(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

// What stands in the way of any GPU. The library calls it an insufficient driver too if there is none at all.
std::string fault_of(cudaError_t status) {
  if (status == cudaErrorNoDevice) return "this machine has no NVIDIA GPU, or none is visible (CUDA_VISIBLE_DEVICES)";
  int driver = 0;
  if (status != cudaErrorInsufficientDriver || cudaDriverGetVersion(&driver) != cudaSuccess)
    return fmt::format("no usable GPU: {}", cudaGetErrorString(status));
  if (driver == 0) return "this machine has no NVIDIA driver";
  return fmt::format("the NVIDIA driver is for CUDA {} at most, this build needs {}", cuda_version(driver), cuda_version(CUDART_VERSION));
}

std::string describe_device() {
  int num_devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&num_devices);
  if (status != cudaSuccess || num_devices == 0)
    throw Error("--backend cuda: " + fault_of(status != cudaSuccess ? status : cudaErrorNoDevice));
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  cuda_check(cudaSetDevice(0), "cudaSetDevice");  // makes the context, which takes memory too
  if (properties.major < 8)
    throw Error(fmt::format("--backend cuda: {} has compute capability {}.{}, at least 8.0 is needed",
                            properties.name, properties.major, properties.minor));
  if (!device::has_kernels())
    throw Error(fmt::format("--backend cuda: this build has no kernels for {} (compute capability {}.{}); meson -Dgpu_archs={}{} adds them",
                            properties.name, properties.major, properties.minor, properties.major, properties.minor));
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
  products_ = std::make_unique<Products>(std::chrono::duration<double>(options.tune_s > 0 ? options.tune_s : kTuneS));
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
  FG_CHECK(!sealed_, limits.max_tokens);
  loader_.reset();
  max_logit_rows_ = logit_rows(limits);
  std::vector<Products::Scratch> scratch;
  for (const Workspace& workspace : workspaces(limits)) {
    // Scratch is not filled with zeros, so that compute-sanitizer's initcheck sees what is read before it is written.
    void* const data = this->*workspace.place =
        workspace.is_scratch ? memory_.allocate(workspace.bytes) : allocate(MemoryKind::kDevice, workspace.bytes);
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
  ProductShape shape{weight.dtype, DType::kF32, weight.out_dim, weight.in_dim, is_linear};
  if (is_linear || is_head || weight.dtype == DType::kF32) return products_->learn(shape, weight.handle, is_head);
  products_->learn(shape, weight.handle, false, kExactRowsMax);
  shape.out_dtype = weight.dtype;
  products_->learn(shape, weight.handle, false);
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
  capturing_ = true;
}

GraphId CudaBackend::end_capture() {
  capturing_ = false;
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

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options) {
  return std::make_unique<CudaBackend>(options);
}

}  // namespace fastgen
