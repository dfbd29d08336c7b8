// A team of blocks a row, nothing sorted. With few rows a team is a cluster of up to 8 blocks (sm_90), each with its run
// of the vocabulary, so that more than a handful of SMs have work; with many rows it is one block. Blocks of a
// team exchange one word at a time through each other's shared memory.
//
// Probabilities are relative to the largest and never stored: each pass computes them again from the logits, which lie in L2.
// Masses are added as integers (40 binary places), so that their sums depend neither on the order of threads nor on the
// team's size; thresholds for top_k and top_p come from a radix descent over the floats' bits, as on the CPU.
//
// Measured on an H200, rows of 32,768: greedy 10 us for 1 row, 20 us for 256 (3.4 TB/s); with a temperature 13 and 39 us. top_p
// took 81 and 697 us before its histograms went to 32-bit adds; not measured since.
#include <cooperative_groups.h>

#include "backend/counter_rng.h"
#include "device_math.cuh"
#include "launch.cuh"
#include "sample_kernels.h"

namespace fastgen::device {

namespace {

constexpr int kThreads = 512;
constexpr int kBuckets = 2048;
constexpr float kFixedOne = 0x1p40f;
using Mass = unsigned long long;

__device__ inline float without_nan(float x) { return isnan(x) ? -INFINITY : x; }

struct Best {
  float value;
  int id;
};
__device__ inline bool better(Best a, Best b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

__device__ Best block_best(Best x) {
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
  x = warp_best(partial[lane % (kThreads / kWarp)]);
  __syncthreads();
  return x;
}

__device__ Mass warp_mass(Mass x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__device__ Mass block_mass(Mass x) {
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

// Weight by bucket of probabilities. A weight is two words, because shared memory adds 32 bits at once but 64 only by trying
// again and again. A tiny probability has no mass: that there is one is noted apart.
struct Histogram {
  unsigned low[kBuckets], high[kBuckets];
  unsigned massless[kBuckets / kWarp];

  __device__ void clear() {
    for (int i = threadIdx.x; i < kBuckets; i += kThreads) low[i] = high[i] = massless[i / kWarp] = 0;
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
  __device__ const Mass* exchange(Mass word) {
    __shared__ Mass places[2][kParts];
    Mass* const place = places[turn_];
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
    const Mass* words = exchange(Mass{__float_as_uint(mine.value)} << 32 | static_cast<unsigned>(mine.id));
    for (int r = 0; r < kParts; ++r) {
      const Best other{__uint_as_float(static_cast<unsigned>(words[r] >> 32)), static_cast<int>(words[r])};
      if (better(other, mine)) mine = other;
    }
    return mine;
  }
  __device__ Mass sum(Mass mine) {
    if (kParts == 1) return mine;
    const Mass* words = exchange(mine);
    Mass total = 0;
    for (int r = 0; r < kParts; ++r) total += words[r];
    return total;
  }
  __device__ float sum(float mine) {
    if (kParts == 1) return mine;
    const Mass* words = exchange(__float_as_uint(mine));
    float total = 0;
    for (int r = 0; r < kParts; ++r) total += __uint_as_float(static_cast<unsigned>(words[r]));
    return total;
  }

  // Adds up the blocks' histograms; block 0 gets the result. Each block adds a run of the buckets.
  __device__ const Histogram& merge(const Histogram& mine, Histogram& merged) {
    if constexpr (kParts == 1) return mine;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
    constexpr int kRun = kBuckets / kParts, kWordRun = kRun / kWarp;
    Histogram& result = *cluster.map_shared_rank(&merged, 0);
    cluster.sync();
    for (int i = rank() * kRun + threadIdx.x; i < (rank() + 1) * kRun; i += kThreads) {
      Mass total = 0;
#pragma unroll 1
      for (int r = 0; r < kParts; ++r) total += cluster.map_shared_rank(&mine, r)->weight(i);
      result.low[i] = static_cast<unsigned>(total), result.high[i] = static_cast<unsigned>(total >> 32);
    }
    for (int i = rank() * kWordRun + threadIdx.x; i < (rank() + 1) * kWordRun; i += kThreads) {
      unsigned bits = 0;
#pragma unroll 1
      for (int r = 0; r < kParts; ++r) bits |= cluster.map_shared_rank(&mine, r)->massless[i];
      result.massless[i] = bits;
    }
    cluster.sync();
#endif
    return merged;
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
    visit_each(logits, begin, end, threadIdx.x, kThreads, visit);
  }
};

template <int kParts>
__device__ Run run_of(const Team<kParts>& team, const float* logits, int vocab) {
  const int length = (vocab + 4 * kParts - 1) / (4 * kParts) * 4;
  const int begin = team.rank() * length;  // less than vocab, which is large where there are several parts
  return {logits, begin, min(begin + length, vocab), vocab};
}

template <int kParts>
__device__ Best first_best(Team<kParts>& team, const Run& run) {
  Best best{-INFINITY, run.vocab};
  run.each([&](int i, float logit) {
    const Best x{without_nan(logit), i};
    if (better(x, best)) best = x;
  });
  return team.best(block_best(best));
}

// The best of the row that comes after `last` in the order (value down, id up).
template <int kParts>
__device__ Best next_best(Team<kParts>& team, const Run& run, Best last) {
  Best best{-INFINITY, run.vocab};
  run.each([&](int i, float logit) {
    const Best x{without_nan(logit), i};
    if (better(last, x) && better(x, best)) best = x;
  });
  return team.best(block_best(best));
}

// ---- logprobs of the raw row

template <int kParts>
__device__ float log_sum_exp(Team<kParts>& team, const Run& run, float max) {
  if (!isfinite(max)) return max;
  float sum = 0;
  run.each([&](int, float logit) { sum += __expf(without_nan(logit) - max); });
  return max + logf(team.sum(block_sum(sum)));
}

template <int kParts>
__device__ void write_logprobs(Team<kParts>& team, const Run& run, int id, int num_top, float* logprob,
                               std::int32_t* top_ids, float* top_logprobs) {
  const bool writes = threadIdx.x == 0 && team.rank() == 0;
  Best best = first_best(team, run);
  const float lse = log_sum_exp(team, run, best.value);
  if (writes && id >= 0 && id < run.vocab) *logprob = run.logits[id] - lse;
  for (int i = 0; i < min(num_top, min(kSampleTop, run.vocab)); ++i) {
    if (writes) top_ids[i] = best.id, top_logprobs[i] = best.value - lse;
    best = next_best(team, run, best);
  }
}

template <int kParts>
__global__ void __launch_bounds__(kThreads) token_logprobs_kernel(LogprobLaunch a) {
  let_next_start();
  Team<kParts> team;
  team.assemble();
  wait_for_previous();
  const std::int64_t row = team.row();
  write_logprobs(team, run_of(team, a.logits + row * a.vocab, a.vocab), a.ids[row], a.num_top, a.logprobs + row,
                 a.top_ids + row * kSampleTop, a.top_logprobs + row * kSampleTop);
}

// ---- bias and penalties: each block changes its own run

__device__ bool changes_logits(const SampleRow& row) {
  return row.bias_count > 0 || row.repetition_penalty != 1 || row.frequency_penalty != 0 ||
         row.presence_penalty != 0;
}

// visit(token, is_new) for the run's tokens at positions [begin, end) of the row's history. `seen`: a bit a token of the run.
template <typename Visit>
__device__ void for_history(const SampleLaunch& a, const SampleRow& row, const Run& run, int begin, int end, unsigned* seen,
                            Visit visit) {
  for (int i = threadIdx.x; i < (run.end - run.begin + 31) / 32; i += kThreads) seen[i] = 0;
  __syncthreads();
  const std::int32_t* table = a.block_table + std::int64_t{row.table_row} * a.blocks_per_seq;
  for (int p = begin + threadIdx.x; p < end; p += kThreads) {
    const std::int64_t slot = std::int64_t{table[p / a.block_size]} * a.block_size + p % a.block_size;
    const int token = a.arena_token_ids[slot];
    if (token < run.begin || token >= run.end) continue;
    const unsigned place = token - run.begin, bit = 1u << (place % 32);
    visit(token, (atomicOr(&seen[place / 32], bit) & bit) == 0);
  }
  __syncthreads();
}

__device__ void change_logits(const SampleLaunch& a, const SampleRow& row, const Run& run, float* work) {
  extern __shared__ unsigned seen[];
  run.each([&](int i, float logit) { work[i] = without_nan(logit); });
  __syncthreads();
  for (int i = threadIdx.x; i < row.bias_count; i += kThreads) {
    const int id = a.bias_ids[row.bias_start + i];
    if (id >= run.begin && id < run.end) atomicAdd(&work[id], a.bias_values[row.bias_start + i]);
  }
  __syncthreads();
  if (row.repetition_penalty != 1) {
    for_history(a, row, run, 0, row.history_len, seen, [&](int token, bool is_new) {
      const float x = work[token];
      if (is_new) work[token] = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    });
  }
  if (row.frequency_penalty != 0 || row.presence_penalty != 0) {
    for_history(a, row, run, row.prompt_len, row.history_len, seen, [&](int token, bool is_new) {
      atomicAdd(&work[token], -row.frequency_penalty - (is_new ? row.presence_penalty : 0.0f));
    });
  }
}

// ---- truncation and the draw

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

// From the top, the last bucket that has anything in it and less than `limit` above it; by all threads of a block, each with a few
// buckets. `above` is what lies above them all, and then above the one picked; it is less than the limit, so there is one.
__device__ void pick_bucket(const Histogram& histogram, Mass limit, Mass* above, unsigned* picked) {
  constexpr int kEach = kBuckets / kThreads;
  __shared__ Mass warp_totals[kThreads / kWarp];
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
    const Histogram& all = team.merge(mine, merged);
    if (team.rank() == 0) pick_bucket(all, limit, &above, &picked);
    __syncthreads();
    prefix |= static_cast<unsigned>(team.exchange(picked)[0]) << shift;
    prefix_mask |= mask << shift;
  }
  return __uint_as_float(prefix);
}

// The id at which the running mass of [begin, end) exceeds `target`, by one warp; it does so somewhere. Whole groups are skipped
// by their sums, then the group is walked.
__device__ int walk(const Distribution& d, int begin, int end, Mass target) {
  constexpr int kGroup = 8 * kWarp;
  const int lane = threadIdx.x % kWarp;
  const auto mass = [&](int i) { return i < end ? d.mass(d.run.logits[i]) : Mass{0}; };
  Mass below = 0;
  for (; begin + kGroup < end; begin += kGroup) {
    Mass sum = 0;
#pragma unroll
    for (int j = 0; j < kGroup; j += kWarp) sum += mass(begin + j + lane);
    sum = warp_mass(sum);
    if (below + sum > target) break;
    below += sum;
  }
  for (; begin < end; begin += kWarp) {
    Mass running = mass(begin + lane);
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const Mass other = __shfl_up_sync(kAllLanes, running, offset);
      if (lane >= offset) running += other;
    }
    const unsigned past = __ballot_sync(kAllLanes, below + running > target);
    if (past != 0) return begin + __ffs(past) - 1;
    below += __shfl_sync(kAllLanes, running, kWarp - 1);
  }
  return 0;
}

// The first id, in order of ids, at which the running mass exceeds u * total.
template <int kParts>
__device__ int draw(Team<kParts>& team, const Distribution& d, float u) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ Mass segment[kWarps];
  __shared__ int result;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, size = d.run.end - d.run.begin;
  const int length = ((size + kWarps - 1) / kWarps + 4 * kWarp - 1) / (4 * kWarp) * (4 * kWarp);  // of a warp's segment
  const int begin = min(d.run.begin + warp * length, d.run.end), end = min(begin + length, d.run.end);
  Mass sum = 0;
  visit_each(d.run.logits, begin, end, lane, kWarp, [&](int, float logit) { sum += d.mass(logit); });
  sum = warp_mass(sum);
  if (lane == 0) segment[warp] = sum;
  if (threadIdx.x == 0) result = -1;
  __syncthreads();
  Mass mine = 0, total = 0, below = 0;
  for (int w = 0; w < kWarps; ++w) mine += segment[w];
  const Mass* masses = team.exchange(mine);
  for (int r = 0; r < kParts; ++r) total += masses[r], below += r < team.rank() ? masses[r] : 0;
  for (int w = 0; w < warp; ++w) below += segment[w];
  const Mass target =
      min(static_cast<Mass>(static_cast<double>(u) * static_cast<double>(total)), total - (total > 0));
  if (target >= below && target < below + sum) {
    const int id = walk(d, begin, end, target - below);
    if (lane == 0) result = id;
  }
  __syncthreads();
  // One block has found it; without any mass none has.
  const Mass* ids = team.exchange(static_cast<unsigned>(result));
  int id = 0;
  for (int r = 0; r < kParts; ++r) id = max(id, static_cast<int>(static_cast<unsigned>(ids[r])));
  return id;
}

template <int kParts>
__device__ int choose(Team<kParts>& team, const SampleRow& row, const Run& run) {
  const Best best = first_best(team, run);
  const float scale = 1.0f / row.temperature;
  if (row.temperature <= 0 || !isfinite(scale) || !isfinite(best.value)) return best.id < run.vocab ? best.id : 0;
  Distribution d{run, best.value, scale, fmaxf(row.min_p, 0x1p-126f)};
  if (row.top_k > 0 && row.top_k < run.vocab)
    d.least = fmaxf(d.least, threshold<true>(team, d, static_cast<Mass>(row.top_k)));
  if (row.top_p < 1) {
    const double total = static_cast<double>(team.sum(d.block_total())), limit = static_cast<double>(row.top_p) * total;
    // All tokens under this have together less than the mass that top_p cuts, so none of them is kept: most need not be sorted.
    const double cut = (1 - static_cast<double>(row.top_p)) * total / static_cast<double>(kFixedOne);
    d.least = fmaxf(d.least, static_cast<float>(cut / run.vocab * 0.5));
    d.least = fmaxf(d.least, threshold<false>(team, d, max(static_cast<Mass>(limit), Mass{1})));
  }
  return draw(team, d, sampling_uniform(row.seed, row.choice_idx, row.position));
}

template <int kParts>
__global__ void __launch_bounds__(kThreads, 2) sample_kernel(SampleLaunch a) {
  let_next_start();
  Team<kParts> team;
  team.assemble();
  wait_for_previous();
  const std::int64_t s = team.row();
  const SampleRow row = a.rows[s];
  if (row.state_slot < 0) return;
  const Run raw = run_of(team, a.logits + std::int64_t{row.logits_row} * a.vocab, a.vocab);
  Run run = raw;
  if (changes_logits(row)) {
    float* work = a.work + s * a.vocab;
    change_logits(a, row, raw, work);
    run.logits = work;
  }
  const int id = choose(team, row, run);
  if (threadIdx.x == 0 && team.rank() == 0) a.ids[s] = a.state_tokens[row.state_slot] = id;
  if (row.num_top >= 0)
    write_logprobs(team, raw, id, row.num_top, a.logprobs + s, a.top_ids + s * kSampleTop,
                   a.top_logprobs + s * kSampleTop);
}

// How many blocks share a row: as many as leave no SM with more than one.
int num_parts(int num_rows, int vocab) {
  if (card().major < 9 || vocab < 8192) return 1;
  int parts = 8;
  while (parts > 1 && num_rows * parts > card().num_sms) parts /= 2;
  return parts;
}

template <int kParts>
void launch_sample(const SampleLaunch& a, cudaStream_t stream) {
  // Beyond 48 KB with the static part only after asking; a failure shows at the launch, where the backend checks.
  static const cudaError_t raised = [] {
    int most = 0, device = 0;
    cudaFuncAttributes attributes{};
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaFuncGetAttributes(&attributes, sample_kernel<kParts>);
    return cudaFuncSetAttribute(sample_kernel<kParts>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                most - static_cast<int>(attributes.sharedSizeBytes));
  }();
  (void)raised;
  const int run = (a.vocab + 4 * kParts - 1) / (4 * kParts) * 4 + 4;
  const LaunchShape shape{static_cast<unsigned>(a.num_rows * kParts), kThreads,
                          static_cast<std::size_t>((run + 31) / 32 * 4), kParts};
  launch(sample_kernel<kParts>, shape, stream, a);
}

}  // namespace

void sample(const SampleLaunch& a, cudaStream_t stream) {
  if (a.num_rows == 0) return;
  switch (num_parts(a.num_rows, a.vocab)) {
    case 8: return launch_sample<8>(a, stream);
    case 4: return launch_sample<4>(a, stream);
    case 2: return launch_sample<2>(a, stream);
    default: return launch_sample<1>(a, stream);
  }
}

void token_logprobs(const LogprobLaunch& a, cudaStream_t stream) {
  if (a.num_rows == 0) return;
  const auto rows = static_cast<unsigned>(a.num_rows);
  if (num_parts(a.num_rows, a.vocab) == 8) {
    launch(token_logprobs_kernel<8>, {rows * 8, kThreads, 0, 8}, stream, a);
  } else {
    launch(token_logprobs_kernel<1>, {rows, kThreads}, stream, a);
  }
}

}  // namespace fastgen::device
