#include "bench/ceilings.h"

#include <fmt/format.h>
#include <sched.h>
#include <simdjson.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <numeric>
#include <thread>

#include "base/clock.h"
#include "bench/machine.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

int num_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

// Sixteen sums side by side, so that loads never wait for additions.
std::uint64_t sum_of(const std::uint64_t* words, std::size_t count) {
  std::uint64_t sums[16] = {};
  for (std::size_t i = 0; i + 16 <= count; i += 16)
    for (std::size_t lane = 0; lane < 16; ++lane) sums[lane] += words[i + lane];
  return std::accumulate(std::begin(sums), std::end(sums), std::uint64_t{0});
}

// Every thread reads a part of its own, several times; the best round of all threads together counts.
double cpu_read_gb_per_s(int num_threads, double total_bytes) {
  const std::size_t words = std::size_t(total_bytes) / 8 / std::size_t(num_threads);
  std::vector<std::unique_ptr<std::uint64_t[]>> parts;
  for (int i = 0; i < num_threads; ++i) {
    parts.push_back(std::make_unique_for_overwrite<std::uint64_t[]>(words));
    std::fill_n(parts.back().get(), words, std::uint64_t(i) + 1);
  }
  std::vector<std::uint64_t> sums(std::size_t(num_threads), 0);  // read below, so that no load can be dropped
  double best = 0;
  for (int round = 0; round < 4; ++round) {
    const std::uint64_t start = now_ns();
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < parts.size(); ++i) threads.emplace_back([&, i] { sums[i] += sum_of(parts[i].get(), words); });
    for (std::thread& thread : threads) thread.join();
    best = std::max(best, double(words) * 8 * num_threads / double(now_ns() - start));
  }
  if (std::accumulate(sums.begin(), sums.end(), std::uint64_t{0}) == 0) throw Error("the memory test read only zeros");
  return best;
}

// One row through large matrices: next to nothing but a read of them.
double product_read_gb_per_s(const LabOptions& options) {
  Lab lab(options);
  constexpr std::int64_t kOut = 16384, kIn = 4096;
  const double bytes = double(kOut * kIn) * double(dtype_bytes(lab.dtype()));
  const auto weights = lab.weights(WeightKind::kLinear, {{kOut, kIn}}, std::max<std::int64_t>(lab.num_sets(bytes), 4));
  const Tensor x = lab.random(lab.types().product, {1, kIn}), out = lab.zeros(lab.types().residual, {1, kOut});
  const auto op = [&](std::int64_t call) {
    lab.backend().linear(Stream::kCompute, x, weights[std::size_t(call) % weights.size()], Tensor(), out);
  };
  return bytes / lab.time(op, std::int64_t(weights.size())).least_us * 1e-3;
}

// Whole KV blocks from one half of an arena to the other. Counts the bytes read and those written.
double copy_gb_per_s(const LabOptions& options) {
  Lab lab(options);
  KvArena arena;
  arena.dtype = DType::kBF16;
  arena.layout = {32, 8, 64, 128};
  const double block_bytes = double(arena.layout.block_elements()) * 2;
  const std::int64_t half = std::max<std::int64_t>(8, std::int64_t(lab.cold_bytes() / block_bytes));
  arena.num_blocks = 2 * half;
  arena.data = lab.random(DType::kBF16, {arena.num_blocks, arena.layout.block_elements()}).data;
  arena.token_ids = lab.zeros(DType::kI32, {arena.num_blocks * 64});
  std::vector<std::int32_t> pairs;
  for (std::int32_t i = 0; i < half; ++i) pairs.insert(pairs.end(), {i, i + std::int32_t(half)});
  const Tensor copies = lab.ints(pairs, {half, 2});
  const auto op = [&](std::int64_t) { lab.backend().copy_blocks(Stream::kCompute, arena, copies); };
  return 2 * block_bytes * double(half) / lab.time(op, 1).least_us * 1e-3;
}

double product_tflop_per_s(const LabOptions& options, std::int64_t num_rows, std::int64_t out_dim, std::int64_t in_dim) {
  Lab lab(options);
  const auto weights = lab.weights(WeightKind::kLinear, {{out_dim, in_dim}}, 2);
  // Workspaces as wide as the product, in which a backend may time its algorithms.
  lab.backend().reserve({.max_tokens = num_rows, .model_dim = std::int32_t(in_dim), .num_heads = 1, .num_kv_heads = 1, .head_dim = 64,
                         .ffn_dim = std::int32_t(out_dim), .vocab = 64});
  const Tensor x = lab.random(lab.types().product, {num_rows, in_dim}), out = lab.zeros(lab.types().residual, {num_rows, out_dim});
  const auto op = [&](std::int64_t call) {
    lab.backend().linear(Stream::kCompute, x, weights[std::size_t(call) % 2], Tensor(), out);
  };
  return 2 * double(num_rows) * double(out_dim) * double(in_dim) / lab.time(op, 2).least_us * 1e-6;
}

}  // namespace

double Ceilings::floor_s(const Work& work) const {
  return std::max(work.bytes / (read_gb_per_s * 1e9), work.flops / (product_tflop_per_s * 1e12));
}

bool Ceilings::is_memory_bound(const Work& work) const {
  return work.bytes / read_gb_per_s * 1e3 > work.flops / product_tflop_per_s;
}

Ceilings measure_ceilings(const LabOptions& options) {
  Ceilings ceilings;
  const bool is_gpu = options.backend == "cuda";
  {
    Lab lab(options);
    ceilings.device = lab.backend().device();
    if (!is_gpu) {
      const int threads = options.num_threads > 0 ? options.num_threads : num_cores();
      ceilings.read_gb_per_s = cpu_read_gb_per_s(threads, lab.cold_bytes());
    }
  }
  ceilings.copy_gb_per_s = copy_gb_per_s(options);
  if (is_gpu) ceilings.read_gb_per_s = std::max(ceilings.copy_gb_per_s, product_read_gb_per_s(options));
  struct Shape {
    std::int64_t rows, out, in;
  };
  const std::vector<Shape> shapes = is_gpu ? std::vector<Shape>{{512, 16384, 4096}, {1024, 16384, 4096}, {2048, 28672, 4096}, {4096, 8192, 8192}}
                                           : std::vector<Shape>{{256, 1024, 1024}, {512, 2048, 1024}};
  for (const Shape& s : shapes)
    ceilings.product_tflop_per_s = std::max(ceilings.product_tflop_per_s, product_tflop_per_s(options, s.rows, s.out, s.in));
  return ceilings;
}

Ceilings read_ceilings(const std::string& path) {
  simdjson::dom::parser parser;
  simdjson::dom::element record, found;
  if (parser.load(path).get(record)) throw Error(fmt::format("--ceilings {}: cannot be read as JSON", path));
  if (record["ceilings"].get(found)) found = record;
  const auto number = [&](const char* name) {
    double value = 0;
    if (found[name].get(value) || !(value > 0)) throw Error(fmt::format("--ceilings {}: \"{}\" is not a number over 0", path, name));
    return value;
  };
  Ceilings ceilings{.read_gb_per_s = number("read_gb_per_s"), .copy_gb_per_s = 0, .product_tflop_per_s = number("product_tflop_per_s"),
                    .device = {}};
  std::string_view device;
  if (!found["device"].get(device)) ceilings.device = device;
  if (found["copy_gb_per_s"].get(ceilings.copy_gb_per_s)) ceilings.copy_gb_per_s = 0;
  return ceilings;
}

void write_ceilings(JsonWriter& json, const Ceilings& ceilings) {
  json.begin_object()
      .field("device", ceilings.device)
      .field("read_gb_per_s", ceilings.read_gb_per_s)
      .field("copy_gb_per_s", ceilings.copy_gb_per_s)
      .field("product_tflop_per_s", ceilings.product_tflop_per_s)
      .end_object();
}

std::string percent_text(const Ceilings& ceilings, const Work& work, double seconds) {
  if (!ceilings.known() || seconds <= 0) return "";
  return fmt::format("{:.0f} %", 100 * ceilings.floor_s(work) / seconds);
}

void add_lab_flags(CLI::App& app, LabOptions& options) {
  app.add_option("--backend", options.backend, "cpu or cuda")->capture_default_str();
  app.add_option("--dtype", options.dtype, "of the weights: bfloat16 or float32")->capture_default_str();
  app.add_option("--threads", options.num_threads, "compute threads of the CPU (0: all cores)")->check(CLI::Range(0, 4096))->capture_default_str();
  app.add_option("--gpu-gb", options.gpu_gb, "GPU: 1e9 bytes for all that the process may take (0: nearly all)")->check(CLI::Range(0.0, 1e6));
  app.add_option("--cold-mb", options.cold_mb, "megabytes of other data before an op sees the same again (0: far over the caches)")
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--sample-ms", options.sample_ms, "least time of each of the five samples (0: 20 on a GPU, 100 on a CPU)")
      ->check(CLI::Range(0.0, 1e5));
}

CLI::App* add_roofline(CLI::App& app, RooflineOptions& options) {
  CLI::App* roofline = app.add_subcommand("roofline", "what this machine can do at most: memory and products");
  add_lab_flags(*roofline, options.lab);
  roofline->add_option("--json", options.json_path, "also write the figures, with machine and commit, to this file (for --ceilings)");
  return roofline;
}

void run_roofline(const RooflineOptions& options) {
  std::ofstream out;
  if (!options.json_path.empty()) {
    out.open(options.json_path);
    if (!out) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
  }
  const Ceilings ceilings = measure_ceilings(options.lab);
  fmt::print("{}\n\n", ceilings.device);
  fmt::print("{:<20}{:>10.1f} GB/s\n", "memory, read", ceilings.read_gb_per_s);
  fmt::print("{:<20}{:>10.1f} GB/s read and written\n", "memory, copy", ceilings.copy_gb_per_s);
  fmt::print("{:<20}{:>10.3f} TFLOP/s in {}\n", "products", ceilings.product_tflop_per_s, options.lab.dtype);
  if (!out.is_open()) return;
  std::string text;
  JsonWriter json(text);
  json.begin_object();
  write_record_head(json, "roofline", options.command);
  json.key("ceilings");
  write_ceilings(json, ceilings);
  json.end_object();
  out << text << '\n';
  if (!out.flush()) throw Error(fmt::format("--json {}: cannot be written", options.json_path));
}

}  // namespace fastgen::bench
