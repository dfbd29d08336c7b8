// Scratch memory of the CPU backend: named pools that grow until they are sealed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"

namespace fastgen {

// One aligned run of bytes; zeros when it has grown.
class ScratchBuffer {
 public:
  template <typename T>
  T* get(std::int64_t count) {
    grow(static_cast<std::size_t>(count) * sizeof(T));
    return reinterpret_cast<T*>(data_.get());
  }
  void seal() { sealed_ = true; }

 private:
  void grow(std::size_t bytes) {
    if (bytes <= bytes_) return;
    FG_CHECK(!sealed_, bytes, bytes_);
    bytes_ = (bytes + 63) / 64 * 64;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, bytes_)));
    FG_CHECK(data_ != nullptr, bytes_);
    std::memset(data_.get(), 0, bytes_);
  }
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t bytes_ = 0;
  bool sealed_ = false;
};

// What one thread needs within a part of an op.
struct ThreadScratch {
  ScratchBuffer product;    // a converted block of x, or oneDNN's output tile
  ScratchBuffer attention;  // tiles of K, V, scores and accumulators
  ScratchBuffer sampling;   // logits and probabilities [V]
  ScratchBuffer marks;      // [V] i32, all zero between calls
};

struct Workspace {
  explicit Workspace(int num_threads) : threads(static_cast<std::size_t>(num_threads)) {}

  std::vector<ThreadScratch> threads;
  ScratchBuffer qkv;       // [T, (H + 2K) * D] f32
  ScratchBuffer logits;    // [kLogitChunk, V] f32
  ScratchBuffer attend_items;
  ScratchBuffer attend_partials;

  void seal() {
    for (ScratchBuffer* buffer : {&qkv, &logits, &attend_items, &attend_partials}) buffer->seal();
    for (ThreadScratch& thread : threads) {
      for (ScratchBuffer* buffer : {&thread.product, &thread.attention, &thread.sampling, &thread.marks}) buffer->seal();
    }
  }
};

}  // namespace fastgen
