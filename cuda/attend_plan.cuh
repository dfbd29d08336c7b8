// What the tiled attention kernels share: who owns which rows and keys, and how a CTA finds its share of a list that
// is known on the device alone.
#pragma once

#include "attend_kernel.h"
#include "device_math.cuh"

namespace fastgen::device {

inline constexpr float kLog2E = 1.4426950408889634f;

// Positions begin .. end - 1 of a sequence.
struct Span {
  int begin, end;
  __host__ __device__ bool empty() const { return end <= begin; }
};

// The place of a key's block in its sequence's table, and of the key in the block. A division costs a warp some 80 cycles.
__device__ inline int block_index(const AttendLaunch& a, int key) {
  return a.block_shift >= 0 ? key >> a.block_shift : key / a.layout.block_size;
}
__device__ inline int place_in_block(const AttendLaunch& a, int key) {
  return a.block_shift >= 0 ? key & (a.layout.block_size - 1) : key % a.layout.block_size;
}

__host__ __device__ inline int num_queries(const AttendLaunch& a, int seq) {
  return a.query_start[seq + 1] - a.query_start[seq];
}

// Sum of `mine` over the threads before this one; `total`: over all. Two barriers. partial: one int a warp, shared.
template <int kWarps>
__device__ inline int prefix_sum(int mine, int* partial, int& total) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  int sum = mine;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == kWarp - 1) partial[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    before += w < warp ? partial[w] : 0;
    total += partial[w];
  }
  __syncthreads();
  return before + sum - mine;
}

// A place in the list that holds size(seq) entries for each sequence in turn.
struct Place {
  int seq;    // whose entries hold it
  int first;  // that sequence's first entry in the list
};

// A thread's run of sequences: each thread sums a run, so that one scan finds any place.
struct Run {
  int begin, end;
  template <int kThreads>
  __device__ static Run of_thread(int first_seq, int num_seqs) {
    const int each = (num_seqs - first_seq + kThreads - 1) / kThreads;
    const int begin = first_seq + static_cast<int>(threadIdx.x) * each;
    return {min(begin, num_seqs), min(begin + each, num_seqs)};
  }
  template <typename Size>
  __device__ int sum(Size size) const {
    int sum = 0;
    for (int seq = begin; seq < end; ++seq) sum += size(seq);
    return sum;
  }
  // Writes to `found` if `place` is in this run, whose first entry is `first`.
  template <typename Size>
  __device__ void find(Size size, int first, int place, Place* found) const {
    if (place < first) return;
    for (int seq = begin; seq < end; ++seq) {
      const int count = size(seq);
      if (place < first + count) {
        *found = {seq, first};
        return;
      }
      first += count;
    }
  }
};

// A tile of the packed rows of a sequence and a KV head (attend_prefill.cu): rows first_row .. It lies in shared memory: the registers are
// full of scores and sums.
struct Tile {
  int seq, kv_head, group;  // group: query heads of the KV head
  int first_token;          // the sequence's first row in q
  int first_row, num_rows;
  int context, num_tokens, window;

  __device__ int token(int row) const { return (first_row + row) / group; }  // in the sequence's chunk
  __device__ int head(int row) const { return kv_head * group + (first_row + row) % group; }
  // The keys that a row sees.
  __device__ Span span(int row) const {
    const int end = context - (num_tokens - 1 - token(row));
    return {window > 0 ? max(0, end - window) : 0, end};
  }
  // The first element of the row's head in q and out.
  __device__ std::int64_t offset(const AttendLaunch& a, int row) const {
    return ((std::int64_t{first_token} + token(row)) * a.num_heads + head(row)) * a.layout.head_dim;
  }
};

}  // namespace fastgen::device
