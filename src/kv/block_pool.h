// Which blocks of the arena are free and how many tables hold each of the others. Ids only, never bytes.
//
// Invariants: 1. a block is free or held (count >= 1), and the two sums equal the pool;
// 2. a block is in the free list exactly when its count is 0.
// Belongs to one thread, the engine's.
#pragma once

#include <cstdint>
#include <vector>

namespace fastgen {

using BlockId = std::int32_t;

class BlockPool {
 public:
  explicit BlockPool(std::int32_t num_blocks);

  std::int32_t num_blocks() const { return static_cast<std::int32_t>(counts_.size()); }
  std::int32_t num_free() const { return static_cast<std::int32_t>(free_.size()); }
  std::int32_t count(BlockId block) const { return counts_[static_cast<std::size_t>(block)]; }

  BlockId take();               // a free block, now held once; one must be free
  void add_holder(BlockId block);  // of a held block
  void drop_holder(BlockId block);  // the last one frees the block

  void check() const;  // aborts if an invariant is broken

 private:
  std::vector<std::int32_t> counts_;  // by block: how many hold it
  std::vector<BlockId> free_;         // a stack: the block freed last is used next, while caches still hold it
};

}  // namespace fastgen
