#include "plan/command.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/model_folder.h"
#include "fastgen/error.h"
#include "model/safetensors.h"
#include "plan/model_plan.h"

namespace fastgen::plan {

namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model;
  std::string revision = "main";
  std::vector<std::string> ignore_config_keys;
  std::string dtype = "auto";
  std::string card = "h200";
  double memory_gb = 0, bandwidth_tb = 0, tflops = 0;  // 0: the card's
  std::int32_t block_size = 64, max_batch = 256, max_prefill = 8192;
  std::vector<std::int64_t> lengths = {1024, 4096, 8192, 32768, 131072};
  std::int64_t prompt = 1024;
  double host_kv_gb = 0;
};

DType dtype_of(const std::string& name, const ModelConfig& model) {
  if (name == "auto") return model.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  if (name == "bfloat16" || name == "float32") return name == "bfloat16" ? DType::kBF16 : DType::kF32;
  throw Error(fmt::format("--dtype {}: not one of auto, bfloat16, float32", name));
}

Card card_of(const Options& options) {
  std::optional<Card> card = find_card(options.card);
  if (!card) throw Error(fmt::format("--card {}: not one of {} (or give --memory-gb, --bandwidth-tb and --tflops)", options.card, card_names()));
  if (options.memory_gb > 0) card->memory_bytes = options.memory_gb * 1e9;
  if (options.bandwidth_tb > 0) card->bytes_per_s = options.bandwidth_tb * 1e12;
  if (options.tflops > 0) card->flops_per_s = options.tflops * 1e12;
  return *card;
}

std::string gb(double bytes) {
  if (std::abs(bytes) >= 1e8) return fmt::format("{:.2f} GB", bytes * 1e-9);
  return std::abs(bytes) >= 1e5 ? fmt::format("{:.2f} MB", bytes * 1e-6) : fmt::format("{:.2f} KB", bytes * 1e-3);
}

void print_model(const fs::path& folder, const PlanInput& input) {
  const ModelConfig& model = input.model;
  fmt::print("{}\n{}: {} layers, dim {}, {} heads, {} KV heads of {}, ffn {}, vocabulary {}, context {}\n\n", folder.string(),
             model.architecture, model.num_layers, model.model_dim, model.num_heads, model.num_kv_heads, model.head_dim, model.ffn_dim,
             model.vocab, model.max_positions);
  fmt::print("{:<12} {:>16} {:>12}\n", "part", "parameters", dtype_name(input.dtype));
  for (const Part& part : parts_of(model)) {
    fmt::print("{:<12} {:>16} {:>12}{}\n", part.name, part.num_parameters,
               gb(static_cast<double>(part.num_parameters) * static_cast<double>(dtype_bytes(input.dtype))),
               part.num_parameters == 0 ? "  tied to the embedding" : "");
  }
  fmt::print("{:<12} {:>16} {:>12}\n", "all", model.num_parameters(), gb(plan_memory(input).weights));
}

// The headers of the files: what is there, and whether it is what the config says.
void print_checkpoint(const Checkpoint& checkpoint, const ModelConfig& model) {
  std::int64_t num_elements = 0;
  for (const auto& [name, entry] : checkpoint.entries()) {
    std::int64_t count = 1;
    for (std::int64_t dim : entry.tensor.shape) count *= dim;
    num_elements += count;
  }
  fmt::print("on disk      {:>16} {:>12}  {} tensors{}\n\n", num_elements, gb(static_cast<double>(checkpoint.total_bytes())),
             checkpoint.entries().size(), num_elements == model.num_parameters() ? "" : ", not the number that config.json gives");
}

// A plan is wanted before the weights are there too, or while they still come: then config.json alone counts.
void print_files(const fs::path& folder, const ModelConfig& model) {
  if (!fs::exists(folder / "model.safetensors") && !fs::exists(folder / "model.safetensors.index.json")) {
    fmt::print("on disk      no weights here: the sizes are those of config.json\n\n");
    return;
  }
  try {
    print_checkpoint(Checkpoint::open(folder), model);
  } catch (const Error& error) {
    fmt::print("on disk      not whole ({}): the sizes are those of config.json\n\n", error.what());
  }
}

void print_memory(const PlanInput& input, const MemoryPlan& memory) {
  fmt::print("memory of {}: {}\n", input.card.name, gb(input.card.memory_bytes));
  fmt::print("  weights {}, activations about {}, rotation table {}, left for KV {}\n", gb(memory.weights), gb(memory.activations),
             gb(memory.rope_table), gb(memory.kv_room));
  fmt::print("  KV: {:.0f} bytes per token\n", memory.kv_per_token);
  if (memory.num_blocks > 0) fmt::print("  KV cache: {} tokens in {} blocks of {}\n", memory.kv_tokens, memory.num_blocks, input.block_size);
  if (input.host_kv_gb > 0)
    fmt::print("  host tier: {} tokens of preempted sequences in {} blocks, {} of the host's memory\n", memory.num_host_blocks * input.block_size,
               memory.num_host_blocks, gb(input.host_kv_gb * 1e9));
}

// One line for each reason; empty if all fits.
std::vector<std::string> what_does_not_fit(const PlanInput& input, const MemoryPlan& memory) {
  std::vector<std::string> out;
  const double fixed = memory.weights + memory.activations + memory.rope_table;
  if (memory.weights > input.card.memory_bytes) {
    out.push_back(fmt::format("the weights alone are {}, over the {} there are: {} cards of this kind would hold them", gb(memory.weights),
                              gb(input.card.memory_bytes), static_cast<int>(fixed / input.card.memory_bytes) + 1));
  } else if (memory.num_blocks == 0) {
    out.push_back(fmt::format("weights and activations take {} of {}: no block of KV fits beside them", gb(fixed), gb(input.card.memory_bytes)));
  } else if (memory.kv_tokens < input.model.max_positions) {
    out.push_back(fmt::format("one sequence of the model's whole context ({} tokens): the KV cache holds {}", input.model.max_positions, memory.kv_tokens));
  }
  return out;
}

void print_windows(const PlanInput& input, std::int64_t length) {
  const double unread = unread_share(input.model, length);
  if (unread <= 0) return;
  const bool all = input.model.all_windowed();
  fmt::print("  windows of {} tokens in {}: at {} tokens {:.0f} % of the KV is behind them and never read again; {}\n", input.model.window,
             all ? "every layer" : "some layers", length, 100 * unread,
             all ? "it is given back while the sequence runs, though a prompt is admitted only where all of it fits"
                 : "it stays, because a block holds all layers");
}

void print_lengths(const Options& options, const PlanInput& input, const MemoryPlan& memory) {
  fmt::print("\n{:>10} {:>12} {:>14} {:>22}\n", "length", "sequences", "KV each", "per token, all at once");
  for (std::int64_t length : options.lengths) {
    if (length > input.model.max_positions_stretched) {
      fmt::print("{:>10} {:>12}\n", length, "over the model's context");
      continue;
    }
    const std::int64_t fitting = sequences_of(input, memory, length), batch = std::min<std::int64_t>(fitting, input.max_batch);
    const std::string each = gb(memory.kv_per_token * static_cast<double>(length));
    if (batch == 0) {
      fmt::print("{:>10} {:>12} {:>14}\n", length, "none", each);
      continue;
    }
    const Roofline step = time_per_token(input, batch, length);
    fmt::print("{:>10} {:>12} {:>14} {:>13.2f} ms ({} of them)\n", length, fitting, each, 1e3 * step.seconds, batch);
  }
}

void print_times(const Options& options, const PlanInput& input) {
  const auto describe = [](const Roofline& time) { return fmt::format("{:.2f} ms, bound by {}", 1e3 * time.seconds, time.bound_by_memory ? "memory" : "arithmetic"); };
  fmt::print("\nroofline ({:.3g} TB/s, {:.4g} TFLOP/s), one stream, prompt of {} tokens\n", input.card.bytes_per_s * 1e-12,
             input.card.flops_per_s * 1e-12, options.prompt);
  fmt::print("  first token  {}\n", describe(time_to_first_token(input, options.prompt)));
  fmt::print("  each further {}\n", describe(time_per_token(input, 1, options.prompt)));
}

int run(const Options& options) {
  const fs::path folder = options.model.empty() ? default_model_folder() : resolve_model_folder(options.model, options.revision);
  PlanInput input{.model = load_config(folder, options.ignore_config_keys), .card = card_of(options), .block_size = options.block_size, .max_batch = options.max_batch,
                  .max_prefill = options.max_prefill, .host_kv_gb = options.host_kv_gb};
  input.dtype = dtype_of(options.dtype, input.model);
  const MemoryPlan memory = plan_memory(input);
  print_model(folder, input);
  print_files(folder, input.model);
  print_memory(input, memory);
  print_windows(input, input.model.max_positions);
  const std::vector<std::string> problems = what_does_not_fit(input, memory);
  for (const std::string& problem : problems) fmt::print("does not fit: {}\n", problem);
  if (memory.num_blocks > 0) print_lengths(options, input, memory);
  print_times(options, input);
  return memory.num_blocks > 0 ? 0 : 2;
}

}  // namespace

std::function<int()> add_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plan", "What a model needs and what fits, from its config alone: no GPU, no weights");
  command->footer("\nExample:\n  fgserve plan tests/configs/r1-distill-llama-70b --card h200");
  command->add_option("MODEL", options->model, "A folder with config.json, or org/name in the local Hugging Face cache");
  const auto add = [&](const char* name, auto& value, const char* help) { return command->add_option(name, value, help)->capture_default_str(); };
  add("--revision", options->revision, "Branch, tag or commit of a name in the cache");
  command->add_option("--ignore-config-keys", options->ignore_config_keys, "Keys that are not known and may be ignored, comma-separated")
      ->delimiter(',')->allow_extra_args(false);
  add("--dtype", options->dtype, "Of weights and KV: auto, bfloat16 or float32");
  add("--card", options->card, ("One of " + card_names()).c_str());
  add("--memory-gb", options->memory_gb, "Memory, 1e9 bytes; 0: the card's")->check(CLI::Range(0.0, 1e6));
  add("--bandwidth-tb", options->bandwidth_tb, "Memory bandwidth, 1e12 bytes/s; 0: the card's")->check(CLI::Range(0.0, 1e6));
  add("--tflops", options->tflops, "Arithmetic rate, 1e12/s; 0: the card's")->check(CLI::Range(0.0, 1e9));
  add("--block-size", options->block_size, "Tokens in a block of the KV cache")->check(CLI::Range(1, 1024));
  add("--max-batch", options->max_batch, "Sequences that decode together")->check(CLI::Range(1, 4096));
  add("--max-prefill", options->max_prefill, "Prompt tokens in one step")->check(CLI::Range(1, 1 << 17));
  add("--host-kv-gb", options->host_kv_gb, "Host tier for the KV of preempted sequences, 1e9 bytes")->check(CLI::Range(0.0, 1e6));
  add("--prompt", options->prompt, "Tokens of the prompt whose times are told")->check(CLI::Range(1, 1 << 24));
  add("--lengths", options->lengths, "Lengths of sequences to count, in tokens")->delimiter(',')->check(CLI::Range(1, 1 << 24));
  command->fallthrough(false);
  return [options] { return run(*options); };
}

}  // namespace fastgen::plan
