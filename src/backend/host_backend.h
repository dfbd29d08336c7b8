// What backends that compute on the host share: their memory is the process's own, a graph is the list of its recorded calls, and every
// call has run when it returns, so that there is nothing to order: all fences have passed.
#pragma once

#include "backend/backend.h"
#include "backend/call_recorder.h"
#include "backend/cpu/memory.h"

namespace fastgen {

class HostBackend : public Backend {
 public:
  std::size_t free_bytes() const override { return free_memory_bytes(); }
  void* allocate(MemoryKind, std::size_t bytes) override {
    FG_CHECK(!sealed_, bytes);
    return memory_.allocate(bytes);
  }
  void seal() override { sealed_ = true; }

  void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) override;
  void download(Stream stream, void* pinned, const void* device, std::size_t bytes) override;
  FenceId record(Stream) override { return 0; }
  void wait(Stream, FenceId) override {}
  bool passed(FenceId) override { return true; }
  void host_wait(FenceId) override {}

  bool has_graphs() const override { return true; }
  void begin_capture() override { calls_.begin(); }
  GraphId end_capture() override { return calls_.end(); }
  void replay(GraphId graph) override { calls_.replay(graph); }
  std::size_t graph_bytes() const override { return 0; }

  // Whatever points outside its buffer is our bug and aborts.
  void fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) override;
  void copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) override;

 protected:
  CallRecorder calls_;
  MemoryPool memory_;
  bool sealed_ = false;
};

}  // namespace fastgen
