// The narrow interface between the forward pass and what computes it.
//
// Shape letters, used in every comment on tensors: T tokens of a step, B sequences (rows of the block table), R rows whose
// logits are wanted, E model dim, H/K query/kv heads, D head dim, F ffn dim, V vocab, L layers, M blocks per sequence.
//
// Rules: 1. ops take Tensors and a stream, never sequences or configs. 2. An op enters only with a CPU version and a
// test. 3. A fusion is a new op or a backend's private detail, never a flag. 4. No op synchronises. 5. The place of a
// token's K and V comes from KvLayout alone. 6. Every tensor of an op is device memory of this backend; what varies
// from step to step is read from that memory when the op runs, so that a captured graph bakes in only shapes.
// 7. Work on one stream runs in order; between streams only record and wait order it.
//
// All calls come from one thread, the engine's (before it starts: the loader's).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "backend/kv_layout.h"
#include "backend/sample_row.h"
#include "backend/tensor.h"

namespace fastgen {

enum class Stream : std::uint8_t { kCompute, kCopyIn, kCopyOut };
inline constexpr int kNumStreams = 3;

enum class MemoryKind : std::uint8_t {
  kDevice,  // zero-filled
  kPinned,  // host memory that copies can stream from and to; zero-filled
};

using FenceId = std::uint64_t;  // a point in a stream; 0 is always passed
using GraphId = std::int32_t;

// A matrix as this backend's products read it. Made by prepare_weights, lives as long as the backend.
enum class WeightKind : std::uint8_t {
  kLinear,  // one part [N, K]
  kQkv,     // parts q [H*D, E], k [K*D, E], v [K*D, E]
  kGateUp,  // parts gate [F, E], up [F, E]
  kHead,    // one part [V, E]; embed reads it too, so that tied models hold it once
};
struct Weight {
  const void* handle = nullptr;  // the backend's own
  WeightKind kind = WeightKind::kLinear;
  DType dtype = DType::kBF16;
  std::int64_t out_dim = 0;  // all parts together
  std::int64_t in_dim = 0;
};

// The dtypes of activations for a model held in a given dtype.
struct ActivationTypes {
  DType residual = DType::kF32;
  DType product = DType::kF32;  // what products read and attention writes
  DType kv = DType::kF32;
};

// The largest shapes that ops will see; reserve() sizes the backend's workspaces from them.
struct OpLimits {
  std::int64_t max_tokens = 0;       // T
  std::int64_t max_seqs = 0;         // B
  std::int64_t max_logit_rows = 0;   // R
  std::int64_t max_sample_rows = 0;  // rows of SampleBatch
  std::int64_t max_blocks_per_seq = 0;  // M
  std::int32_t model_dim = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, ffn_dim = 0, vocab = 0;
};

// Where the bytes of a part also lie in an open file: a backend may read them from there instead of through a mapping.
struct FilePlace {
  int descriptor = -1;  // -1: nowhere
  std::uint64_t offset = 0;
};

// A part of a matrix of random numbers (random_weights.h): which of the generator's streams fills it.
struct RandomPart {
  std::int64_t rows = 0, columns = 0;
  std::uint64_t seed = 0, stream = 0;
};

struct KvArena {
  void* data = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t num_blocks = 0;
  KvLayout layout;
  Tensor token_ids;  // [num_blocks * block_size] i32: which token lives in each slot; embed writes, penalties read
};

// Which rows belong to which sequence. Sequence b owns rows query_start[b] .. query_start[b+1] - 1 of the step, which are its
// last positions: its last row sees context_len[b] tokens, itself included. context_len 0: padding, its rows become zeros.
struct AttendBatch {
  Tensor query_start;  // [B+1] i32
  Tensor context_len;  // [B] i32
  Tensor block_table;  // [B, M] i32
  std::int32_t num_decode_seqs = 0;  // the first ones; each has num_query rows
  std::int32_t num_query = 1;
};

struct EmbedArgs {
  Tensor token_ids;     // [T] i32; an id < 0 means state_tokens[-1 - id]
  Tensor state_tokens;  // [S] i32: last token drawn, by state slot
  Tensor slots;         // [T] i32: where the token lives; < 0: padding, the row becomes zeros
  Weight table;         // kHead
  KvArena arena;        // token_ids[slot] = id
  Tensor out;           // [T, E] residual
};

struct QkvArgs {
  Tensor x;          // [T, E] product
  Weight weight;     // kQkv
  Tensor bias;       // [(H + 2K) * D] f32 or none
  Tensor q_norm;     // [D] f32 or none: RMS norm of each head's q before RoPE (Qwen3)
  Tensor k_norm;     // [D] f32 or none
  float norm_eps = 0;
  Tensor rope;       // [max positions, D] f32: cos of the D/2 frequencies, then sin; pairs are (i, i + D/2)
  Tensor positions;  // [T] i32
  Tensor slots;      // [T] i32; < 0: nothing is stored
  std::int32_t layer = 0;
  KvArena arena;
  Tensor q_out;  // [T, H, D] product
};

struct AttendArgs {
  Tensor q;  // [T, H, D] product
  AttendBatch batch;
  KvArena arena;
  std::int32_t layer = 0;
  std::int32_t window = 0;  // 0: none; else a row sees its last `window` tokens, itself included
  float scale = 0;
  Tensor out;  // [T, H * D] product
};

struct SampleBatch {
  Tensor rows;         // [num rows, sizeof(SampleRow)] u8
  Tensor bias_ids;     // [n] i32
  Tensor bias_values;  // [n] f32; -inf bans
  Tensor block_table;  // [B, M] i32
  Tensor state_tokens;  // [S] i32, written
};
struct LogprobOutput {
  Tensor logprobs;      // [rows] f32, of the chosen or given id, of the unmodified distribution
  Tensor top_ids;       // [rows, kSampleTop] i32, most likely first; filled up to SampleRow::num_top
  Tensor top_logprobs;  // [rows, kSampleTop] f32
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;    // "cpu", "echo", ...
  virtual std::string device() const = 0;  // for people: "AMD EPYC, 2 threads, AVX-512 BF16"
  virtual ActivationTypes activation_types(DType model_dtype) const = 0;
  // False where results come from the tokens alone (echo): then no weight is ever read or prepared.
  virtual bool uses_weights() const { return true; }

  // ---- memory: at start only; after seal() an allocation aborts
  virtual std::size_t free_bytes() const = 0;  // what the arena and everything else may still take
  virtual void* allocate(MemoryKind kind, std::size_t bytes) = 0;  // throws Error if there is not enough
  virtual void reserve(const OpLimits& limits) = 0;                // workspaces; before seal
  // What reserve(limits) will take of free_bytes(): for the sum that is made before anything is loaded.
  virtual std::size_t workspace_bytes(const OpLimits& limits) const = 0;
  virtual void seal() = 0;
  // Host f32, bf16 or f16 parts, done with when this returns; `places` is empty or has one for each. What follows on the compute
  // stream sees the matrix.
  virtual Weight prepare_weights(WeightKind kind, DType dtype, std::span<const Tensor> parts, std::span<const FilePlace> places = {}) = 0;
  // The same of numbers that nobody has to bring: normal, sigma 0.02.
  virtual Weight prepare_random_weights(WeightKind kind, DType dtype, std::span<const RandomPart> parts) = 0;

  // ---- order
  virtual void upload(Stream stream, void* device, const void* pinned, std::size_t bytes) = 0;
  virtual void download(Stream stream, void* pinned, const void* device, std::size_t bytes) = 0;
  virtual FenceId record(Stream stream) = 0;
  virtual void wait(Stream stream, FenceId fence) = 0;  // work queued on `stream` from now runs after the fence
  virtual bool passed(FenceId fence) = 0;               // never blocks
  virtual void host_wait(FenceId fence) = 0;            // the engine thread sleeps until the fence has passed

  // ---- graphs of ops on the compute stream
  virtual bool has_graphs() const = 0;
  virtual void begin_capture() = 0;  // ops and copies on compute are recorded instead of run
  virtual GraphId end_capture() = 0;
  virtual void replay(GraphId graph) = 0;
  virtual std::size_t graph_bytes() const = 0;  // of free_bytes(), what the graphs made so far took; also after seal

  // ---- ops, all on `stream`
  virtual void embed(Stream stream, const EmbedArgs& args) = 0;
  // residual [T, E] += delta [T, E] (if given); out [T, E] product = residual / rms(residual) * weight [E] f32.
  virtual void add_rms_norm(Stream stream, Tensor residual, Tensor delta, Tensor weight, float eps, Tensor out) = 0;
  virtual void qkv_rope_store(Stream stream, const QkvArgs& args) = 0;
  virtual void attend(Stream stream, const AttendArgs& args) = 0;
  // out [T, N] = x [T, K] w^T + bias [N] f32 (if given). out of residual dtype.
  virtual void linear(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor out) = 0;
  // residual [T, N] += x [T, K] w^T + bias.
  virtual void linear_add(Stream stream, Tensor x, const Weight& weight, Tensor bias, Tensor residual) = 0;
  // out [T, F] product = silu(x gate^T) * (x up^T).
  virtual void gate_up_silu(Stream stream, Tensor x, const Weight& weight, Tensor out) = 0;
  // out [R, E] = x [T, E] at rows [R] i32; a row < 0 becomes zeros.
  virtual void gather_rows(Stream stream, Tensor x, Tensor rows, Tensor out) = 0;
  // Head product of x [R, E], then penalties, bias, truncation and the draw for each SampleRow. ids [num rows] i32.
  virtual void logits_sample(Stream stream, Tensor x, const Weight& head, const SampleBatch& batch, const KvArena& arena,
                             Tensor ids, const LogprobOutput& out) = 0;
  // Logprob of given ids [R] i32 under each row of x [R, E], and the num_top most likely. Head rows go in chunks.
  virtual void token_logprobs(Stream stream, Tensor x, const Weight& head, Tensor ids, std::int32_t num_top,
                              const LogprobOutput& out) = 0;
  // table [B, M] i32: row b begins with entries [n] at starts[b] .. starts[b+1] - 1; what follows keeps what it held. starts [B+1]
  // i32. So a step brings only the blocks that there are to a table as wide as the limit.
  virtual void fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) = 0;
  // Blocks from[i] -> to[i], all layers, token ids too; pairs [n, 2] i32.
  virtual void copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) = 0;
};

struct BackendOptions {
  int num_threads = 0;  // compute threads of the CPU backend, the engine's included; 0: all cores
  double gpu_gb = 0;        // GPU: all that the process may take, 1e9 bytes; 0: gpu_fraction of the card
  double gpu_fraction = 0;  // 0: 0.9
  double tune_s = 0;        // GPU: seconds that reserve() may time products for; 0: 1
};

// `name`: "cpu", "cuda", "check" (cuda against cpu after each op), "check:cpu", "echo", "late" (over cpu), "late:echo"; for tests also
// "stall-after:N:echo", "slow:MS:echo" and "fail-after:N:echo". Throws Error for an unknown or absent one.
std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options);

}  // namespace fastgen
