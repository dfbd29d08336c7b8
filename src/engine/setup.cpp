#include "engine/setup.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "backend/cpu/memory.h"
#include "backend/echo/echo_backend.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/model_folder.h"
#include "engine/memory_sum.h"
#include "engine/step.h"
#include "fastgen/error.h"
#include "model/config.h"
#include "model/loader.h"
#include "model/uploader.h"

namespace fastgen {
namespace {

// Prefill tokens of a step that also decodes, and of one that does not. A GPU needs more rows to be busy, and its busy steps are to
// hold a prompt of 1,024 tokens beside 256 decode rows; on a CPU a long step only holds up the streams. Tried: busy steps of a third of the
// tokens that queue, up to 8,192. At 34 requests of 1,024 + 128 a second, more than the card serves, TTFT halved, but TPOT grew by more
// (48 ms for 34) and throughput stayed; at 20 and 28 a second nothing changed (H200, no record).
constexpr std::int32_t kPrefillBusyGpu = 1280, kPrefillIdleGpu = 8192;
constexpr std::int32_t kPrefillBusyCpu = 256, kPrefillIdleCpu = 2048;
constexpr std::int32_t kDefaultMaxBatch = 256;

// What is kept free on a GPU when the KV arena is sized: for what libraries allocate later (code of kernels that is loaded at their
// first use, plans), and what the captured steps take at least, each; more if the first one shows that it is more.
constexpr std::int64_t kGpuReserveBytes = std::int64_t{256} << 20;
constexpr std::int64_t kGraphBytesMin = std::int64_t{8} << 20;

bool is_gpu(std::string_view backend) { return backend == "cuda" || backend == "check"; }

void check_range(const char* flag, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) throw Error(fmt::format("{} must be between {} and {}, not {}", flag, low, high, value));
}

// Bounded so that bytes stay far from the limit of 64 bits.
void check_gb(const char* flag, double value) {
  constexpr double kMost = 1e6;
  if (!(value >= 0 && value <= kMost)) throw Error(fmt::format("{} must be between 0 and {}, not {}", flag, kMost, value));
}

void check_config(const EngineConfig& config) {
  check_range("--max-model-len", config.max_model_len, 0, 1 << 24);
  check_range("--block-size", config.block_size, 1, 1024);
  check_range("--max-batch", config.max_batch, 0, 4096);
  check_range("--max-prefill", config.max_prefill, 0, 1 << 17);
  check_range("--max-queue", config.max_queue, 1, 1 << 20);
  check_range("--threads", config.num_threads, 0, 4096);
  check_range("num_event_rings", config.num_event_rings, 1, 1024);
  check_range("event_ring_size", config.event_ring_size, 4, 1 << 24);
  check_gb("--kv-gb", config.kv_gb);
  check_gb("--host-kv-gb", config.host_kv_gb);
  check_range("--graphs", config.num_graphs, 0, 256);
  check_gb("--gpu-gb", config.gpu_gb);
  if (!(config.gpu_fraction >= 0 && config.gpu_fraction <= 1))
    throw Error(fmt::format("--gpu-fraction must be between 0 and 1, not {}", config.gpu_fraction));
  if (!(config.tune_s >= 0 && config.tune_s <= 3600)) throw Error(fmt::format("--tune-s must be between 0 and 3600, not {}", config.tune_s));
  for (const auto& [flag, value] : {std::pair{"--gpu-gb", config.gpu_gb}, {"--gpu-fraction", config.gpu_fraction}})
    if (value > 0 && !is_gpu(config.backend))
      throw Error(fmt::format("{} needs a GPU: the backend is {} (--kv-gb sizes its KV cache)", flag, config.backend));
  if (config.tune_s > 0 && !is_gpu(config.backend)) throw Error(fmt::format("--tune-s needs a GPU: the backend is {}", config.backend));
  if (config.gpu_gb > 0 && config.gpu_fraction > 0) throw Error("--gpu-gb and --gpu-fraction: give one of the two");
}

// The echo backend, alone or under a wrapper.
bool is_echo(std::string_view backend) { return backend == "echo" || backend.ends_with(":echo"); }

// Echo wants its own small dims; vocabulary, longest context and end-of-sequence ids stay the model's.
ModelConfig echo_config(ModelConfig config) {
  config.num_layers = EchoShape::kNumLayers;
  config.model_dim = EchoShape::kModelDim;
  config.num_heads = EchoShape::kNumHeads;
  config.num_kv_heads = EchoShape::kNumKvHeads;
  config.head_dim = EchoShape::kHeadDim;
  config.ffn_dim = EchoShape::kFfnDim;
  config.qkv_bias = config.qk_norm = false;
  config.window = 0;
  config.windowed.clear();
  return config;
}

class Setup {
 public:
  Setup(const EngineConfig& config, std::unique_ptr<Backend> backend) : config_(config), backend_(std::move(backend)) {}

  EngineSetup run() {
    check_config(config_);
    read_config();
    lap("config");
    if (!backend_) backend_ = make_backend(config_.backend, backend_options());
    dtype_ = resolve_dtype(config_.dtype, model_);
    size_steps();
    check_memory();
    lap("device");
    ModelWeights weights = load();
    lap(fmt::format("weights ({:.2f} GB)", static_cast<double>(info_.weight_bytes) * 1e-9));
    auto transformer = std::make_unique<Transformer>(*backend_, model_, std::move(weights), model_len_, op_limits());
    lap("activations and workspaces");
    runner_ = std::make_unique<Runner>(std::move(backend_), std::move(transformer), runner_limits());
    const KvArena arena = make_arena();
    lap(fmt::format("arena ({:.2f} GB)", static_cast<double>(info_.kv_bytes) * 1e-9));
    make_host_tier(arena);
    if (config_.host_kv_gb > 0) lap(fmt::format("host tier ({:.2f} GB)", static_cast<double>(info_.host_kv_bytes) * 1e-9));
    runner_->start(arena);
    lap("first captured step");
    fill_info();
    info_.load_seconds = static_cast<double>(now_us() - start_us_) * 1e-6;
    log_debug("where the {:.2f} s of the start went: {}", info_.load_seconds, laps_);
    return {info_, limits_, std::move(runner_)};
  }

 private:
  // The time since the last one, for the log.
  void lap(const std::string& what) {
    const std::uint64_t now = now_us();
    laps_ += fmt::format("{}{} {:.3f} s", laps_.empty() ? "" : ", ", what, static_cast<double>(now - lap_us_) * 1e-6);
    lap_us_ = now;
  }

  void read_config() {
    folder_ = config_.model.empty() ? default_model_folder() : resolve_model_folder(config_.model, config_.revision);
    const ModelConfig whole = first_layers(load_config(folder_, config_.ignore_config_keys));
    info_.num_parameters = whole.num_parameters();
    model_ = is_echo(config_.backend) ? echo_config(whole) : whole;
    if (config_.max_model_len > model_.max_positions_stretched)
      throw Error(fmt::format("--max-model-len {} is over the model's own {} ({})", config_.max_model_len, model_.max_positions_stretched,
                              (folder_ / "config.json").string()));
    model_len_ = config_.max_model_len > 0 ? config_.max_model_len : model_.max_positions;
    if (model_len_ < 2) throw Error(fmt::format("--max-model-len must be at least 2, not {}", model_len_));
  }

  // Of random weights fewer layers are a model too, one that a small machine holds.
  ModelConfig first_layers(ModelConfig model) const {
    if (config_.num_layers == 0) return model;
    if (!config_.dummy_weights) throw Error("--layers needs --dummy-weights: a model without some of its layers is no model");
    check_range("--layers", config_.num_layers, 1, model.num_layers);
    model.num_layers = config_.num_layers;
    if (!model.windowed.empty()) model.windowed.resize(static_cast<std::size_t>(model.num_layers));
    return model;
  }

  void size_steps() {
    const bool has_gpu = is_gpu(config_.backend);
    limits_.max_batch = config_.max_batch > 0 ? config_.max_batch : kDefaultMaxBatch;
    limits_.prefill_busy = config_.max_prefill > 0 ? config_.max_prefill : has_gpu ? kPrefillBusyGpu : kPrefillBusyCpu;
    limits_.prefill_idle = config_.max_prefill > 0 ? config_.max_prefill : has_gpu ? kPrefillIdleGpu : kPrefillIdleCpu;
    limits_.block_size = config_.block_size;
    limits_.window = model_.all_windowed() ? model_.window : 0;
    max_tokens_ = std::max(limits_.prefill_busy, limits_.prefill_idle) + limits_.max_batch;
  }

  BackendOptions backend_options() const {
    return {.num_threads = config_.num_threads, .gpu_gb = config_.gpu_gb, .gpu_fraction = config_.gpu_fraction, .tune_s = config_.tune_s};
  }

  std::int64_t weight_bytes() const {
    return backend_->uses_weights() ? info_.num_parameters * static_cast<std::int64_t>(dtype_bytes(dtype_)) : 0;
  }

  // Everything but the KV arena beyond its first block, which takes what is left.
  void check_memory() const {
    const auto bytes = [](std::size_t count) { return static_cast<std::int64_t>(count); };
    const std::int64_t free_bytes = bytes(backend_->free_bytes());
    const bool has_gpu = is_gpu(config_.backend);
    check_host_tier_fits();
    if (free_bytes == 0 && !has_gpu) return;  // the system does not tell
    MemorySum sum;
    sum.add(fmt::format("weights ({:.1f}M x {})", static_cast<double>(info_.num_parameters) / 1e6, dtype_name(dtype_)), weight_bytes());
    sum.add("workspaces", bytes(backend_->workspace_bytes(op_limits())));
    sum.add("activations", bytes(Transformer::activation_bytes(*backend_, model_, dtype_, model_len_, op_limits())));
    sum.add("step buffers", bytes(Runner::device_bytes(runner_limits())));
    if (has_gpu) sum.add("graphs and libraries", gpu_reserve_bytes(0));
    const auto kv_bytes = static_cast<std::int64_t>(config_.kv_gb * 1e9);
    sum.add("KV cache at least", std::max(kv_bytes, Runner::block_bytes(kv_layout(), backend_->activation_types(dtype_).kv)));
    if (!has_gpu && config_.host_kv_gb > 0) sum.add("host tier", host_tier_bytes());
    sum.check_fits(free_bytes, has_gpu ? "--gpu-gb, --gpu-fraction: not enough GPU memory" : "not enough memory");
  }

  std::int64_t host_tier_bytes() const { return static_cast<std::int64_t>(config_.host_kv_gb * 1e9); }

  // On a GPU it is the only large thing in host memory, on the CPU one term of the sum.
  void check_host_tier_fits() const {
    const auto free_bytes = static_cast<std::int64_t>(free_memory_bytes());
    if (free_bytes > 0 && host_tier_bytes() > free_bytes)
      throw Error(fmt::format("--host-kv-gb {}: {:.2f} GB of memory are free", config_.host_kv_gb, static_cast<double>(free_bytes) * 1e-9));
  }

  std::int64_t gpu_reserve_bytes(std::int64_t graph_bytes) const {
    if (!is_gpu(config_.backend)) return 0;
    // One more for the trial that measured it.
    return kGpuReserveBytes + (config_.num_graphs > 0 ? config_.num_graphs + 1 : 0) * std::max(graph_bytes, kGraphBytesMin);
  }

  ModelWeights load() {
    LoadOptions options{.dtype = dtype_, .dummy_weights = config_.dummy_weights, .dummy_seed = config_.seed, .on_progress = {}};
    if (config_.on_load)
      options.on_progress = [&](const LoadProgress& progress) { config_.on_load(progress.done_bytes, progress.total_bytes); };
    ModelWeights weights = load_weights(*backend_, folder_, model_, options);
    info_.weight_bytes = weight_bytes();
    return weights;
  }

  OpLimits op_limits() const {
    return {.max_tokens = max_tokens_,
            .max_seqs = limits_.max_batch,
            .max_logit_rows = limits_.max_batch,
            .max_sample_rows = limits_.max_batch,
            .max_blocks_per_seq = max_seq_blocks(),
            .model_dim = model_.model_dim,
            .num_heads = model_.num_heads,
            .num_kv_heads = model_.num_kv_heads,
            .head_dim = model_.head_dim,
            .ffn_dim = model_.ffn_dim,
            .vocab = model_.vocab};
  }

  std::int64_t max_seq_blocks() const { return (model_len_ + limits_.block_size - 1) / limits_.block_size; }
  RunnerLimits runner_limits() const {
    return {.max_batch = limits_.max_batch,
            .max_tokens = max_tokens_,
            .max_seq_blocks = max_seq_blocks(),
            .max_biases = limits_.max_batch * max_biases_per_row(model_.eos_ids.size()),
            .num_graphs = config_.num_graphs};
  }

  KvLayout kv_layout() const { return {model_.num_layers, model_.num_kv_heads, limits_.block_size, model_.head_dim}; }

  // As many blocks as may be had, beside so many bytes that something else will want.
  std::int64_t num_blocks(std::int64_t reserved_bytes) const {
    const std::int64_t one = Runner::block_bytes(kv_layout(), kv_dtype());
    const auto free_bytes = static_cast<double>(runner_->backend().free_bytes());
    const double bytes = config_.kv_gb > 0        ? config_.kv_gb * 1e9
                         : is_gpu(config_.backend) ? free_bytes - static_cast<double>(reserved_bytes)
                                                   : (free_bytes - static_cast<double>(host_tier_bytes())) / 4;
    // More than every sequence at full length can never be used.
    const std::int64_t useful = (limits_.max_batch + 1) * max_seq_blocks();
    const std::int64_t affordable = static_cast<std::int64_t>(bytes / static_cast<double>(one) + 1e-6);
    const std::int64_t addressable = std::numeric_limits<std::int32_t>::max() / limits_.block_size;  // a slot is 32 bits
    const std::int64_t count = std::min({useful, affordable, addressable});
    if (count < 1 || count * limits_.block_size < 2)
      throw Error(fmt::format("--kv-gb: {:.6f} GB hold no block of {} tokens ({} bytes)", bytes * 1e-9, limits_.block_size, one));
    return count;
  }

  DType kv_dtype() const { return runner_->backend().activation_types(dtype_).kv; }

  KvArena make_arena() {
    KvArena arena;
    arena.dtype = kv_dtype();
    arena.layout = kv_layout();
    arena.num_blocks = num_blocks(gpu_reserve_bytes(0));
    size_arena_beside_graphs(arena);
    Backend& backend = runner_->backend();
    const std::int64_t num_slots = arena.num_blocks * limits_.block_size;
    const std::int64_t elements = arena.num_blocks * arena.layout.block_elements();
    arena.data = backend.allocate(MemoryKind::kDevice, static_cast<std::size_t>(elements) * dtype_bytes(arena.dtype));
    arena.token_ids = device_tensor(backend, DType::kI32, {num_slots});
    limits_.num_blocks = static_cast<std::int32_t>(arena.num_blocks);
    info_.kv_tokens = num_slots;
    info_.kv_bytes = arena.num_blocks * Runner::block_bytes(arena.layout, arena.dtype);
    return arena;
  }

  void make_host_tier(const KvArena& arena) {
    if (config_.host_kv_gb == 0) return;
    const std::int64_t one = Runner::block_bytes(arena.layout, arena.dtype);
    const std::int64_t count = std::min<std::int64_t>(static_cast<std::int64_t>(config_.host_kv_gb * 1e9 / static_cast<double>(one) + 1e-6),
                                                      std::numeric_limits<BlockId>::max());
    if (count < 1)
      throw Error(fmt::format("--host-kv-gb: {:.6f} GB hold no block of {} tokens ({} bytes)", config_.host_kv_gb, limits_.block_size, one));
    limits_.num_host_blocks = static_cast<std::int32_t>(count);
    info_.host_kv_bytes = count * one;
    info_.host_kv_tokens = count * limits_.block_size;
    try {
      runner_->allocate_host_tier(arena, limits_.num_host_blocks);
    } catch (const Error& error) {  // there may be less to pin than is free
      throw Error(fmt::format("--host-kv-gb {}: {}", config_.host_kv_gb, error.what()));
    }
  }

  // A captured step has the arena's address and size in it, so the one that is measured is captured over a stand-in of the size
  // that the arena will have, if graphs take no more than was kept for them.
  void size_arena_beside_graphs(KvArena& arena) {
    KvArena stand_in = arena;
    const Tensor place = device_tensor(runner_->backend(), DType::kI32, {1024});
    stand_in.data = place.data;
    stand_in.token_ids = Tensor(place.data, DType::kI32, {arena.num_blocks * limits_.block_size});
    if (is_gpu(config_.backend)) runner_->warm_up(stand_in);
    const auto graph_bytes = static_cast<std::int64_t>(runner_->measure_graphs(stand_in));
    if (is_gpu(config_.backend)) log_debug("a captured step takes {:.1f} MB", static_cast<double>(graph_bytes) * 1e-6);
    // Again, since the first steps may have taken more than was kept for them; the trial's own bytes are gone already.
    arena.num_blocks = std::min(arena.num_blocks, num_blocks(gpu_reserve_bytes(graph_bytes) - kGpuReserveBytes / 2 - graph_bytes));
  }

  void fill_info() {
    info_.model_folder = folder_.string();
    info_.architecture = model_.architecture;
    info_.backend = runner_->backend().name();
    info_.device = runner_->backend().device();
    info_.dtype = dtype_name(dtype_);
    info_.vocab = model_.vocab;
    info_.max_model_len = static_cast<std::int32_t>(std::min<std::int64_t>(model_len_, info_.kv_tokens));
    info_.max_model_len_lowered = info_.max_model_len < model_len_;
    info_.max_batch = limits_.max_batch;
    info_.max_queue = config_.max_queue;
    info_.block_size = limits_.block_size;
    info_.eos_ids = model_.eos_ids;
    const SamplingDefaults& wanted = model_.sampling;
    SamplingParams& sampling = info_.sampling;
    sampling.temperature = wanted.temperature.value_or(sampling.temperature);
    sampling.top_p = wanted.top_p.value_or(sampling.top_p);
    sampling.top_k = wanted.top_k.value_or(sampling.top_k);
    sampling.min_p = wanted.min_p.value_or(sampling.min_p);
    sampling.repetition_penalty = wanted.repetition_penalty.value_or(sampling.repetition_penalty);
  }

  const EngineConfig& config_;
  std::filesystem::path folder_;
  ModelConfig model_;
  DType dtype_ = DType::kBF16;
  std::int32_t model_len_ = 0;
  std::int64_t max_tokens_ = 0;
  SchedulerLimits limits_;
  EngineInfo info_;
  const std::uint64_t start_us_ = now_us();
  std::uint64_t lap_us_ = start_us_;
  std::string laps_;
  std::unique_ptr<Backend> backend_;  // until the runner has it
  std::unique_ptr<Runner> runner_;
};

}  // namespace

EngineSetup set_up_engine(const EngineConfig& config, std::unique_ptr<Backend> backend) {
  return Setup(config, std::move(backend)).run();
}

}  // namespace fastgen
