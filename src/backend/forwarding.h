// Passes every call on to another backend: what a wrapper derives from, to change only the calls it is about.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "backend/backend.h"

namespace fastgen {

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  std::string name() const override { return inner_->name(); }
  std::string device() const override { return inner_->device(); }
  ActivationTypes activation_types(DType model_dtype) const override { return inner_->activation_types(model_dtype); }
  bool uses_weights() const override { return inner_->uses_weights(); }

  std::size_t free_bytes() const override { return inner_->free_bytes(); }
  void* allocate(MemoryKind kind, std::size_t bytes) override { return inner_->allocate(kind, bytes); }
  void reserve(const OpLimits& limits) override { inner_->reserve(limits); }
  std::size_t workspace_bytes(const OpLimits& limits) const override { return inner_->workspace_bytes(limits); }
  void seal() override { inner_->seal(); }
  Weight prepare_weights(WeightKind kind, DType dtype, std::span<const Tensor> parts, std::span<const FilePlace> places) override {
    return inner_->prepare_weights(kind, dtype, parts, places);
  }
  Weight prepare_random_weights(WeightKind kind, DType dtype, std::span<const RandomPart> parts) override {
    return inner_->prepare_random_weights(kind, dtype, parts);
  }

  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override {
    inner_->upload(stream, device, pinned, bytes);
  }
  void download(Stream stream, void* pinned, const void* device, std::size_t bytes) override {
    inner_->download(stream, pinned, device, bytes);
  }
  FenceId record(Stream stream) override { return inner_->record(stream); }
  void wait(Stream stream, FenceId fence) override { inner_->wait(stream, fence); }
  bool passed(FenceId fence) override { return inner_->passed(fence); }
  void host_wait(FenceId fence) override { inner_->host_wait(fence); }

  bool has_graphs() const override { return inner_->has_graphs(); }
  void begin_capture() override { inner_->begin_capture(); }
  GraphId end_capture() override { return inner_->end_capture(); }
  void replay(GraphId graph) override { inner_->replay(graph); }
  std::size_t graph_bytes() const override { return inner_->graph_bytes(); }

  void embed(Stream stream, const EmbedArgs& args) override { inner_->embed(stream, args); }
  void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps, Tensor out) override {
    inner_->add_rms_norm(stream, residual, delta, weight, eps, out);
  }
  void qkv_rope_store(Stream stream, const QkvArgs& args) override { inner_->qkv_rope_store(stream, args); }
  void attend(Stream stream, const AttendArgs& args) override { inner_->attend(stream, args); }
  void linear(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor out) override {
    inner_->linear(stream, x, weight, bias, out);
  }
  void linear_add(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor residual) override {
    inner_->linear_add(stream, x, weight, bias, residual);
  }
  void gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) override {
    inner_->gate_up_silu(stream, x, weight, out);
  }
  void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) override { inner_->gather_rows(stream, x, rows, out); }
  void logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena, Tensor ids,
                     const LogprobOutput& out) override {
    inner_->logits_sample(stream, x, head, batch, arena, ids, out);
  }
  void token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids, std::int32_t num_top,
                      const LogprobOutput& out) override {
    inner_->token_logprobs(stream, x, head, ids, num_top, out);
  }
  void fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) override {
    inner_->fill_table(stream, entries, starts, table);
  }
  void copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) override { inner_->copy_blocks(stream, arena, pairs); }

 protected:
  Backend& inner() const { return *inner_; }

 private:
  std::unique_ptr<Backend> inner_;
};

}  // namespace fastgen
