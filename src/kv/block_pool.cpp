#include "kv/block_pool.h"

#include <algorithm>

#include "base/check.h"

namespace fastgen {

BlockPool::BlockPool(std::int32_t num_blocks) : counts_(static_cast<std::size_t>(num_blocks), 0) {
  free_.reserve(counts_.size());
  for (BlockId block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

BlockId BlockPool::take() {
  FG_CHECK(!free_.empty(), num_blocks());
  const BlockId block = free_.back();
  free_.pop_back();
  counts_[static_cast<std::size_t>(block)] = 1;
  return block;
}

void BlockPool::add_holder(BlockId block) {
  FG_CHECK(block >= 0 && block < num_blocks() && count(block) > 0, block);
  ++counts_[static_cast<std::size_t>(block)];
}

void BlockPool::drop_holder(BlockId block) {
  FG_CHECK(block >= 0 && block < num_blocks() && count(block) > 0, block);
  if (--counts_[static_cast<std::size_t>(block)] == 0) free_.push_back(block);
}

void BlockPool::check() const {
  std::vector<bool> is_free(counts_.size(), false);
  for (BlockId block : free_) {
    FG_CHECK(block >= 0 && block < num_blocks() && !is_free[static_cast<std::size_t>(block)], block);
    is_free[static_cast<std::size_t>(block)] = true;
  }
  for (BlockId block = 0; block < num_blocks(); ++block)
    FG_CHECK((count(block) == 0) == is_free[static_cast<std::size_t>(block)], block, count(block));
  const auto num_held = std::count_if(counts_.begin(), counts_.end(), [](std::int32_t held) { return held > 0; });
  FG_CHECK(num_held + num_free() == num_blocks(), num_held, num_free(), num_blocks());
}

}  // namespace fastgen
