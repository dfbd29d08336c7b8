// The general attention kernel: right for every shape, the fallback where a faster one does not serve.
//
// A CTA owns one query row and one KV head, and with it the H / K query heads (at most 16) that read the same
// K and V. Its warps take runs of 32 keys in turn. Within a run a lane owns a key for the scores (each lane
// walks its own K row), then the lanes own columns for the weighted sum of V. Each warp keeps an online
// softmax (Milakov and Gimelshein 2018) of its own; the warps' partial results are merged at the end in a
// fixed order, so results do not depend on timing.
#include "attend_kernel.h"

#include "device_math.cuh"

namespace fastgen::device {

namespace {

constexpr int kWarps = 4;
constexpr int kGroupMax = 16;     // query heads of one KV head that a CTA takes; a larger group takes several CTAs
constexpr int kHeadDimMax = 256;
constexpr float kNoKey = -1e30f;  // the maximum of a row that has seen no key: finite, so that differences are numbers

// The sequence that owns row t: the last b with query_start[b] <= t.
__device__ int find_sequence(const std::int32_t* query_start, int num_seqs, int t) {
  int low = 0, high = num_seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (query_start[middle] <= t ? low : high) = middle;
  }
  return low;
}

struct Span {
  int begin, end;  // visible positions of one row
};

__device__ Span visible(const AttendLaunch& a, int seq, int t) {
  const int end = a.context_len[seq] - (a.query_start[seq + 1] - 1 - t);
  return {a.window > 0 ? max(0, end - a.window) : 0, end};
}

// Shared memory of one CTA, all float: q [G, D], then per warp: weights [G, 32], sums [G, D], max [G], mass [G].
struct Shared {
  float *q, *weights, *sums, *max, *mass;
};
__host__ __device__ constexpr int warp_floats(int group, int dim) { return group * (kWarp + dim + 2); }

__device__ Shared carve(float* base, int warp, int group, int dim) {
  Shared s;
  s.q = base;
  s.weights = base + group * dim + warp * warp_floats(group, dim);
  s.sums = s.weights + group * kWarp;
  s.max = s.sums + group * dim;
  s.mass = s.max + group;
  return s;
}

template <typename T>
__device__ float dot(const float* q, const T* k, int dim) {
  float sum = 0;
  for (int i = 0; i < dim; ++i) sum += q[i] * to_float(k[i]);
  return sum;
}

// One run of up to 32 keys from `first`: scores, then the online softmax, then the weighted V.
template <typename T>
__device__ void add_run(const AttendLaunch& a, const Shared& s, int seq, int head, int first, int end,
                        int group) {
  const int lane = threadIdx.x % kWarp, dim = a.layout.head_dim, position = first + lane;
  const std::int32_t* table = a.block_table + std::int64_t{seq} * a.blocks_per_seq;
  const T* arena = static_cast<const T*>(a.arena);
  const bool seen = position < end;
  const int block_size = a.layout.block_size;
  const std::int64_t slot =
      seen ? std::int64_t{table[position / block_size]} * block_size + position % block_size : 0;
  const T* k = arena + a.layout.offset(slot, a.layer, 0, head);
  for (int g = 0; g < group; ++g) {
    const float score = seen ? dot(s.q + g * dim, k, dim) * a.scale : -INFINITY;
    const float old_max = s.max[g], new_max = fmaxf(old_max, warp_max(score));
    const float weight = seen ? __expf(score - new_max) : 0.0f;
    const float mass = warp_sum(weight), shrink = __expf(old_max - new_max);
    s.weights[g * kWarp + lane] = weight;
    for (int i = lane; i < dim; i += kWarp) s.sums[g * dim + i] *= shrink;
    __syncwarp();
    if (lane == 0) {
      s.max[g] = new_max;
      s.mass[g] = s.mass[g] * shrink + mass;
    }
  }
  __syncwarp();
  const int num_keys = min(kWarp, end - first);
  for (int j = 0; j < num_keys; ++j) {
    const std::int64_t slot_j = __shfl_sync(kAllLanes, slot, j);
    const T* v = arena + a.layout.offset(slot_j, a.layer, 1, head);
    for (int i = lane; i < dim; i += kWarp) {
      const float x = to_float(v[i]);
      for (int g = 0; g < group; ++g) s.sums[g * dim + i] += s.weights[g * kWarp + j] * x;
    }
  }
  __syncwarp();
}

template <typename T>
__global__ void attend_kernel(AttendLaunch a) {
  extern __shared__ float shared[];
  const int t = blockIdx.x, head = blockIdx.y, dim = a.layout.head_dim;
  const int all = a.num_heads / a.layout.num_kv_heads, first_query = blockIdx.z * kGroupMax;
  const int group = min(kGroupMax, all - first_query);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::int64_t row = (std::int64_t{t} * a.num_heads + head * all + first_query) * dim;
  const int seq = find_sequence(a.query_start, a.num_seqs, t);
  const Shared mine = carve(shared, warp, group, dim);
  const bool real = t < a.query_start[a.num_seqs] && a.context_len[seq] > 0;
  const Span span = real ? visible(a, seq, t) : Span{0, 0};

  const T* q = static_cast<const T*>(a.q) + row;
  for (int i = threadIdx.x; i < group * dim; i += blockDim.x) shared[i] = to_float(q[i]);
  for (int i = lane; i < group * dim; i += kWarp) mine.sums[i] = 0;
  for (int g = lane; g < group; g += kWarp) mine.max[g] = kNoKey, mine.mass[g] = 0;
  __syncthreads();
  for (int first = span.begin + warp * kWarp; first < span.end; first += kWarps * kWarp)
    add_run<T>(a, mine, seq, head, first, span.end, group);
  __syncthreads();

  T* out = static_cast<T*>(a.out) + row;
  for (int i = threadIdx.x; i < group * dim; i += blockDim.x) {
    const int g = i / dim;
    float top = kNoKey, mass = 0, sum = 0;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, carve(shared, w, group, dim).max[g]);
    for (int w = 0; w < kWarps; ++w) {
      const Shared s = carve(shared, w, group, dim);
      const float scale = __expf(s.max[g] - top);
      mass += s.mass[g] * scale;
      sum += s.sums[i] * scale;
    }
    out[i] = from_float<T>(mass > 0 ? sum / mass : 0.0f);
  }
}

template <typename T>
void launch(const AttendLaunch& a, cudaStream_t stream) {
  const int all = a.num_heads / a.layout.num_kv_heads, dim = a.layout.head_dim;
  const int group = all < kGroupMax ? all : kGroupMax, splits = (all + kGroupMax - 1) / kGroupMax;
  const int bytes = (group * dim + kWarps * warp_floats(group, dim)) * static_cast<int>(sizeof(float));
  // Above 48 KB the limit must be raised once per kernel; it is the largest that any shape needs.
  constexpr int kBytesMax =
      (kGroupMax * kHeadDimMax + kWarps * warp_floats(kGroupMax, kHeadDimMax)) * static_cast<int>(sizeof(float));
  static const cudaError_t raised =
      cudaFuncSetAttribute(attend_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytesMax);
  (void)raised;  // a failure shows at the launch, where the backend checks
  attend_kernel<T><<<dim3(a.num_tokens, a.layout.num_kv_heads, splits), kWarps * kWarp, bytes, stream>>>(a);
}

}  // namespace

void attend_general(const AttendLaunch& a, cudaStream_t stream) {
  a.bf16 ? launch<__nv_bfloat16>(a, stream) : launch<float>(a, stream);
}

void attend(AttendLaunch a, cudaStream_t stream) {
  if (a.num_tokens == 0) return;
  for (int shift = 0; shift < 31; ++shift)
    if (a.layout.block_size == 1 << shift) a.block_shift = shift;
  const bool tiled = a.num_decode_seqs == 0 || attend_decode(a, stream);
  const auto prefill = [&] { return attend_prefill_wgmma(a, stream) || attend_prefill(a, stream); };
  const bool all_tiled = tiled && (a.num_decode_seqs == a.num_seqs || prefill());
  if (!all_tiled) attend_general(a, stream);
}

}  // namespace fastgen::device
