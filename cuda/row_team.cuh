// What the kernels that read rows of logits share: a team of blocks a row, and walks over a row's logits.
//
// With few rows a team is a cluster of up to 8 blocks (sm_90), each with its run of the vocabulary, so that more than a handful of
// SMs have work; with many rows it is one block. Blocks of a team exchange one word at a time through each other's shared memory.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#include "device_math.cuh"
#include "launch.cuh"

namespace fastgen::device {

inline constexpr int kTeamThreads = 512;    // of a block
inline constexpr int kPartsMax = 8;         // the largest cluster that every card of sm_90 takes
inline constexpr int kVocabToShare = 8192;  // shorter rows are one block's

using Word = unsigned long long;  // what blocks exchange

__device__ inline float without_nan(float x) { return isnan(x) ? -INFINITY : x; }

struct Best {
  float value;
  int id;
};
__device__ inline bool better(Best a, Best b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

__device__ inline Best block_best(Best x) {
  __shared__ Best partial[kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const auto warp_best = [](Best x) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const Best other{__shfl_xor_sync(kAllLanes, x.value, offset), __shfl_xor_sync(kAllLanes, x.id, offset)};
      if (better(other, x)) x = other;
    }
    return x;
  };
  x = warp_best(x);
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  x = warp_best(partial[lane % (kTeamThreads / kWarp)]);
  __syncthreads();
  return x;
}

// The blocks that work on one row. Every call is made by all threads of all of them, with a value that is the same throughout a
// block.
template <int kParts>
class Team {
 public:
  __device__ int rank() const { return kParts == 1 ? 0 : static_cast<int>(blockIdx.x) % kParts; }
  __device__ std::int64_t row() const { return blockIdx.x / kParts; }

  // Before the first exchange: no block may reach into another that has not begun.
  __device__ void assemble() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (kParts > 1) cooperative_groups::this_cluster().sync();
#endif
  }

  // The word of each block, in order of rank. Two places in turn: who writes a place again has passed the barrier
  // of the exchange between, which every block reaches only when it has read the place.
  __device__ const Word* exchange(Word word) {
    __shared__ Word places[2][kParts];
    Word* const place = places[turn_];
    turn_ ^= 1;
    if constexpr (kParts == 1) {
      if (threadIdx.x == 0) place[0] = word;
      __syncthreads();
    } else {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
      cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
      if (threadIdx.x < kParts) cluster.map_shared_rank(place, threadIdx.x)[rank()] = word;
      cluster.sync();
#endif
    }
    return place;
  }

  __device__ Best best(Best mine) {
    if (kParts == 1) return mine;
    const Word* words = exchange(Word{__float_as_uint(mine.value)} << 32 | static_cast<unsigned>(mine.id));
    for (int r = 0; r < kParts; ++r) {
      const Best other{__uint_as_float(static_cast<unsigned>(words[r] >> 32)), static_cast<int>(words[r])};
      if (better(other, mine)) mine = other;
    }
    return mine;
  }
  __device__ Word sum(Word mine) {
    if (kParts == 1) return mine;
    const Word* words = exchange(mine);
    Word total = 0;
    for (int r = 0; r < kParts; ++r) total += words[r];
    return total;
  }
  __device__ float sum(float mine) {
    if (kParts == 1) return mine;
    const Word* words = exchange(__float_as_uint(mine));
    float total = 0;
    for (int r = 0; r < kParts; ++r) total += __uint_as_float(static_cast<unsigned>(words[r]));
    return total;
  }

 private:
  int turn_ = 0;
};

// visit(id, logit) for the ids [begin, end), shared among `num_threads` of which this is number `thread`. begin is a multiple of 4.
template <typename Visit>
__device__ void visit_each(const float* logits, int begin, int end, int thread, int num_threads, Visit visit) {
  int rest = begin;
  if (reinterpret_cast<std::uintptr_t>(logits) % 16 == 0) {
    rest = max(begin, end / 4 * 4);
#pragma unroll 4
    for (int i = begin + thread * 4; i < rest; i += num_threads * 4) {
      const float4 x = *reinterpret_cast<const float4*>(logits + i);
      visit(i, x.x), visit(i + 1, x.y), visit(i + 2, x.z), visit(i + 3, x.w);
    }
  }
#pragma unroll 4
  for (int i = rest + thread; i < end; i += num_threads) visit(i, logits[i]);
}

// A block's run of a row: ids [begin, end); begin is a multiple of 4.
struct Run {
  const float* logits;  // of the whole row
  int begin, end, vocab;

  // By all threads of the block.
  template <typename Visit>
  __device__ void each(Visit visit) const {
    visit_each(logits, begin, end, threadIdx.x, kTeamThreads, visit);
  }
};

// The most ids of a run.
__host__ __device__ constexpr int run_length(int vocab, int num_parts) { return (vocab + 4 * num_parts - 1) / (4 * num_parts) * 4; }

template <int kParts>
__device__ Run run_of(const Team<kParts>& team, const float* logits, int vocab) {
  const int length = run_length(vocab, kParts);
  const int begin = team.rank() * length;  // less than vocab, which is large where there are several parts
  return {logits, begin, min(begin + length, vocab), vocab};
}

// The best of the row among those that `counts`; id run.vocab if none does.
template <int kParts, typename Counts>
__device__ Best best_of(Team<kParts>& team, const Run& run, Counts counts) {
  Best best{-INFINITY, run.vocab};
  run.each([&](int i, float logit) {
    const Best x{without_nan(logit), i};
    if (counts(x) && better(x, best)) best = x;
  });
  return team.best(block_best(best));
}
template <int kParts>
__device__ Best first_best(Team<kParts>& team, const Run& run) {
  return best_of(team, run, [](Best) { return true; });
}
// The one after `last` in the order (value down, id up).
template <int kParts>
__device__ Best next_best(Team<kParts>& team, const Run& run, Best last) {
  return best_of(team, run, [last](Best x) { return better(last, x); });
}

// How many blocks share a row: as many as leave no SM with more than one.
inline int num_parts(int num_rows, int vocab) {
  if (card().major < 9 || vocab < kVocabToShare) return 1;
  int parts = kPartsMax;
  while (parts > 1 && num_rows * parts > card().num_sms) parts /= 2;
  return parts;
}

}  // namespace fastgen::device
