// Products of one row: bound by reading the weights once, and that by how they are asked for.
//
// A block owns an equal run of rows of weights (or of pairs whose results meet); its warps take pieces of 2,048 of K in turn, row after row.
// A warp's load is 512 bytes of one row, so that L2 is asked for whole lines: the fragments of mma would take 64 bytes of 8 rows each. The
// arithmetic is float32 multiply-adds, for which one row leaves time. A warp leaves the sum of a piece in shared memory, where a row's are
// added at the end in a fixed order: results do not depend on timing.
//
// Each thread holds two pieces of weights in registers (128 KB an SM in flight). They are requested before wait_for_previous(), and run
// ahead from row to row, so that memory stays busy through the small kernels in between. x comes to shared memory: through L1 it would need
// another division of an SM's memory than attention (launch.cuh), and a stream was 3 % slower.
//
// Measured on an H200 (gpu-ops.json), Mistral 7B's shapes, each alone with caches cold: gate-up 56 us (4.2 TB/s), QKV 14, O 10, down 29, head 63.
//
// Tried on an H200 (no record): a ring in shared memory filled by bulk copies of 1 or 2 KB, 3 % slower at best, its turns cost more than they
// hide; fragments of mma from tiles of 8 rows, 13 % slower; two rows, no faster than skinny_kernel.cu, four far slower; the norm as part of
// the product, each block reading the residual and scaling its sums, a step 5 % slower: the norm's 2 us hide behind the weights in flight, the
// blocks' 32 KB each do not; asking L2 for two or four further pieces before the wait, 2 and 3 % slower; the same by bulk requests for 2 to
// 13 further rows in O alone, whose wait is for attention, when memory rests: 0.1 to 1.2 %; in QKV alone 0.2 %.
#include <algorithm>

#include "device_math.cuh"
#include "launch.cuh"
#include "narrow_kernel.h"
#include "skinny_epilogue.cuh"

namespace fastgen::device {

namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kBlocksPerSm = 2;
constexpr std::size_t kSharedBytes = 100 * 1024;  // of a block, at most
constexpr int kLoads = 8;                   // of a thread for a piece
constexpr int kRun = kWarp * 8;             // elements of K of a warp's load
constexpr int kPiece = kLoads * kRun;

// The rows of weights of output `index`: the only one, or of a pair the first and, 1, the second.
struct PlainRows {
  __device__ int operator()(int index, int) const { return index; }
};
struct GateUpRows {
  std::int32_t ffn_dim;
  __device__ int operator()(int index, int which) const { return index + which * ffn_dim; }
};
struct HeadRows {
  std::int32_t half;
  __device__ int operator()(int index, int which) const { return index / half * (2 * half) + index % half + which * half; }
};

// A warp's way through the pieces of its block's rows, which are numbered from the block's first.
struct Cursor {
  int per_row, row, piece;
  __device__ explicit Cursor(int in_dim) : per_row((in_dim + kPiece - 1) / kPiece) {
    row = static_cast<int>(threadIdx.x) / kWarp / per_row, piece = static_cast<int>(threadIdx.x) / kWarp % per_row;
  }
  __device__ void advance() {
    for (piece += kWarps; piece >= per_row; piece -= per_row) ++row;
  }
  // Of this lane's elements of load 0.
  __device__ int k() const { return piece * kPiece + static_cast<int>(threadIdx.x) % kWarp * 8; }
};

struct Piece {
  uint4 v[kLoads];
};

template <int kParts, typename Rows>
__device__ void load(const SkinnyProduct& a, const Rows& rows, int first, int num_rows, const Cursor& at, Piece& w) {
  const int row = rows(first + at.row / kParts, at.row % kParts), k = at.k();
  const __nv_bfloat16* from = static_cast<const __nv_bfloat16*>(a.w) + row * std::int64_t{a.in_dim} + k;
  const int left = at.row < num_rows ? a.in_dim - k : 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) w.v[i] = i * kRun < left ? load_once(from + i * kRun) : uint4{};
}

__device__ inline float dot(const uint4& w, const uint4& x, float sum) {
  const unsigned ws[] = {w.x, w.y, w.z, w.w}, xs[] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) sum = fmaf(low_of(ws[i]), low_of(xs[i]), fmaf(high_of(ws[i]), high_of(xs[i]), sum));
  return sum;
}

// Leaves the piece's sum at `to`.
__device__ void multiply(const SkinnyProduct& a, const uint4* x, const Cursor& at, const Piece& w, float* to) {
  const int k = at.k(), left = a.in_dim - k;
  x += k / 8;
  float even = 0, odd = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const uint4 part = i * kRun < left ? x[i * kRun / 8] : uint4{};
    (i % 2 == 0 ? even : odd) = dot(w.v[i], part, i % 2 == 0 ? even : odd);
  }
  const float sum = warp_sum(even + odd);
  if (threadIdx.x % kWarp == 0) *to = sum;
}

template <typename Rows, typename Epilogue>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    narrow_kernel(SkinnyProduct a, int num_outputs, Rows rows, Epilogue epilogue) {
  extern __shared__ uint4 x[];  // [K] bf16; then sums [rows of the block][pieces]
  const int x_size = a.in_dim / 8;
  float* const sums = reinterpret_cast<float*>(x + x_size);
  constexpr int kParts = Epilogue::kPairs ? 2 : 1;
  const auto border = [=](unsigned block) { return static_cast<int>(std::int64_t{num_outputs} * block / gridDim.x); };
  const int first = border(blockIdx.x), count = border(blockIdx.x + 1) - first, num_rows = count * kParts;
  Cursor ahead(a.in_dim), at = ahead;
  Piece even, odd;
  load<kParts>(a, rows, first, num_rows, ahead, even), ahead.advance();
  load<kParts>(a, rows, first, num_rows, ahead, odd), ahead.advance();
  wait_for_previous();
  let_next_start();

  typename Epilogue::Ahead held{};
  if (threadIdx.x < count) held = epilogue.ahead(first + threadIdx.x, 0);
#pragma unroll 4
  for (int i = threadIdx.x; i < x_size; i += kThreads) x[i] = __ldcg(static_cast<const uint4*>(a.x) + i);
  __syncthreads();
  // False when the warp has had its last piece.
  const auto turn = [&](Piece& w) {
    multiply(a, x, at, w, sums + at.row * at.per_row + at.piece);
    load<kParts>(a, rows, first, num_rows, ahead, w), ahead.advance();
    at.advance();
    return at.row < num_rows;
  };
  if (at.row < num_rows)
    while (turn(even) && turn(odd)) {
    }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (i >= kThreads) held = epilogue.ahead(first + i, 0);
    float total[2] = {};
    for (int part = 0; part < kParts; ++part)
      for (int piece = 0; piece < at.per_row; ++piece) total[part] += sums[(i * kParts + part) * at.per_row + piece];
    epilogue.store(first + i, 0, total[0], total[1], held);
  }
}

int num_blocks() { return kBlocksPerSm * card().num_sms; }

// Of the block with the most rows of weights; blocks of pairs have up to two more.
std::size_t shared_bytes(const SkinnyProduct& a, int num_rows) {
  const int per_row = (a.in_dim + kPiece - 1) / kPiece, most = num_rows / num_blocks() + 2;
  return a.in_dim * sizeof(__nv_bfloat16) + static_cast<std::size_t>(most * per_row) * sizeof(float);
}

template <typename Rows, typename Epilogue>
void run(const SkinnyProduct& a, int num_outputs, const Rows& rows, const Epilogue& epilogue, cudaStream_t stream) {
  static const bool prepared = cudaFuncSetAttribute(narrow_kernel<Rows, Epilogue>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    kSharedBytes) == cudaSuccess;
  if (!prepared) return;  // the error shows at the backend's check
  const int num_rows = num_outputs * (Epilogue::kPairs ? 2 : 1), grid = std::min(num_outputs, num_blocks());
  launch(narrow_kernel<Rows, Epilogue>, {static_cast<unsigned>(grid), kThreads, shared_bytes(a, num_rows)}, stream, a, num_outputs, rows, epilogue);
}

}  // namespace

bool narrow_serves(const SkinnyProduct& a) {
  return a.num_rows == 1 && shared_bytes(a, a.out_dim) <= kSharedBytes;
}

void narrow_linear(const SkinnyProduct& a, const float* bias, void* out, bool out_bf16, bool add, cudaStream_t stream) {
  if (out_bf16) {
    run(a, a.out_dim, PlainRows{}, LinearEpilogue<__nv_bfloat16>{bias, static_cast<__nv_bfloat16*>(out), add, a.out_dim}, stream);
  } else {
    run(a, a.out_dim, PlainRows{}, LinearEpilogue<float>{bias, static_cast<float*>(out), add, a.out_dim}, stream);
  }
}

void narrow_gate_up(const SkinnyProduct& a, void* out, cudaStream_t stream) {
  const std::int32_t ffn_dim = a.out_dim / 2;
  run(a, ffn_dim, GateUpRows{ffn_dim}, GateUpEpilogue{static_cast<__nv_bfloat16*>(out), ffn_dim}, stream);
}

void narrow_qkv(const SkinnyProduct& a, const RopeLaunch& rope, cudaStream_t stream) {
  run(a, a.out_dim / 2, HeadRows{rope.layout.head_dim / 2}, RopeEpilogue{rope}, stream);
}

}  // namespace fastgen::device
