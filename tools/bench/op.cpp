#include "bench/op.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "bench/ceilings.h"
#include "bench/machine.h"
#include "bench/op_cases.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

constexpr const char* kNames[] = {"decode-attention", "prefill-attention", "products", "sampling", "norm"};

class OpRun {
 public:
  OpRun(const OpOptions& options, const Ceilings& ceilings) : options_(options), ceilings_(ceilings) {
    settings_.lab = options.lab;
    settings_.shape = load_shape(options.model, options.revision);
    settings_.block_size = options.block_size;
    settings_.table_tokens = options.table_tokens;
  }

  void run() {
    fmt::print("{}, {}\n", ceilings_.device, options_.model.empty() ? "the default model" : options_.model);
    fmt::print("ceilings: read {:.1f} GB/s, products {:.3f} TFLOP/s\n\n", ceilings_.read_gb_per_s, ceilings_.product_tflop_per_s);
    fmt::print("{:<18}{:<26}{:>12}{:>12}{:>12}{:>10}  {}\n", "op", "case", "us", "GB/s", "TFLOP/s", "ceiling", "bound by");
    for (const std::string& name : options_.names) run_named(name);
  }

  void write(JsonWriter& json) const {
    json.begin_array();
    for (const OpResult& r : results_) {
      const double s = r.timing.median_us * 1e-6;
      json.begin_object()
          .field("op", r.op)
          .field("case", r.what)
          .field("us", r.timing.median_us)
          .field("us_least", r.timing.least_us)
          .field("ops_per_sample", r.timing.num_ops)
          .field("flops", r.work.flops)
          .field("bytes", r.work.bytes)
          .field("gb_per_s", r.work.bytes / s * 1e-9)
          .field("tflop_per_s", r.work.flops / s * 1e-12)
          .field("percent_of_ceiling", 100 * ceilings_.floor_s(r.work) / s)
          .end_object();
    }
    json.end_array();
  }

 private:
  void run_named(const std::string& name) {
    if (name == "decode-attention") return run_decode();
    if (name == "prefill-attention")
      for (const std::string& text : options_.chunks) add(prefill_attention(settings_, parse_chunks(text)));
    if (name == "products")
      for (const std::string& matrix : options_.matrices)
        for (std::int64_t rows : options_.rows) add(product(settings_, matrix, rows));
    if (name == "sampling")
      for (const std::string& draw : options_.draws)
        for (std::int64_t rows : options_.batches) add(sampling(settings_, draw, rows));
    if (name == "norm")
      for (std::int64_t rows : options_.rows) add(norm(settings_, rows));
  }

  void run_decode() {
    if (options_.lengths.empty())
      for (std::int32_t batch : options_.batches)
        for (std::int32_t context : options_.contexts)
          add(decode_attention(settings_, {fmt::format("{}x{}", batch, context), std::vector<std::int32_t>(std::size_t(batch), context)}));
    for (const std::string& text : options_.lengths) add(decode_attention(settings_, parse_lengths(text)));
  }

  // Printed as it comes: the next case may take long, or fail.
  void add(OpResult result) {
    const double s = result.timing.median_us * 1e-6;
    fmt::print("{:<18}{:<26}{:>12.2f}{:>12.1f}{:>12.3f}{:>10}  {}\n", result.op, result.what, result.timing.median_us,
               result.work.bytes / s * 1e-9, result.work.flops / s * 1e-12, percent_text(ceilings_, result.work, s),
               ceilings_.is_memory_bound(result.work) ? "memory" : "products");
    std::fflush(stdout);
    results_.push_back(std::move(result));
  }

  const OpOptions& options_;
  const Ceilings& ceilings_;
  OpSettings settings_;
  std::vector<OpResult> results_;
};

// What is wrong shows before minutes are spent.
void check(const OpOptions& options) {
  for (const std::string& text : options.lengths) parse_lengths(text);
  for (const std::string& text : options.chunks) parse_chunks(text);
}

}  // namespace

CLI::App* add_op(CLI::App& app, OpOptions& options) {
  CLI::App* op = app.add_subcommand("op", "micro-benchmarks of single ops, caches cold");
  const auto list = [&](const char* name, auto& value, const char* what) {
    return op->add_option(name, value, what)->delimiter(',')->capture_default_str();
  };
  const auto choices = [](const auto& names) { return CLI::IsMember(std::vector<std::string>(std::begin(names), std::end(names))); };
  op->add_option("NAME", options.names, "decode-attention, prefill-attention, products, sampling, norm")->required()->check(choices(kNames));
  op->add_option("--model", options.model, "whose shapes: a folder (only config.json is read), or a name in the cache (default: SmolLM2)");
  op->add_option("--revision", options.revision, "revision of a name in the cache")->capture_default_str();
  add_lab_flags(*op, options.lab);
  op->add_option("--block-size", options.block_size, "tokens of one KV block")->check(CLI::Range(1, 1024))->capture_default_str();
  op->add_option("--table-tokens", options.table_tokens, "block tables as wide as for so many tokens (0: the longest sequence)")
      ->check(CLI::Range(0, 1 << 24));
  const auto sizes = CLI::Range(1, 1 << 20);
  list("--batch", options.batches, "sequences of decode-attention, rows of sampling")->check(sizes);
  list("--context", options.contexts, "tokens of each sequence of decode-attention")->check(sizes);
  op->add_option("--lengths", options.lengths, "decode-attention of unequal sequences instead, such as 8x8192,56x90 (repeatable)")->allow_extra_args(false);
  list("--chunks", options.chunks, "prefill-attention: SEQUENCESxROWS or SEQUENCESxROWS:CONTEXT");
  list("--rows", options.rows, "rows of products and norm")->check(sizes);
  list("--matrices", options.matrices, "of products")->check(choices(kMatrices));
  list("--draws", options.draws, "of sampling: greedy, temperature, top-k, top-p, penalties")->check(choices(kDraws));
  op->add_option("--ceilings", options.ceilings_path, "file of fgbench roofline --json (default: measured at the start)");
  op->add_option("--json", options.json_path, "also write the figures, with machine and commit, to this file");
  return op;
}

void run_op(const OpOptions& options) {
  std::ofstream out;
  if (!options.json_path.empty()) {
    out.open(options.json_path);
    if (!out) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
  }
  check(options);
  const Ceilings ceilings = options.ceilings_path.empty() ? measure_ceilings(options.lab) : read_ceilings(options.ceilings_path);
  OpRun run(options, ceilings);
  run.run();
  if (!out.is_open()) return;
  std::string text;
  JsonWriter json(text);
  json.begin_object();
  write_record_head(json, "op", options.command);
  json.field("model", options.model).field("backend", options.lab.backend).field("dtype", options.lab.dtype);
  json.key("ceilings");
  write_ceilings(json, ceilings);
  json.key("results");
  run.write(json);
  json.end_object();
  out << text << '\n';
  if (!out.flush()) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
}

}  // namespace fastgen::bench
