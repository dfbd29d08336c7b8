// The warps of attend_prefill_wgmma.cu that load: what tiles there are, their rows of q, their keys and values.
#pragma once

#include "attend_wgmma_shape.cuh"
#include "wgmma.cuh"

namespace fastgen::device::prefill {

// The list of tiles: sequence after sequence, of each the last rows first, of all KV heads. Found by a warp; indices only grow.
template <int kRows>
struct Search {
  int seq, before = 0;  // tiles of the sequences before seq

  __device__ bool find(const AttendLaunch& a, int index, Tile* tile) {
    const int lane = threadIdx.x % kWarp, num_kv_heads = a.layout.num_kv_heads, group = a.num_heads / num_kv_heads;
    const int place = index / num_kv_heads;
    for (; seq < a.num_seqs; seq += kWarp) {
      const int tokens = seq + lane < a.num_seqs ? num_queries(a, seq + lane) : 0, size = (tokens * group + kRows - 1) / kRows;
      int end = before + size;
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const int other = __shfl_up_sync(kAllLanes, end - before, offset);
        if (lane >= offset) end += other;
      }
      const unsigned beyond = __ballot_sync(kAllLanes, place < end);
      if (beyond != 0) {
        const int found = __ffs(beyond) - 1, owner = seq + found, all_tokens = __shfl_sync(kAllLanes, tokens, found);
        const int first_row = (__shfl_sync(kAllLanes, end, found) - 1 - place) * kRows;
        if (lane == 0)
          *tile = {owner, index % num_kv_heads, group, a.query_start[owner], first_row, min(kRows, all_tokens * group - first_row),
                   a.context_len[owner], all_tokens, a.window};
        return true;
      }
      before = __shfl_sync(kAllLanes, end, kWarp - 1);
    }
    return false;
  }
};

// Tiles are dealt by two counters that are zero between launches: tiles taken beyond the first of each block, blocks that are done.
template <typename S>
__device__ inline void find_tiles(const AttendLaunch& a, const Memory<S>& memory) {
  const int lane = threadIdx.x % kWarp;
  int* counters = static_cast<int*>(a.workspace);
  Search<S::kRows> search{a.num_decode_seqs};
  int index = blockIdx.x;
  for (Ring<kSlots> slot;; slot.advance()) {
    wait_barrier(memory.slot_empty(slot.at), slot.parity ^ 1);
    const bool found = search.find(a, index, &memory.tile(slot.at));
    if (!found && lane == 0) memory.tile(slot.at).seq = -1;
    if (lane == 0) arrive(memory.tile_full(slot.at));
    if (!found) break;
    if (lane == 0) index = gridDim.x + atomicAdd(counters, 1);
    index = __shfl_sync(kAllLanes, index, 0);
  }
  if (lane != 0) return;
  __threadfence();
  if (atomicAdd(counters + 1, 1) + 1 == static_cast<int>(gridDim.x)) counters[0] = counters[1] = 0;
}

// By two warps; rows that are none become zeros.
template <typename S>
__device__ inline void load_queries(const AttendLaunch& a, const Memory<S>& memory) {
  constexpr int kPieces = S::D / 8, kThreads = 2 * kWarp;
  const int thread = threadIdx.x - kWarp, piece = thread % kPieces;
  const __nv_bfloat16* q = static_cast<const __nv_bfloat16*>(a.q);
  for (Ring<kSlots> slot;; slot.advance()) {
    wait_barrier(memory.tile_full(slot.at), slot.parity);
    const Tile& tile = memory.tile(slot.at);
    if (tile.seq < 0) return;
    const unsigned to = memory.q(slot.at) + piece / 8 * S::kQPanelBytes;
#pragma unroll 4
    for (int row = thread / kPieces; row < S::kRows; row += kThreads / kPieces) {
      const bool real = row < tile.num_rows;
      copy_async(to + row / 64 * (64 * S::D * 2) + row % 64 * kSwizzleBytes + ((piece ^ row) & 7) * 16,
                 real ? q + tile.offset(a, row) + piece * 8 : q, real);
    }
    commit_copies();
    wait_copies<0>();
    publish_stores();
    arrive(memory.q_full(slot.at));
    arrive(memory.slot_empty(slot.at));
  }
}

// Rows of the arena, as a matrix of rows of D, where boxes of a tile's keys begin; -1: behind the context.
template <typename S>
struct Boxes {
  static constexpr int kCount = S::kKeys / kBoxKeys;
  int row[kCount];

  __device__ Boxes(const AttendLaunch& a, const Tile& tile, int first) {
    const std::int32_t* table = a.block_table + std::int64_t{tile.seq} * a.blocks_per_seq;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int key = first + i * kBoxKeys;
      row[i] = -1;
      if (key >= tile.context) continue;
      const std::int64_t tile_offset = a.layout.tile_offset(table[block_index(a, key)], a.layer, 0, tile.kv_head);
      row[i] = static_cast<int>(tile_offset / S::D) + place_in_block(a, key);
    }
  }
};

template <typename S>
__device__ inline void copy_boxes(const CUtensorMap& map, const Boxes<S>& boxes, int rows_further, unsigned to, unsigned full) {
  int bytes = 0;
#pragma unroll
  for (int i = 0; i < boxes.kCount; ++i) bytes += boxes.row[i] < 0 ? 0 : kBoxKeys * S::D * 2;
  expect_bytes(full, bytes);
#pragma unroll
  for (int i = 0; i < boxes.kCount; ++i) {
    if (boxes.row[i] < 0) continue;
#pragma unroll
    for (int panel = 0; panel < S::kPanels; ++panel)
      load_box(to + panel * S::kPanelBytes + i * kBoxKeys * kSwizzleBytes, map, panel * kSwizzleElements, boxes.row[i] + rows_further,
               full);
  }
}

// By one thread.
template <typename S>
__device__ inline void load_keys(const AttendLaunch& a, const CUtensorMap& map, const Memory<S>& memory) {
  const int v_rows_further = a.layout.num_kv_heads * a.layout.block_size;
  Ring<S::kStages> stage;
  for (Ring<kSlots> slot;; slot.advance()) {
    wait_barrier(memory.tile_full(slot.at), slot.parity);
    const Tile& tile = memory.tile(slot.at);
    if (tile.seq < 0) return;
    const KeyTiles<S::kKeys> tiles(tile);
    Boxes<S> next(a, tile, tiles.first(max(tiles.count - 1, 0)));
    for (int i = tiles.count - 1; i >= 0; --i, stage.advance()) {
      const Boxes<S> boxes = next;
      if (i > 0) next = Boxes<S>(a, tile, tiles.first(i - 1));  // on its way while this thread waits for a stage
      wait_barrier(memory.k_empty(stage.at), stage.parity ^ 1);
      copy_boxes<S>(map, boxes, 0, memory.k(stage.at), memory.k_full(stage.at));
      wait_barrier(memory.v_empty(stage.at), stage.parity ^ 1);
      copy_boxes<S>(map, boxes, v_rows_further, memory.v(stage.at), memory.v_full(stage.at));
    }
    arrive(memory.slot_empty(slot.at));
  }
}

}  // namespace fastgen::device::prefill
