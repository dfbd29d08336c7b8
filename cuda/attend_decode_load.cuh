// The loads of decode attention: each warp fills a ring of its own, some chunks ahead of its products, over the ends of heads and sequences.
#pragma once

#include "attend_decode_shape.cuh"

namespace fastgen::device::decode {

// A warp's place in the loads, some chunks ahead of the products.
struct Loader {
  Walk walk;
  Segment s;
  bool live;
  int block;  // block table's entry for key `lane` (mod 16) of the chunk; read one chunk ahead of its use

  __device__ void begin(const AttendLaunch& a, const Plan& plan, const Walk& all) {
    walk = all;
    take(a, plan);
    look_up(a);
  }
  __device__ void take(const AttendLaunch& a, const Plan& plan) {
    do live = walk.take(a, plan, s);
    while (live && s.tile == s.tile_end);
  }
  __device__ int first_key() const { return s.tile * kTile + static_cast<int>(threadIdx.x) / kWarp * kChunk; }
  // Whether the warp's next chunk holds the key that this step writes, its sequence's last.
  __device__ bool is_new() const { return live && first_key() + kChunk >= s.span.end; }
  __device__ void look_up(const AttendLaunch& a) {
    if (!live) return;
    const int key = min(max(first_key() + static_cast<int>(threadIdx.x) % kChunk, s.span.begin), s.span.end - 1);
    block = a.block_table[std::int64_t{s.seq} * a.blocks_per_seq + block_index(a, key)];
  }
  __device__ void advance(const AttendLaunch& a, const Plan& plan) {
    if (live && ++s.tile == s.tile_end) take(a, plan);
    look_up(a);
  }
};

// Starts the loads of a warp's next chunk, and steps on.
template <int D>
__device__ void load_chunk(const AttendLaunch& a, const Plan& plan, Loader& loader, unsigned to) {
  const Segment& s = loader.s;
  const int first = loader.first_key(), lane = threadIdx.x % kWarp;
  if (loader.live && first < s.span.end && first + kChunk > s.span.begin)
    load_keys<D, kChunk, kWarp>(a, s.kv_head, s.span, first, lane, to, [&](int key) {
      return __shfl_sync(kAllLanes, loader.block, key - first);
    });
  loader.advance(a, plan);
}

__device__ inline void wait_for_oldest(int stages) {
  switch (stages) {
    case 2: return wait_copies<1>();
    case 3: return wait_copies<2>();
    case 4: return wait_copies<3>();
    case 5: return wait_copies<4>();
    default: return wait_copies<5>();
  }
}

}  // namespace fastgen::device::decode
