// The engine's own work per decode step: plan, pack, launch, collect and events over a device that computes nothing.
//
//   host_bench [FOLDER with a config.json]      microseconds of the engine thread per step, by batch size
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "backend/echo/echo_backend.h"
#include "backend/forwarding.h"
#include "engine/setup.h"

using namespace fastgen;

namespace {

constexpr double kTokenBytes = 20;  // of K and V in echo's arena, the token's id included

// Every op and copy is nothing: each step "draws" token 0 for every row, since the results stay zero.
class NullBackend final : public ForwardingBackend {
 public:
  NullBackend() : ForwardingBackend(make_echo_backend()) {}
  void upload(Stream, void*, const void*, std::size_t) override {}
  void download(Stream, void*, const void*, std::size_t) override {}
  void begin_capture() override {}
  GraphId end_capture() override { return num_graphs_++; }
  void replay(GraphId) override {}
  bool passed(FenceId) override { return false; }
  void embed(Stream, const EmbedArgs&) override {}
  void add_rms_norm(Stream, Tensor, Tensor, Tensor, float, Tensor) override {}
  void qkv_rope_store(Stream, const QkvArgs&) override {}
  void attend(Stream, const AttendArgs&) override {}
  void linear_add(Stream, Tensor, const Weight&, Tensor, Tensor) override {}
  void gate_up_silu(Stream, Tensor, const Weight&, Tensor) override {}
  void gather_rows(Stream, Tensor, Tensor, Tensor) override {}
  void logits_sample(Stream, Tensor, const Weight&, const SampleBatch&, const KvArena&, Tensor, const LogprobOutput&) override {}
  void fill_table(Stream, Tensor, Tensor, Tensor) override {}

 private:
  GraphId num_graphs_ = 0;
};

// Of all threads but this one, so of the engine's: what other programs take does not count.
double others_cpu_us() {
  const auto read = [](clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) * 1e-3;
  };
  return read(CLOCK_PROCESS_CPUTIME_ID) - read(CLOCK_THREAD_CPUTIME_ID);
}

// With `num_waiting` more requests, for which there are no blocks.
double us_per_step(const std::string& folder, std::int32_t batch, std::int32_t prompt_len, std::int32_t decode_len, std::int32_t num_waiting,
                   double kv_gb) {
  EngineConfig config;
  config.model = folder;
  config.backend = "echo";
  config.dtype = "float32";
  config.max_batch = config.max_queue = batch + num_waiting;
  config.kv_gb = kv_gb;
  config.max_prefill = 8192;
  config.max_model_len = 32768;
  config.event_ring_size = 1 << 16;
  auto engine = start_engine(config, set_up_engine(config, std::make_unique<NullBackend>()));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  for (std::int32_t i = 0; i < batch + num_waiting; ++i) {
    Request request;
    request.prompt.assign(static_cast<std::size_t>(prompt_len), 5);
    request.sampling = {.temperature = 0, .max_tokens = decode_len + i % 32, .ignore_eos = true};
    engine->submit(*engine->try_admit(), std::move(request));
  }
  // From the first step in which all decode to the last.
  const auto steps_of = [&](std::uint64_t tokens) {
    Event event;
    while (engine->stats().decode_tokens < tokens) {
      while (engine->ring(0).pop(event)) {
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return engine->stats();
  };
  const auto total = static_cast<std::uint64_t>(batch) * static_cast<std::uint64_t>(decode_len - 1);
  const EngineStats first = steps_of(total / 4);
  const double start_us = others_cpu_us();
  const EngineStats last = steps_of(total * 3 / 4);
  return (others_cpu_us() - start_us) / static_cast<double>(last.num_steps - first.num_steps);
}

}  // namespace

int main(int argc, char** argv) {
  const auto folder = std::filesystem::temp_directory_path() / "fastgen-host-bench";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "bfloat16"})";
  const std::string model = argc > 1 ? argv[1] : folder.string();
  for (const std::int32_t batch : {1, 64, 256, 512}) {
    for (const std::int32_t prompt_len : {64, 1024})
      std::printf("batch %3d, %4d tokens before: %6.1f us per step\n", batch, prompt_len,
                  us_per_step(model, batch, prompt_len, batch == 1 ? 20000 : 2000, 0, 0));
  }
  const double kv_gb = 512 * (64 + 2000) * kTokenBytes * 1e-9;
  std::printf("batch 512,   64 tokens before, 100 wait for blocks: %6.1f us per step\n", us_per_step(model, 512, 64, 2000, 100, kv_gb));
}
