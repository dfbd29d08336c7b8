#include "kv/block_pool.h"

#include <set>

#include "support/support.h"

using namespace fastgen;

TEST_CASE("block_pool: gives each block once and takes it back with its last holder") {
  BlockPool pool(5);
  std::set<BlockId> blocks;
  while (pool.num_free() > 0) blocks.insert(pool.take());
  CHECK(blocks == std::set<BlockId>{0, 1, 2, 3, 4});
  pool.add_holder(3);
  pool.drop_holder(3);
  CHECK(pool.num_free() == 0);
  CHECK(pool.count(3) == 1);
  pool.drop_holder(3);
  CHECK(pool.num_free() == 1);
  CHECK(pool.take() == 3);
  pool.check();
}
