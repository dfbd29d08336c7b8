#include "bench/offline_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/json_writer.h"
#include "bench/machine.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

double percent(double value, double ceiling) { return ceiling > 0 ? 100 * value / ceiling : 0; }

void write_spread(JsonWriter& json, const char* name, const Spread& spread) {
  json.key(name).begin_object().field("p50", spread.p50).field("p99", spread.p99).field("max", spread.max).end_object();
}

void write_config(JsonWriter& json, const OfflineOptions& options, const EngineInfo& info, const OfflineCase& first) {
  json.begin_object()
      .field("model", info.model_folder)
      .field("architecture", info.architecture)
      .field("num_parameters", info.num_parameters)
      .field("backend", info.backend)
      .field("device", info.device)
      .field("dtype", info.dtype)
      .field("dummy_weights", options.engine.dummy_weights)
      .field("threads", options.engine.num_threads)
      .field("max_batch", info.max_batch)
      .field("max_prefill", options.engine.max_prefill)
      .field("block_size", info.block_size)
      .field("kv_tokens", info.kv_tokens)
      .field("host_kv_tokens", info.host_kv_tokens)
      .field("num_prompts", first.num_prompts)
      .field("prompt_len", first.prompt_len)
      .field("decode_len", first.decode_len)
      .field("num_warmup", options.num_warmup)
      .field("temperature", options.temperature)
      .field("seed", options.seed)
      .end_object();
}

void write_ceiling(JsonWriter& json, const Figures& f, const OfflineCeiling& ceiling) {
  json.key("percent_of_ceiling").begin_object();
  json.field("output", percent(f.output_tokens_per_s, ceiling.output_tokens_per_s))
      .field("prefill", percent(f.prefill_tokens_per_s, ceiling.prefill_tokens_per_s))
      .field("decode", percent(f.decode_tokens_per_s, ceiling.decode_tokens_per_s))
      .end_object();
  json.key("ceiling").begin_object();
  json.field("output_tokens_per_s", ceiling.output_tokens_per_s)
      .field("prefill_tokens_per_s", ceiling.prefill_tokens_per_s)
      .field("decode_tokens_per_s", ceiling.decode_tokens_per_s)
      .end_object();
}

void write_trace(JsonWriter& json, const StepTraceResult& trace) {
  json.key("trace").begin_object().field("file", trace.file).field("num_steps", trace.num_steps).field("wall_ms", trace.wall_ms);
  if (trace.has_device) {
    json.field("gpu_busy_percent", trace.busy_percent())
        .field("gpu_covered_percent", trace.covered_percent())
        .field("kernel_ms", trace.device.kernel_ms)
        .field("copy_ms", trace.device.copy_ms)
        .field("num_kernels", trace.device.num_kernels)
        .field("num_copies", trace.device.num_copies);
  }
  json.end_object();
}

void write_results(JsonWriter& json, const OfflineRun& run, const EngineInfo& info) {
  const Figures& f = run.figures;
  json.begin_object()
      .field("prompt_tokens", f.prompt_tokens)
      .field("output_tokens", f.output_tokens)
      .field("wall_s", f.wall_s)
      .field("output_tokens_per_s", f.output_tokens_per_s)
      .field("total_tokens_per_s", f.total_tokens_per_s)
      .field("prefill_tokens_per_s", f.prefill_tokens_per_s)
      .field("decode_tokens_per_s", f.decode_tokens_per_s);
  write_spread(json, "ttft_ms", f.ttft_ms);
  write_spread(json, "tpot_ms", f.tpot_ms);
  write_spread(json, "step_ms", f.step_ms);
  json.field("num_steps", run.stats.num_steps)
      .field("num_graph_steps", run.stats.num_graph_steps)
      .field("num_preemptions", run.stats.num_preemptions)
      .field("num_page_outs", run.stats.num_page_outs)
      .field("num_page_ins", run.stats.num_page_ins)
      .field("load_s", info.load_seconds);
  if (run.ceiling) write_ceiling(json, f, *run.ceiling);
  if (run.trace) write_trace(json, *run.trace);
  json.end_object();
}

void print_rate(const char* name, double value, double ceiling) {
  const std::string beside = ceiling > 0 && value > 0 ? fmt::format("{:>8.1f} % of {:.0f}", percent(value, ceiling), ceiling) : "";
  fmt::print("{:<18}{:>12.1f} tokens/s{}\n", name, value, beside);
}

void print_trace(const StepTraceResult& trace) {
  if (trace.has_device) {
    fmt::print("GPU busy {:.2f} % of {:.3f} ms, {} steps ({:.3f} ms in {} kernels, {:.3f} in {} copies; {:.2f} % covered): {}\n",
               trace.busy_percent(), trace.wall_ms, trace.num_steps, trace.device.kernel_ms, trace.device.num_kernels,
               trace.device.copy_ms, trace.device.num_copies, trace.covered_percent(), trace.file);
  } else {
    fmt::print("{} steps traced, {:.3f} ms: {}\n", trace.num_steps, trace.wall_ms, trace.file);
  }
}

}  // namespace

OfflineCeiling ceiling_of(const OfflineCase& run, const EngineInfo& info, const ModelShape& shape, const Ceilings& ceilings) {
  const DType weights = info.dtype == "float32" ? DType::kF32 : DType::kBF16;
  const double n = run.num_prompts, prompt = run.prompt_len, decoded = run.decode_len - 1;  // the first token is prefill's
  Work prefill = product_work(shape, run.num_prompts * std::int64_t{run.prompt_len}, run.num_prompts, weights);
  prefill += attention_work(shape, n * seen_tokens(shape, 0, run.prompt_len), 0, weights);
  const double prefill_s = ceilings.floor_s(prefill);

  const std::int64_t rows = std::min(run.num_prompts, info.max_batch);
  const double num_steps = std::ceil(n / double(rows)) * decoded;
  const double contexts = seen_tokens(shape, run.prompt_len, run.decode_len - 1);
  const double decode_s = num_steps * ceilings.floor_s(product_work(shape, rows, rows, weights)) +
                          ceilings.floor_s(attention_work(shape, n * contexts, n * contexts, weights));
  return {.output_tokens_per_s = n * run.decode_len / (prefill_s + decode_s),
          .prefill_tokens_per_s = n * prompt / prefill_s,
          .decode_tokens_per_s = decoded > 0 ? n * decoded / decode_s : 0};
}

void print_head(const OfflineOptions& options, const EngineInfo& info) {
  fmt::print("{} ({}, {:.1f} M parameters), {} on {}, loaded in {:.2f} s\n", info.model_folder, info.architecture,
             double(info.num_parameters) / 1e6, info.dtype, info.device, info.load_seconds);
  std::fflush(stdout);
}

void print_run(const OfflineRun& run) {
  const Figures& f = run.figures;
  const OfflineCeiling ceiling = run.ceiling.value_or(OfflineCeiling{});
  fmt::print("\n{} prompts of {} tokens, {} decoded for each\n\n", run.shape.num_prompts, run.shape.prompt_len, run.shape.decode_len);
  print_rate("output", f.output_tokens_per_s, ceiling.output_tokens_per_s);
  print_rate("prompt and output", f.total_tokens_per_s, 0);
  print_rate("prefill", f.prefill_tokens_per_s, ceiling.prefill_tokens_per_s);
  print_rate("decode", f.decode_tokens_per_s, ceiling.decode_tokens_per_s);
  fmt::print("\n{:<18}{:>12}{:>12}{:>12}\n", "milliseconds", "median", "99 %", "most");
  const auto spread = [](const char* name, const Spread& s) {
    fmt::print("{:<18}{:>12.3f}{:>12.3f}{:>12.3f}\n", name, s.p50, s.p99, s.max);
  };
  spread("first token", f.ttft_ms);
  spread("each next token", f.tpot_ms);
  spread("step", f.step_ms);
  fmt::print("\n{} prompt and {} output tokens in {:.3f} s, {} steps, {} preemptions ({} paged out, {} paged in)\n", f.prompt_tokens,
             f.output_tokens, f.wall_s, run.stats.num_steps, run.stats.num_preemptions, run.stats.num_page_outs, run.stats.num_page_ins);
  if (run.trace) print_trace(*run.trace);
  std::fflush(stdout);
}

void write_record(const OfflineOptions& options, const EngineInfo& info, const Ceilings& ceilings, const std::vector<OfflineRun>& runs,
                  std::ofstream& out) {
  std::string text;
  JsonWriter json(text);
  json.begin_object();
  write_record_head(json, "offline", options.command);
  json.key("config");
  write_config(json, options, info, runs.front().shape);
  if (ceilings.known()) {
    json.key("ceilings");
    write_ceilings(json, ceilings);
  }
  // The first run's stand on their own too, for whoever asks for one.
  json.key("results");
  write_results(json, runs.front(), info);
  json.key("runs").begin_array();
  for (const OfflineRun& run : runs) {
    json.begin_object()
        .field("num_prompts", run.shape.num_prompts)
        .field("prompt_len", run.shape.prompt_len)
        .field("decode_len", run.shape.decode_len)
        .field("repeat", run.repeat);
    json.key("results");
    write_results(json, run, info);
    json.end_object();
  }
  json.end_array().end_object();
  out << text << '\n';
  if (!out.flush()) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
}

}  // namespace fastgen::bench
