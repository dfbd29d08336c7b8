// Where a token's K and V lie in the arena: the one function that C++ and kernels share. Plain C++17.
//
//   [blocks, layers, K|V, kv_heads, block_size, head_dim]
//    `- one block: all layers, one contiguous run to or from the host tier
//                       `- one tile (block, layer, K|V, head): block_size x head_dim, row-major
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FG_HOST_DEVICE __host__ __device__
#else
#define FG_HOST_DEVICE
#endif

namespace fastgen {

struct KvLayout {
  std::int32_t num_layers = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t block_size = 0;  // tokens
  std::int32_t head_dim = 0;

  FG_HOST_DEVICE std::int64_t tile_elements() const { return std::int64_t{block_size} * head_dim; }
  FG_HOST_DEVICE std::int64_t block_elements() const { return 2 * num_layers * num_kv_heads * tile_elements(); }

  // Element offset of a (block, layer, K or V, head) tile from the arena's start. kv: 0 is K, 1 is V.
  FG_HOST_DEVICE std::int64_t tile_offset(std::int64_t block, int layer, int kv, int head) const {
    return block * block_elements() +
           ((std::int64_t{layer} * 2 + kv) * num_kv_heads + head) * tile_elements();
  }
  // Element offset of one token's head vector. slot = block * block_size + place in the block.
  FG_HOST_DEVICE std::int64_t offset(std::int64_t slot, int layer, int kv, int head) const {
    return tile_offset(slot / block_size, layer, kv, head) + (slot % block_size) * head_dim;
  }
};

}  // namespace fastgen
