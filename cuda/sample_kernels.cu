// The draw of one token a row, a team of blocks a row (row_team.cuh), nothing sorted (sample_threshold.cuh).
//
// Measured on an H200 (gpu-ops.json), rows of 32,768: greedy 8 us for 32 rows, 19 us for 256 (3.5 TB/s); with a temperature 17 and 42 us; top_p 45
// and 108 us (167 and 697 before its histograms went to 32-bit adds, gpu-ops-first.json).
#include "backend/counter_rng.h"
#include "logprobs.cuh"
#include "sample_kernels.h"
#include "sample_threshold.cuh"

namespace fastgen::device {

namespace {

template <int kParts>
__global__ void __launch_bounds__(kTeamThreads) token_logprobs_kernel(LogprobLaunch a) {
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
  for (int i = threadIdx.x; i < (run.end - run.begin + 31) / 32; i += kTeamThreads) seen[i] = 0;
  __syncthreads();
  const std::int32_t* table = a.block_table + std::int64_t{row.table_row} * a.blocks_per_seq;
  for (int p = begin + threadIdx.x; p < end; p += kTeamThreads) {
    const std::int64_t slot = std::int64_t{table[p / a.block_size]} * a.block_size + p % a.block_size;
    const int token = a.arena_token_ids[slot];
    if (token < run.begin || token >= run.end) continue;
    const unsigned place = token - run.begin, bit = 1u << (place % 32);
    visit(token, (atomicOr(&seen[place / 32], bit) & bit) == 0);
  }
  __syncthreads();
}

// Dynamic shared memory: `seen`, see above.
__device__ void change_logits(const SampleLaunch& a, const SampleRow& row, const Run& run, float* work) {
  extern __shared__ unsigned seen[];
  run.each([&](int i, float logit) { work[i] = without_nan(logit); });
  __syncthreads();
  for (int i = threadIdx.x; i < row.bias_count; i += kTeamThreads) {
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

// ---- the draw

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
  constexpr int kWarps = kTeamThreads / kWarp;
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
__global__ void __launch_bounds__(kTeamThreads, 2) sample_kernel(SampleLaunch a) {
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

// Beyond 48 KB with the static part only after asking; a failure shows at the launch, where the backend checks.
template <int kParts>
cudaError_t raise_shared_limit() {
  const int most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  cudaFuncAttributes attributes{};
  cudaFuncGetAttributes(&attributes, sample_kernel<kParts>);
  return cudaFuncSetAttribute(sample_kernel<kParts>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              most - static_cast<int>(attributes.sharedSizeBytes));
}

template <int kParts>
void launch_sample(const SampleLaunch& a, cudaStream_t stream) {
  static const cudaError_t raised = raise_shared_limit<kParts>();
  (void)raised;
  const auto seen_bytes = static_cast<std::size_t>((run_length(a.vocab, kParts) + 31) / 32) * sizeof(unsigned);
  launch(sample_kernel<kParts>, {static_cast<unsigned>(a.num_rows * kParts), kTeamThreads, seen_bytes, kParts, shared_percent(a.num_rows)}, stream,
         a);
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
  if (num_parts(a.num_rows, a.vocab) == kPartsMax) {
    launch(token_logprobs_kernel<kPartsMax>, {rows * kPartsMax, kTeamThreads, 0, kPartsMax}, stream, a);
  } else {
    launch(token_logprobs_kernel<1>, {rows, kTeamThreads}, stream, a);
  }
}

}  // namespace fastgen::device
