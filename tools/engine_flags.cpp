#include "engine_flags.h"

namespace fastgen {
namespace {

// A flag given twice counts as given last.
template <typename T>
CLI::Option* add(CLI::App& app, const char* group, const char* name, T& value, const char* help) {
  return app.add_option(name, value, help)->group(group)->take_last();
}

}  // namespace

void add_model_flags(CLI::App& app, EngineConfig& config) {
  const auto flag = [&](const char* name, auto& value, const char* help) { return add(app, "Model", name, value, help); };
  app.add_option("MODEL", config.model,
                 "A folder, or org/name in the local Hugging Face cache (default: SmolLM2-135M-Instruct, which scripts/get-model makes)")
      ->group("Model");
  flag("--revision", config.revision, "Branch, tag or commit of a name in the cache")->capture_default_str();
  flag("--dtype", config.dtype, "Weights: auto, bfloat16 or float32")->capture_default_str();
  app.add_flag("--dummy-weights", config.dummy_weights, "Random weights made from config.json alone")->group("Model");
  flag("--layers", config.num_layers, "With --dummy-weights: only so many of the layers; 0: all")
      ->check(CLI::Range(0, 1 << 10))->capture_default_str();
  app.add_option("--ignore-config-keys", config.ignore_config_keys,
                 "Keys of config.json and generation_config.json that are not known and may be ignored, comma-separated")
      ->group("Model")->delimiter(',')->allow_extra_args(false);
}

void add_engine_flags(CLI::App& app, EngineConfig& config) {
  const auto flag = [&](const char* name, auto& value, const char* help) { return add(app, "Engine", name, value, help); };
  const auto size = [&](const char* name, std::int32_t& value, const char* help) {
    return flag(name, value, help)->check(CLI::Range(0, 1 << 30))->capture_default_str();
  };
  flag("--backend", config.backend, "cpu, cuda, check (cuda with each op compared to cpu), echo (a test model without weights), late or late:echo")->capture_default_str();
  size("--threads", config.num_threads, "Compute threads on the CPU; 0: all cores");
  size("--max-model-len", config.max_model_len, "Most tokens of prompt and answer; 0: the model's, or what the KV cache holds");
  size("--max-batch", config.max_batch, "Sequences that decode together; 0: 256");
  size("--max-prefill", config.max_prefill, "Prompt tokens in one step; 0: the backend's defaults");
  size("--block-size", config.block_size, "Tokens in a block of the KV cache")->check(CLI::Range(1, 1024));
  flag("--kv-gb", config.kv_gb, "KV cache, 1e9 bytes; 0: on the CPU a quarter of free memory, on a GPU all that is left")
      ->check(CLI::Range(0.0, 1e6))->capture_default_str();
  flag("--host-kv-gb", config.host_kv_gb, "Host tier: pinned memory for the KV of preempted sequences, 1e9 bytes; 0: they are recomputed")
      ->check(CLI::Range(0.0, 1e6))->capture_default_str();
  flag("--gpu-gb", config.gpu_gb, "GPU: all that the process may take, 1e9 bytes")->check(CLI::Range(0.0, 1e6));
  flag("--gpu-fraction", config.gpu_fraction, "GPU: the same as a share of the card (without both: 0.9)")->check(CLI::Range(0.0, 1.0));
  flag("--tune-s", config.tune_s, "GPU: seconds that a start may time the library's algorithms for, once per card and shape; 0: 1")
      ->check(CLI::Range(0.0, 3600.0))->capture_default_str();
  size("--graphs", config.num_graphs, "Batch sizes whose decode steps are captured and replayed; 0: none");
}

}  // namespace fastgen
