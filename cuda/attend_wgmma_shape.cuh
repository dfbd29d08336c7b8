// How attend_prefill_wgmma.cu lays out its shared memory, and how its warps walk through it.
#pragma once

#include "attend_plan.cuh"
#include "hopper.cuh"

namespace fastgen::device::prefill {

inline constexpr int kBoxKeys = 64;  // of one copy: a block, or part of one
inline constexpr int kSlots = 2;     // tiles that are known at once: the one that is computed and the next
inline constexpr int kBarrierBytes = 8;

// Shared memory: q [slots], K [stages], V [stages], barriers, tiles [slots]. A matrix of rows of D is D / 64 panels of 64 columns, each
// with rows of 128 bytes, swizzled (hopper.cuh).
template <int D_>
struct Shape {
  static constexpr int D = D_, kKeys = 128, kStages = D == 64 ? 4 : 2;
  static constexpr int kConsumers = 2;  // warpgroups that compute
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
  static constexpr int kLoadRegisters = 40, kConsumerRegisters = 232;  // of 512 for a thread of each
  static constexpr int kPanels = D / kSwizzleElements;
  static constexpr int kPanelBytes = kKeys * kSwizzleBytes;                // of K and V
  static constexpr int kQPanelBytes = 64 * kSwizzleBytes;                  // of a warpgroup's q
  static constexpr int kQBytes = kRows * D * 2, kTileBytes = kKeys * D * 2;
  static constexpr int kK = kSlots * kQBytes, kV = kK + kStages * kTileBytes, kBarriers = kV + kStages * kTileBytes;
  static constexpr int kTiles = kBarriers + (4 * kStages + 3 * kSlots) * kBarrierBytes;
  static constexpr int kBytes = (kTiles + kSlots * static_cast<int>(sizeof(Tile)) + 15) / 16 * 16 + 1024;  // 1024: it is aligned within
};

// Where things lie in shared memory.
template <typename S>
struct Memory {
  unsigned base;
  unsigned char* bytes;  // at base

  __device__ unsigned q(int slot) const { return base + slot * S::kQBytes; }
  __device__ unsigned k(int stage) const { return base + S::kK + stage * S::kTileBytes; }
  __device__ unsigned v(int stage) const { return base + S::kV + stage * S::kTileBytes; }
  __device__ unsigned barrier(int i) const { return base + S::kBarriers + i * kBarrierBytes; }
  __device__ unsigned k_full(int stage) const { return barrier(stage); }
  __device__ unsigned k_empty(int stage) const { return barrier(S::kStages + stage); }
  __device__ unsigned v_full(int stage) const { return barrier(2 * S::kStages + stage); }
  __device__ unsigned v_empty(int stage) const { return barrier(3 * S::kStages + stage); }
  __device__ unsigned tile_full(int slot) const { return barrier(4 * S::kStages + slot); }
  __device__ unsigned q_full(int slot) const { return barrier(4 * S::kStages + kSlots + slot); }
  __device__ unsigned slot_empty(int slot) const { return barrier(4 * S::kStages + 2 * kSlots + slot); }
  __device__ Tile& tile(int slot) const { return reinterpret_cast<Tile*>(bytes + S::kTiles)[slot]; }

  __device__ void init_barriers() const {
    constexpr int kConsumerWarps = S::kConsumers * kWarpgroup / kWarp;
    for (int i = 0; i < S::kStages; ++i) {
      init_barrier(k_full(i), 1), init_barrier(k_empty(i), kConsumerWarps);
      init_barrier(v_full(i), 1), init_barrier(v_empty(i), kConsumerWarps);
    }
    for (int i = 0; i < kSlots; ++i) {
      init_barrier(tile_full(i), 1), init_barrier(q_full(i), 2 * kWarp);
      // Every thread that reads the tile: one for its warp would do, but racecheck would see races.
      init_barrier(slot_empty(i), S::kConsumers * kWarpgroup + 2 * kWarp + 1);
    }
    publish_barriers();
  }
};

// The keys that any row of the tile sees, in tiles of kKeys from a block's edge on.
template <int kKeys>
struct KeyTiles {
  int begin, count;
  __device__ explicit KeyTiles(const Tile& tile) {
    begin = tile.span(0).begin / kBoxKeys * kBoxKeys;
    count = max(0, (tile.span(tile.num_rows - 1).end - begin + kKeys - 1) / kKeys);
  }
  __device__ int first(int i) const { return begin + i * kKeys; }
};

}  // namespace fastgen::device::prefill
