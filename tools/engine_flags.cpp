#include "engine_flags.h"

namespace fastgen {

void add_engine_flags(CLI::App& app, EngineConfig& config) {
  app.add_option("MODEL", config.model,
                 "a model's folder, or its name in the local Hugging Face cache (default: SmolLM2-135M-Instruct, which "
                 "scripts/get-model makes)");
  const auto flag = [&app](const char* name, auto& value, const char* what) {
    return app.add_option(name, value, what)->group("Engine")->take_last();
  };
  flag("--revision", config.revision, "revision of a name in the cache")->capture_default_str();
  flag("--backend", config.backend, "cpu, cuda, echo (exact integers, for tests), late")->capture_default_str();
  flag("--dtype", config.dtype, "auto, bfloat16 or float32")->capture_default_str();
  flag("--threads", config.num_threads, "compute threads of the CPU (0: all cores)")->capture_default_str();
  flag("--max-model-len", config.max_model_len, "tokens of prompt and answer together (0: what the model allows)")
      ->capture_default_str();
  flag("--max-batch", config.max_batch, "sequences that decode together (0: 256)")->capture_default_str();
  flag("--max-prefill", config.max_prefill, "prompt tokens of one step (0: the backend's choice)")
      ->capture_default_str();
  flag("--block-size", config.block_size, "tokens of one KV block")->capture_default_str();
  flag("--kv-gb", config.kv_gb, "CPU: 1e9 bytes for the KV cache (0: a quarter of free memory)")->capture_default_str();
  flag("--gpu-gb", config.gpu_gb, "GPU: 1e9 bytes for all that the process may take")->check(CLI::Range(0.0, 1e6));
  flag("--gpu-fraction", config.gpu_fraction, "GPU: the same as a share of the card (without both: 0.9)")->check(CLI::Range(0.0, 1.0));
  flag("--graphs", config.num_graphs, "batch sizes whose decode steps are captured and replayed")->capture_default_str();
  app.add_flag("--dummy-weights", config.dummy_weights, "random weights, from the model's config alone")->group("Engine");
  flag("--layers", config.num_layers, "with --dummy-weights: only so many of the layers (0: all)")->capture_default_str();
}

}  // namespace fastgen
