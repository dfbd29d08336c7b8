// How a CTA of decode attention is made: its warps, and what lies where in its shared memory.
#pragma once

#include "attend_decode_plan.cuh"
#include "attend_load.cuh"

namespace fastgen::device::decode {

inline constexpr int kWarps = kDecodeWarps;
inline constexpr int kThreads = kWarps * kWarp;
inline constexpr int kChunk = kTile / kWarps;  // keys that a warp takes at once
inline constexpr int kHeads = 8;               // query heads in one mma

// Shared memory of one CTA, in bytes from its start.
//   ring   [warp][stage][K|V] chunks of 16 rows
//   sums   [warp][8 heads][D, up to whole lines] float, then stats [warp][16 heads] float2 {m, l}
//   plan   ints
template <int D>
struct Shape {
  using Rows = PieceLayout<D>;
  static constexpr int kHeadBlocks = D > 128 ? 1 : 2;  // the most; a larger group takes several passes
  static constexpr int kChunkBytes = kChunk * Rows::kRowBytes;
  static constexpr int kStageBytes = 2 * kChunkBytes;
  static constexpr int kSumPitch = (D + 31) / 32 * 32;
  static constexpr int kSumBytes = kWarps * kHeads * kSumPitch * 4;
  static constexpr int kStatBytes = kWarps * 2 * kHeads * 8;
  static constexpr int kPlanBytes = 64;
  static constexpr int fixed_bytes() { return kSumBytes + kStatBytes + kPlanBytes; }
  static constexpr int bytes(int stages) { return kWarps * stages * kStageBytes + fixed_bytes(); }
};

}  // namespace fastgen::device::decode
