// The CUDA backend: one GPU, three streams, graphs by stream capture. See backend/backend.h for the contract.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "device_memory.h"
#include "products.h"
#include "weight_loader.h"

namespace fastgen {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options);
  ~CudaBackend() override;

  std::string name() const override { return "cuda"; }
  std::string device() const override { return device_; }
  ActivationTypes activation_types(DType model_dtype) const override;

  std::size_t free_bytes() const override { return memory_.free_bytes(); }
  void* allocate(MemoryKind kind, std::size_t bytes) override;
  void reserve(const OpLimits& limits) override;
  std::size_t workspace_bytes(const OpLimits& limits) const override;
  void seal() override;
  Weight prepare_weights(WeightKind kind, DType dtype, std::span<const Tensor> parts, std::span<const FilePlace> places) override;
  Weight prepare_random_weights(WeightKind kind, DType dtype, std::span<const RandomPart> parts) override;

  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override;
  void download(Stream stream, void* pinned, const void* device, std::size_t bytes) override;
  FenceId record(Stream stream) override;
  void wait(Stream stream, FenceId fence) override;
  bool passed(FenceId fence) override;
  void host_wait(FenceId fence) override;

  bool has_graphs() const override { return true; }
  void begin_capture() override;
  GraphId end_capture() override;
  void replay(GraphId graph) override;
  std::size_t graph_bytes() const override { return graph_bytes_; }

  void embed(Stream stream, const EmbedArgs& args) override;
  void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps,
                    Tensor out) override;
  void qkv_rope_store(Stream stream, const QkvArgs& args) override;
  void attend(Stream stream, const AttendArgs& args) override;
  void linear(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor out) override;
  void linear_add(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor residual) override;
  void gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) override;
  void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) override;
  void logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch,
                     const KvArena& arena, Tensor ids, const LogprobOutput& out) override;
  void token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids, std::int32_t num_top,
                      const LogprobOutput& out) override;
  void fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) override;
  void copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) override;

 private:
  cudaStream_t at(Stream stream) const { return streams_[static_cast<int>(stream)]; }
  cudaEvent_t event_of(FenceId fence) const;
  void learn(const Weight& weight);
  // What reserve() allocates, and where it puts the address.
  struct Workspace {
    void* CudaBackend::*place;
    std::size_t bytes;
    bool is_scratch;  // for timing products
  };
  static std::vector<Workspace> workspaces(const OpLimits& limits);
  // x w^T + bias (if given), added to or stored in out.
  void product(Stream stream, Tensor x, const Weight& weight, Tensor bias, void* out, DType out_dtype, bool add);
  // Of what passes from a product to SiLU or RoPE: float32 in steps of so few rows that are not captured, most of them prompts. The 99th
  // percentile of SmolLM2's error is 0.036 to 0.041 then and 0.042 to 0.047 otherwise (H200, no record; goldens_test.cpp allows 0.045).
  // Decode steps of 32 to 256 rows would be 1.3 to 2.9 % slower; those of 16 and less keep it in registers.
  DType between_dtype(const Tensor& x) const;
  static constexpr std::int64_t kExactRowsMax = 256;

  std::string device_;
  DeviceMemory memory_;
  cudaStream_t streams_[kNumStreams] = {};
  std::vector<cudaEvent_t> events_;  // fence f is events_[f % size]
  FenceId last_fence_ = 0;
  std::vector<cudaGraphExec_t> graphs_;
  std::size_t graph_bytes_ = 0;  // of graphs made before seal
  std::unique_ptr<WeightLoader> loader_;  // from the first matrix to reserve or seal
  std::unique_ptr<Products> products_;
  bool sealed_ = false, capturing_ = false;

  // Workspaces, sized by reserve().
  void* qkv_ = nullptr;       // [T, (H + 2K) D] product or f32
  void* gate_up_ = nullptr;   // [T, 2F] product or f32
  void* attend_ = nullptr;    // partial results of attention
  void* logits_ = nullptr;    // [R, V] f32
  void* sampling_ = nullptr;  // [sample rows, V] f32
  std::int64_t max_logit_rows_ = 0;
};

}  // namespace fastgen
