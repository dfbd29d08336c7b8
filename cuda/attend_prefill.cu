// Prefill attention: chunks of prompts against their contexts, bound by the tensor cores (FlashAttention-2, Dao 2023).
//
// The query rows of a sequence and a KV head are its tokens' H / K query heads, token after token: they lie in one run
// each, share K and V, and a tile of 128 rows spans few tokens, so that little is computed beyond the causal edge. A CTA
// of 4 warps takes one such tile; a warp owns 32 rows, keeps their scores and sums in registers, and reads every K and V
// fragment for two products each. K and V come in tiles of 64 keys through the block table, by cp.async into two stages;
// one barrier a tile. The grid is fixed by T: CTA i finds the i-th tile in the list by a scan of query_start. A
// sequence's last tiles, which see the most keys, come first.
//
// Measured on an H200 (gpu-ops-first.json), 32 heads, 8 KV heads, D = 128: 8 x 1024 258 TFLOP/s, 8 x 1024 of 2048 323, 1 x 2048 of
// 16384 353; there attend_prefill_wgmma.cu serves instead. Known to be weak: few rows against a long context, which is not split along the
// context.
#include "attend_load.cuh"
#include "launch.cuh"

namespace fastgen::device {

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kKeys = 64;  // of one tile
constexpr int kStages = 2;

// Shared memory: q [kRows], then stages of K [64] and V [64], rows in PieceLayout; then ints of the search, Tile.
template <int D>
struct Shape {
  using Rows = PieceLayout<D>;
  static constexpr int kRowBlocks = D > 128 ? 1 : 2;  // of 16 rows, that a warp owns
  static constexpr int kWarpRows = 16 * kRowBlocks;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kQBytes = kRows * Rows::kRowBytes;
  static constexpr int kTileBytes = kKeys * Rows::kRowBytes;
  static constexpr int kBytes = kQBytes + kStages * 2 * kTileBytes + 64;  // 64: Tile
};

// False: the list is shorter than the grid.
template <int kRows>
__device__ bool find_tile(const AttendLaunch& a, int* scratch, Tile* tile) {
  const int num_kv_heads = a.layout.num_kv_heads, index = blockIdx.x / num_kv_heads;
  const int group = a.num_heads / num_kv_heads;
  const auto size = [&](int seq) { return (num_queries(a, seq) * group + kRows - 1) / kRows; };
  const Run run = Run::of_thread<kThreads>(a.num_decode_seqs, a.num_seqs);
  int total = 0;
  const int before = prefix_sum<kWarps>(run.sum(size), scratch, total);
  if (index >= total) return false;
  Place* found = reinterpret_cast<Place*>(scratch);
  run.find(size, before, index, found);
  __syncthreads();
  const auto [seq, first] = *found;
  __syncthreads();
  if (threadIdx.x == 0) {
    const int num_tokens = num_queries(a, seq), first_row = (size(seq) - 1 - (index - first)) * kRows;
    *tile = {seq, static_cast<int>(blockIdx.x % num_kv_heads), group, a.query_start[seq], first_row,
             min(kRows, num_tokens * group - first_row), a.context_len[seq], num_tokens, a.window};
  }
  __syncthreads();
  return true;
}

template <int D>
__device__ void load_queries(const AttendLaunch& a, const Tile& tile, unsigned to) {
  using Rows = typename Shape<D>::Rows;
  const __nv_bfloat16* q = static_cast<const __nv_bfloat16*>(a.q);
#pragma unroll 4
  for (int i = threadIdx.x; i < Shape<D>::kRows * Rows::kPieces; i += kThreads) {
    const int row = i / Rows::kPieces, piece = i % Rows::kPieces;
    const bool real = row < tile.num_rows;
    copy_async(to + Rows::at(row, piece) * 16, real ? q + tile.offset(a, row) + piece * 8 : q, real);
  }
}

template <int D>
__device__ void load_tile(const AttendLaunch& a, const Tile& tile, int first, unsigned to) {
  const std::int32_t* table = a.block_table + std::int64_t{tile.seq} * a.blocks_per_seq;
  load_keys<D, kKeys, kThreads>(a, tile.kv_head, {0, tile.context}, first, threadIdx.x, to,
                                [&](int key) { return table[block_index(a, key)]; });
}

// A warp's rows. Of each block of 16 a lane has rows lane / 4 and + 8: index [block][0 and 1].
template <int D>
struct State {
  static constexpr int kBlocks = Shape<D>::kRowBlocks;
  float sums[kBlocks][D / 8][4];  // C fragments of O
  float max[kBlocks][2];          // of the unscaled scores
  float mass[kBlocks][2];         // of this lane's keys alone
};

template <int D>
__device__ void clear(State<D>& state) {
#pragma unroll
  for (int block = 0; block < Shape<D>::kRowBlocks; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) state.max[block][half] = -INFINITY, state.mass[block][half] = 0;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) state.sums[block][n][i] = 0;
  }
}

// S = q K^T, C fragments [rows, keys].
template <int D>
__device__ void score(unsigned q, unsigned k, float (&scores)[Shape<D>::kRowBlocks][kKeys / 8][4]) {
  using Rows = typename Shape<D>::Rows;
  constexpr int kBlocks = Shape<D>::kRowBlocks;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  q += Rows::at(warp * Shape<D>::kWarpRows + lane / 8 % 2 * 8 + lane % 8, lane / 16) * 16;
  k += Rows::at(lane / 16 * 8 + lane % 8, lane / 8 % 2) * 16;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block)
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[block][n][i] = 0;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    unsigned rows[kBlocks][4];
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
      load_matrices(rows[block], Rows::ahead(q, 2 * step) + 16 * block * Rows::kRowBytes);
#pragma unroll
    for (int pair = 0; pair < kKeys / 16; ++pair) {
      unsigned keys[4];
      load_matrices(keys, Rows::ahead(k, 2 * step) + 16 * pair * Rows::kRowBytes);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        multiply_add(scores[block][2 * pair], rows[block], keys[0], keys[1]);
        multiply_add(scores[block][2 * pair + 1], rows[block], keys[2], keys[3]);
      }
    }
  }
}

template <int D>
__device__ void mask(const Tile& tile, int first, float (&scores)[Shape<D>::kRowBlocks][kKeys / 8][4]) {
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp * Shape<D>::kWarpRows + lane / 4;
#pragma unroll
  for (int block = 0; block < Shape<D>::kRowBlocks; ++block)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Span span = tile.span(row + 16 * block + 8 * half);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int key = first + n * 8 + lane % 4 * 2 + i;
          if (key < span.begin || key >= span.end) scores[block][n][2 * half + i] = -INFINITY;
        }
    }
}

// Scores become weights, rounded as they will meet V; the sums so far shrink to the new maximum.
template <int D>
__device__ void soften(State<D>& state, float scale, float (&scores)[Shape<D>::kRowBlocks][kKeys / 8][4]) {
#pragma unroll
  for (int block = 0; block < Shape<D>::kRowBlocks; ++block)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = state.max[block][half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
        top = fmaxf(top, fmaxf(scores[block][n][2 * half], scores[block][n][2 * half + 1]));
      for (int offset = 1; offset < 4; offset *= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
      // A row that has seen nothing yet keeps weights of zero.
      const float base = top == -INFINITY ? 0.0f : top * scale;
      const float shrink = exp2_fast(state.max[block][half] * scale - base);
      state.max[block][half] = top;
      float mass = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        float &first = scores[block][n][2 * half], &second = scores[block][n][2 * half + 1];
        const unsigned pair = pack_bf16(exp2_fast(first * scale - base), exp2_fast(second * scale - base));
        first = low_of(pair), second = high_of(pair);
        mass += first + second;
      }
      state.mass[block][half] = state.mass[block][half] * shrink + mass;
      // Maxima settle after a few tiles.
      if (!__any_sync(kAllLanes, shrink != 1)) continue;
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) state.sums[block][n][i] *= shrink;
    }
}

// O += P V.
template <int D>
__device__ void add_values(State<D>& state, unsigned v, const float (&weights)[Shape<D>::kRowBlocks][kKeys / 8][4]) {
  using Rows = typename Shape<D>::Rows;
  constexpr int kBlocks = Shape<D>::kRowBlocks;
  const int lane = threadIdx.x % kWarp;
  v += Rows::at(lane / 8 % 2 * 8 + lane % 8, lane / 16) * 16;
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    unsigned rows[kBlocks][4];
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &weights[block][2 * step + i / 2][i % 2 * 2];
        rows[block][i] = pack_bf16(pair[0], pair[1]);
      }
#pragma unroll
    for (int pair = 0; pair < D / 16; ++pair) {
      unsigned values[4];
      load_transposed(values, Rows::ahead(v, 2 * pair) + 16 * step * Rows::kRowBytes);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        multiply_add(state.sums[block][2 * pair], rows[block], values[0], values[1]);
        multiply_add(state.sums[block][2 * pair + 1], rows[block], values[2], values[3]);
      }
    }
  }
}

// Through the warp's own rows of q's place in shared memory, so that rows leave in pieces of 16 bytes.
template <int D>
__device__ void store_rows(const AttendLaunch& a, const Tile& tile, const State<D>& state, unsigned char* q) {
  using Rows = typename Shape<D>::Rows;
  const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * Shape<D>::kWarpRows;
  __syncwarp();
#pragma unroll
  for (int block = 0; block < Shape<D>::kRowBlocks; ++block)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float mass = state.mass[block][half];
      for (int offset = 1; offset < 4; offset *= 2) mass += __shfl_xor_sync(kAllLanes, mass, offset);
      const float scale = mass > 0 ? 1 / mass : 0.0f;
      const int row = warp_row + 16 * block + 8 * half + lane / 4;
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
        *reinterpret_cast<unsigned*>(q + Rows::at(row, n) * 16 + lane % 4 * 4) =
            pack_bf16(state.sums[block][n][2 * half] * scale, state.sums[block][n][2 * half + 1] * scale);
    }
  __syncwarp();
#pragma unroll 4
  for (int i = lane; i < Shape<D>::kWarpRows * Rows::kPieces; i += kWarp) {
    const int row = warp_row + i / Rows::kPieces, piece = i % Rows::kPieces;
    if (row >= tile.num_rows) break;
    __nv_bfloat16* out = static_cast<__nv_bfloat16*>(a.out) + tile.offset(a, row) + piece * 8;
    *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(q + Rows::at(row, piece) * 16);
  }
}

template <int D>
__global__ void __launch_bounds__(kThreads, D > 128 ? 1 : 2) prefill_kernel(AttendLaunch a) {
  extern __shared__ __align__(1024) unsigned char shared[];
  using S = Shape<D>;
  const unsigned q = shared_address(shared), stages = q + S::kQBytes;
  Tile& tile = *reinterpret_cast<Tile*>(shared + S::kQBytes + kStages * 2 * S::kTileBytes);
  const bool found = find_tile<S::kRows>(a, reinterpret_cast<int*>(&tile), &tile);
  wait_for_previous();
  if (!found) return;

  // The keys that any row of the CTA sees, and of them those that any and that all of the warp's rows see: a row's keys
  // lie no further left than the row's before.
  const int warp_row = threadIdx.x / kWarp * S::kWarpRows, last_row = min(warp_row + S::kWarpRows, tile.num_rows) - 1;
  const int begin = tile.span(0).begin / kKeys * kKeys, end = tile.span(tile.num_rows - 1).end;
  const Span first_span = tile.span(warp_row), last_span = tile.span(last_row);
  const Span any = last_row < warp_row ? Span{0, 0} : Span{first_span.begin, last_span.end};
  const Span all{last_span.begin, first_span.end};

  State<D> state;
  clear(state);
  load_queries<D>(a, tile, q);
  if (begin < end) load_tile<D>(a, tile, begin, stages);
  commit_copies();
  int stage = 0;
  for (int first = begin; first < end; first += kKeys, stage ^= 1) {
    wait_copies<0>();
    __syncthreads();
    if (first + kKeys < end) load_tile<D>(a, tile, first + kKeys, stages + (stage ^ 1) * 2 * S::kTileBytes);
    commit_copies();
    if (first >= any.end || first + kKeys <= any.begin) continue;
    const unsigned k = stages + stage * 2 * S::kTileBytes;
    float scores[S::kRowBlocks][kKeys / 8][4];
    score<D>(q, k, scores);
    if (first + kKeys > all.end || first < all.begin) mask<D>(tile, first, scores);
    soften<D>(state, a.scale * kLog2E, scores);
    add_values<D>(state, k + S::kTileBytes, scores);
  }
  wait_copies<0>();  // without keys, those of q: its place is about to be written
  __syncthreads();
  store_rows<D>(a, tile, state, shared);
}

// ---- host

template <int D>
bool fits() {
  if (device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) < Shape<D>::kBytes) return false;
  cudaFuncSetAttribute(prefill_kernel<D>, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  return cudaFuncSetAttribute(prefill_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape<D>::kBytes) ==
         cudaSuccess;
}

template <int D>
bool launch_tiles(const AttendLaunch& a, cudaStream_t stream) {
  static const bool serves = fits<D>();
  if (!serves) return false;
  // A sequence's last tile may be short, so each adds at most one to the rows' whole tiles.
  const std::int64_t rows = std::int64_t{a.num_tokens} * (a.num_heads / a.layout.num_kv_heads);
  const std::int64_t tiles = rows / Shape<D>::kRows + (a.num_seqs - a.num_decode_seqs);
  launch(prefill_kernel<D>, {static_cast<unsigned>(tiles * a.layout.num_kv_heads), kThreads, Shape<D>::kBytes}, stream, a);
  return true;
}

}  // namespace

bool attend_prefill(const AttendLaunch& a, cudaStream_t stream) {
  if (!a.bf16) return false;
  switch (a.layout.head_dim) {
    case 64: return launch_tiles<64>(a, stream);
    case 80: return launch_tiles<80>(a, stream);
    case 96: return launch_tiles<96>(a, stream);
    case 128: return launch_tiles<128>(a, stream);
    case 256: return launch_tiles<256>(a, stream);
    default: return false;
  }
}

}  // namespace fastgen::device
