// Sampling's probabilities, and the thresholds below which top_k and top_p cut them, without sorting: a radix descent over the
// floats' bits, as on the CPU.
//
// Probabilities are relative to the largest and never stored: each pass computes them again from the logits, which lie in L2. Masses
// are added as integers (40 binary places), so that their sums depend neither on the order of threads nor on the team's size.
#pragma once

#include "row_team.cuh"

namespace fastgen::device {

using Mass = Word;
inline constexpr float kFixedOne = 0x1p40f;  // the mass of probability 1
inline constexpr int kBuckets = 2048;

__device__ inline Mass warp_mass(Mass x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__device__ inline Mass block_mass(Mass x) {
  __shared__ Mass total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  x = warp_mass(x);
  if (threadIdx.x % kWarp == 0) atomicAdd(&total, x);
  __syncthreads();
  x = total;
  __syncthreads();
  return x;
}

struct Distribution {
  Run run;
  float max, scale;
  float least;  // probabilities below are cut

  __device__ float prob(float logit) const {
    const float p = isnan(logit) ? 0.0f : __expf((logit - max) * scale);
    return p >= least ? p : 0.0f;
  }
  __device__ Mass mass(float logit) const { return static_cast<Mass>(prob(logit) * kFixedOne); }
  __device__ Mass block_total() const {
    Mass sum = 0;
    run.each([&](int, float logit) { sum += mass(logit); });
    return block_mass(sum);
  }
};

// Weight by bucket of probabilities. A weight is two words, because shared memory adds 32 bits at once but 64 only by trying
// again and again. A tiny probability has no mass: that there is one is noted apart.
struct Histogram {
  unsigned low[kBuckets], high[kBuckets];
  unsigned massless[kBuckets / kWarp];

  __device__ void clear() {
    for (int i = threadIdx.x; i < kBuckets; i += kTeamThreads) low[i] = high[i] = massless[i / kWarp] = 0;
  }
  __device__ void add(unsigned bucket, Mass weight) {
    if (weight == 0) atomicOr(&massless[bucket / kWarp], 1u << (bucket % kWarp));
    const unsigned first = static_cast<unsigned>(weight);
    unsigned second = static_cast<unsigned>(weight >> 32);
    if (first != 0) second += atomicAdd(&low[bucket], first) + first < first;  // the carry
    if (second != 0) atomicAdd(&high[bucket], second);
  }
  __device__ bool has(int bucket) const {
    return weight(bucket) != 0 || (massless[bucket / kWarp] >> (bucket % kWarp) & 1) != 0;
  }
  __device__ Mass weight(int bucket) const { return Mass{high[bucket]} << 32 | low[bucket]; }
};

// Adds up the blocks' histograms; block 0 gets the result. Each block adds a run of the buckets.
template <int kParts>
__device__ const Histogram& merge(const Team<kParts>& team, const Histogram& mine, Histogram& merged) {
  if constexpr (kParts == 1) return mine;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
  constexpr int kRun = kBuckets / kParts, kWordRun = kRun / kWarp;
  Histogram& result = *cluster.map_shared_rank(&merged, 0);
  cluster.sync();
  for (int i = team.rank() * kRun + threadIdx.x; i < (team.rank() + 1) * kRun; i += kTeamThreads) {
    Mass total = 0;
#pragma unroll 1
    for (int r = 0; r < kParts; ++r) total += cluster.map_shared_rank(&mine, r)->weight(i);
    result.low[i] = static_cast<unsigned>(total), result.high[i] = static_cast<unsigned>(total >> 32);
  }
  for (int i = team.rank() * kWordRun + threadIdx.x; i < (team.rank() + 1) * kWordRun; i += kTeamThreads) {
    unsigned bits = 0;
#pragma unroll 1
    for (int r = 0; r < kParts; ++r) bits |= cluster.map_shared_rank(&mine, r)->massless[i];
    result.massless[i] = bits;
  }
  cluster.sync();
#endif
  return merged;
}

// From the top, the last bucket that has anything in it and less than `limit` above it; by all threads of a block, each with a few
// buckets. `above` is what lies above them all, and then above the one picked; it is less than the limit, so there is one.
__device__ inline void pick_bucket(const Histogram& histogram, Mass limit, Mass* above, unsigned* picked) {
  constexpr int kEach = kBuckets / kTeamThreads;
  __shared__ Mass warp_totals[kTeamThreads / kWarp];
  __shared__ int last;  // of those that qualify, in order from the top
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, first = threadIdx.x * kEach;
  Mass mine = 0;
  for (int j = 0; j < kEach; ++j) mine += histogram.weight(kBuckets - 1 - first - j);
  Mass before = mine;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Mass other = __shfl_up_sync(kAllLanes, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == kWarp - 1) warp_totals[warp] = before;
  if (threadIdx.x == 0) last = 0, *picked = 0;
  before += *above - mine;
  __syncthreads();
  for (int w = 0; w < warp; ++w) before += warp_totals[w];
  int found = -1;
  Mass found_above = 0;
  for (int j = 0; j < kEach; ++j) {
    if (histogram.has(kBuckets - 1 - first - j) && before < limit) found = first + j, found_above = before;
    before += histogram.weight(kBuckets - 1 - first - j);
  }
  if (found >= 0) atomicMax(&last, found);
  __syncthreads();
  if (found >= 0 && found == last) *picked = static_cast<unsigned>(kBuckets - 1 - found), *above = found_above;
}

// Declared in a function of its own, so that both kinds of threshold use the same memory.
template <int kParts>
__device__ Histogram* histograms() {
  __shared__ Histogram pair[kParts == 1 ? 1 : 2];
  return pair;
}

// The least probability with less than `limit` of weight strictly above it; weight is 1 or the mass.
template <bool kCount, int kParts>
__device__ float threshold(Team<kParts>& team, const Distribution& d, Mass limit) {
  __shared__ Mass above;  // in block 0, as is `picked`
  __shared__ unsigned picked;
  Histogram &mine = histograms<kParts>()[0], &merged = histograms<kParts>()[kParts > 1];
  unsigned prefix = 0, prefix_mask = 0;
  if (threadIdx.x == 0) above = 0, picked = 0;
#pragma unroll 1
  for (int level = 0; level < 3; ++level) {
    mine.clear();
    __syncthreads();
    const int shift = level == 0 ? 21 : level == 1 ? 10 : 0;
    const unsigned mask = level < 2 ? 0x7ff : 0x3ff;
    d.run.each([&](int, float logit) {
      const float p = d.prob(logit);
      const unsigned key = __float_as_uint(p);
      if (p <= 0 || (key & prefix_mask) != prefix) return;
      mine.add(key >> shift & mask, kCount ? Mass{1} : static_cast<Mass>(p * kFixedOne));
    });
    __syncthreads();
    const Histogram& all = merge(team, mine, merged);
    if (team.rank() == 0) pick_bucket(all, limit, &above, &picked);
    __syncthreads();
    prefix |= static_cast<unsigned>(team.exchange(picked)[0]) << shift;
    prefix_mask |= mask << shift;
  }
  return __uint_as_float(prefix);
}

}  // namespace fastgen::device
