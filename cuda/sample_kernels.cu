// One CTA a row, nothing sorted. Probabilities are relative to the largest and never stored: each pass
// computes them again from the logits, which lie in L2. Masses are added as integers (40 binary places), so
// that their sums do not depend on the order of threads; thresholds for top_k and top_p come from a radix
// descent over the floats' bits, as on the CPU.
#include "backend/counter_rng.h"
#include "device_math.cuh"
#include "sample_kernels.h"

namespace fastgen::device {

namespace {

constexpr int kThreads = 1024;
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
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Best other{__shfl_xor_sync(kAllLanes, x.value, offset), __shfl_xor_sync(kAllLanes, x.id, offset)};
    if (better(other, x)) x = other;
  }
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  x = partial[lane];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Best other{__shfl_xor_sync(kAllLanes, x.value, offset), __shfl_xor_sync(kAllLanes, x.id, offset)};
    if (better(other, x)) x = other;
  }
  __syncthreads();
  return x;
}

// The best of the row that comes after `last` in the order (value down, id up).
__device__ Best next_best(const float* logits, int vocab, Best last) {
  Best best{-INFINITY, vocab};
  for (int i = threadIdx.x; i < vocab; i += kThreads) {
    const Best x{without_nan(logits[i]), i};
    if (better(last, x) && better(x, best)) best = x;
  }
  return block_best(best);
}

__device__ Best first_best(const float* logits, int vocab) {
  return next_best(logits, vocab, {INFINITY, -1});
}

__device__ Mass block_mass(Mass x) {
  __shared__ Mass total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  if (threadIdx.x % kWarp == 0) atomicAdd(&total, x);
  __syncthreads();
  x = total;
  __syncthreads();
  return x;
}

// ---- logprobs of the raw row

__device__ float log_sum_exp(const float* logits, int vocab, float max) {
  if (!isfinite(max)) return max;
  float sum = 0;
  for (int i = threadIdx.x; i < vocab; i += kThreads) sum += __expf(without_nan(logits[i]) - max);
  return max + logf(block_sum(sum));
}

__device__ void write_logprobs(const float* logits, int vocab, int id, int num_top, float* logprob,
                               std::int32_t* top_ids, float* top_logprobs) {
  Best best = first_best(logits, vocab);
  const float lse = log_sum_exp(logits, vocab, best.value);
  if (threadIdx.x == 0 && id >= 0 && id < vocab) *logprob = logits[id] - lse;
  for (int i = 0; i < min(num_top, min(kSampleTop, vocab)); ++i) {
    if (threadIdx.x == 0) top_ids[i] = best.id, top_logprobs[i] = best.value - lse;
    best = next_best(logits, vocab, best);
  }
}

__global__ void __launch_bounds__(kThreads) token_logprobs_kernel(LogprobLaunch a) {
  const std::int64_t row = blockIdx.x;
  write_logprobs(a.logits + row * a.vocab, a.vocab, a.ids[row], a.num_top, a.logprobs + row,
                 a.top_ids + row * kSampleTop, a.top_logprobs + row * kSampleTop);
}

// ---- bias and penalties

__device__ bool changes_logits(const SampleRow& row) {
  return row.bias_count > 0 || row.repetition_penalty != 1 || row.frequency_penalty != 0 ||
         row.presence_penalty != 0;
}

__device__ bool mark(unsigned* seen, int token) {
  const unsigned bit = 1u << (token % 32);
  return (atomicOr(&seen[token / 32], bit) & bit) == 0;
}

// visit(token, is_new) over positions [begin, end) of the row's history; `seen` starts and ends clear.
template <typename Visit>
__device__ void for_history(const SampleLaunch& a, const SampleRow& row, int begin, int end, unsigned* seen,
                            Visit visit) {
  for (int i = threadIdx.x; i < (a.vocab + 31) / 32; i += kThreads) seen[i] = 0;
  __syncthreads();
  const std::int32_t* table = a.block_table + std::int64_t{row.table_row} * a.blocks_per_seq;
  for (int p = begin + threadIdx.x; p < end; p += kThreads) {
    const std::int64_t slot = std::int64_t{table[p / a.block_size]} * a.block_size + p % a.block_size;
    const int token = a.arena_token_ids[slot];
    if (token >= 0 && token < a.vocab) visit(token, mark(seen, token));
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) change_logits_kernel(SampleLaunch a) {
  extern __shared__ unsigned seen[];
  const SampleRow row = a.rows[blockIdx.x];
  if (row.state_slot < 0 || !changes_logits(row)) return;
  const float* logits = a.logits + std::int64_t{row.logits_row} * a.vocab;
  float* work = a.work + std::int64_t{blockIdx.x} * a.vocab;
  for (int i = threadIdx.x; i < a.vocab; i += kThreads) work[i] = without_nan(logits[i]);
  __syncthreads();
  for (int i = threadIdx.x; i < row.bias_count; i += kThreads) {
    const int id = a.bias_ids[row.bias_start + i];
    if (id >= 0 && id < a.vocab) atomicAdd(&work[id], a.bias_values[row.bias_start + i]);
  }
  __syncthreads();
  if (row.repetition_penalty != 1) {
    for_history(a, row, 0, row.history_len, seen, [&](int token, bool is_new) {
      const float x = work[token];
      if (is_new) work[token] = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    });
  }
  if (row.frequency_penalty != 0 || row.presence_penalty != 0) {
    for_history(a, row, row.prompt_len, row.history_len, seen, [&](int token, bool is_new) {
      atomicAdd(&work[token], -row.frequency_penalty - (is_new ? row.presence_penalty : 0.0f));
    });
  }
}

// ---- truncation and the draw

struct Distribution {
  const float* logits;
  int vocab;
  float max, scale;
  float least;  // probabilities below are cut

  __device__ float prob(int i) const {
    const float x = logits[i];
    const float p = isnan(x) ? 0.0f : __expf((x - max) * scale);
    return p >= least ? p : 0.0f;
  }
  __device__ Mass mass(int i) const { return static_cast<Mass>(prob(i) * kFixedOne); }
  __device__ Mass total() const {
    Mass sum = 0;
    for (int i = threadIdx.x; i < vocab; i += kThreads) sum += mass(i);
    return block_mass(sum);
  }
};

// Warp 0 walks the buckets from the top: the last one that has anything in it and less than `limit` above it.
__device__ void pick_bucket(const Mass* weights, const unsigned* present, Mass limit, Mass* above,
                            unsigned* picked) {
  constexpr int kPerLane = kBuckets / kWarp;
  const int lane = threadIdx.x, top = kBuckets - 1 - lane * kPerLane;  // lane 0 has the highest
  Mass mine = 0;
  for (int j = 0; j < kPerLane; ++j) mine += weights[top - j];
  Mass before = mine;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const Mass other = __shfl_up_sync(kAllLanes, before, offset);
    if (lane >= offset) before += other;
  }
  before += *above - mine;  // weight above this lane's first bucket
  int bucket = -1;
  Mass bucket_above = 0;
  for (int j = 0; j < kPerLane; ++j) {
    const int b = top - j;
    if ((present[b / 32] >> (b % 32) & 1) != 0 && before < limit) bucket = b, bucket_above = before;
    before += weights[b];
  }
  // The lowest such bucket lies in the highest lane that has one. There is one: `above` is under a limit of
  // at least 1.
  const unsigned lanes = __ballot_sync(kAllLanes, bucket >= 0);
  const int owner = lanes ? 31 - __clz(lanes) : 0;
  bucket = __shfl_sync(kAllLanes, bucket, owner);
  bucket_above = __shfl_sync(kAllLanes, bucket_above, owner);
  if (lane == 0) *picked = static_cast<unsigned>(max(bucket, 0)), *above = bucket_above;
}

// The least probability with less than `limit` of weight strictly above it; weight is 1 or the mass.
template <bool kCount>
__device__ float threshold(const Distribution& d, Mass limit) {
  __shared__ Mass weights[kBuckets];
  __shared__ unsigned present[kBuckets / 32];
  __shared__ Mass above;
  __shared__ unsigned picked;
  const int shifts[] = {21, 10, 0}, bits[] = {11, 11, 10};
  unsigned prefix = 0, prefix_mask = 0;
  if (threadIdx.x == 0) above = 0;
  for (int level = 0; level < 3; ++level) {
    for (int i = threadIdx.x; i < kBuckets; i += kThreads) weights[i] = 0, present[i / 32] = 0;
    __syncthreads();
    const unsigned mask = (1u << bits[level]) - 1;
    for (int i = threadIdx.x; i < d.vocab; i += kThreads) {
      const float p = d.prob(i);
      const unsigned key = __float_as_uint(p);
      if (p <= 0 || (key & prefix_mask) != prefix) continue;
      const unsigned bucket = key >> shifts[level] & mask;
      atomicAdd(&weights[bucket], kCount ? Mass{1} : static_cast<Mass>(p * kFixedOne));
      atomicOr(&present[bucket / 32], 1u << (bucket % 32));
    }
    __syncthreads();
    if (threadIdx.x < kWarp) pick_bucket(weights, present, limit, &above, &picked);
    __syncthreads();
    prefix |= picked << shifts[level];
    prefix_mask |= mask << shifts[level];
    __syncthreads();
  }
  return __uint_as_float(prefix);
}

// The first id, in order of ids, at which the running mass exceeds u * total.
__device__ int draw(const Distribution& d, float u) {
  __shared__ Mass segment[kWarp];
  __shared__ int result;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int length = ((d.vocab + kWarp - 1) / kWarp + kWarp - 1) / kWarp * kWarp;  // of a warp's segment
  const int begin = warp * length, end = min(begin + length, d.vocab);
  Mass sum = 0;
  for (int i = begin + lane; i < end; i += kWarp) sum += d.mass(i);
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
  if (lane == 0) segment[warp] = sum;
  if (threadIdx.x == 0) result = 0;
  __syncthreads();
  Mass total = 0, below = 0;
  for (int w = 0; w < kWarp; ++w) total += segment[w];
  for (int w = 0; w < warp; ++w) below += segment[w];
  const Mass target =
      min(static_cast<Mass>(static_cast<double>(u) * static_cast<double>(total)), total - (total > 0));
  const bool owns = target >= below && target < below + sum;
  for (int first = begin; owns && first < end; first += kWarp) {
    const int i = first + lane;
    Mass running = i < end ? d.mass(i) : 0;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const Mass other = __shfl_up_sync(kAllLanes, running, offset);
      if (lane >= offset) running += other;
    }
    const unsigned past = __ballot_sync(kAllLanes, below + running > target);
    if (past != 0) {
      if (lane == 0) result = first + __ffs(past) - 1;
      break;
    }
    below += __shfl_sync(kAllLanes, running, kWarp - 1);
  }
  __syncthreads();
  return result;
}

__device__ int choose(const SampleRow& row, const float* logits, int vocab) {
  const Best best = first_best(logits, vocab);
  const float scale = 1.0f / row.temperature;
  if (row.temperature <= 0 || !isfinite(scale) || !isfinite(best.value)) return best.id < vocab ? best.id : 0;
  Distribution d{logits, vocab, best.value, scale, fmaxf(row.min_p, 0x1p-126f)};
  if (row.top_k > 0 && row.top_k < vocab)
    d.least = fmaxf(d.least, threshold<true>(d, static_cast<Mass>(row.top_k)));
  if (row.top_p < 1) {
    const double limit = static_cast<double>(row.top_p) * static_cast<double>(d.total());
    d.least = fmaxf(d.least, threshold<false>(d, max(static_cast<Mass>(limit), Mass{1})));
  }
  return draw(d, sampling_uniform(row.seed, row.choice_idx, row.position));
}

__global__ void __launch_bounds__(kThreads) sample_kernel(SampleLaunch a) {
  const std::int64_t s = blockIdx.x;
  const SampleRow row = a.rows[s];
  if (row.state_slot < 0) return;
  const float* raw = a.logits + std::int64_t{row.logits_row} * a.vocab;
  const int id = choose(row, changes_logits(row) ? a.work + s * a.vocab : raw, a.vocab);
  if (threadIdx.x == 0) a.ids[s] = a.state_tokens[row.state_slot] = id;
  if (row.num_top >= 0)
    write_logprobs(raw, a.vocab, id, row.num_top, a.logprobs + s, a.top_ids + s * kSampleTop,
                   a.top_logprobs + s * kSampleTop);
}

}  // namespace

void sample(const SampleLaunch& a, cudaStream_t stream) {
  if (a.num_rows == 0) return;
  const int seen_bytes = (a.vocab + 31) / 32 * 4;
  static const cudaError_t raised =
      cudaFuncSetAttribute(change_logits_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 192 * 1024);
  (void)raised;  // a failure shows at the launch, where the backend checks
  change_logits_kernel<<<a.num_rows, kThreads, seen_bytes, stream>>>(a);
  sample_kernel<<<a.num_rows, kThreads, 0, stream>>>(a);
}

void token_logprobs(const LogprobLaunch& a, cudaStream_t stream) {
  if (a.num_rows > 0) token_logprobs_kernel<<<a.num_rows, kThreads, 0, stream>>>(a);
}

}  // namespace fastgen::device
