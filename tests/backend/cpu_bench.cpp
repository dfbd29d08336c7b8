// Times of the CPU backend's ops over SmolLM2-135M's shapes with random weights: cpu_bench [threads] [repeats] [case].
// ONEDNN_MIN_ROWS=n uses oneDNN from n rows on. Not a test. With one thread the times are the thread's CPU time, so that other load hardly counts. Each op's median over all layers and repeats is printed with what it moved or computed.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "backend/bf16.h"
#include "backend/cpu/cpu_backend.h"

using namespace fastgen;

namespace {

constexpr int kLayers = 30, kDim = 576, kHeads = 9, kKvHeads = 3, kHeadDim = 64, kFfn = 1536, kVocab = 49152;

bool use_cpu_time = false;

double now_us() {
  timespec t{};
  clock_gettime(use_cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

struct Model {
  explicit Model(Backend& b) : backend(b) {
    qkv = weight(WeightKind::kQkv, {{kDim, kDim}, {kKvHeads * kHeadDim, kDim}, {kKvHeads * kHeadDim, kDim}});
    out = weight(WeightKind::kLinear, {{kDim, kDim}});
    gate_up = weight(WeightKind::kGateUp, {{kFfn, kDim}, {kFfn, kDim}});
    down = weight(WeightKind::kLinear, {{kDim, kFfn}});
    head = weight(WeightKind::kHead, {{kVocab, kDim}}, 1);
    norm = tensor(DType::kF32, {kDim});
    std::fill_n(norm.as<float>(), kDim, 1.0f);
    rope = tensor(DType::kF32, {8192, kHeadDim});
    for (int i = 0; i < 8192 * kHeadDim; ++i) rope.as<float>()[i] = i % kHeadDim < kHeadDim / 2 ? 1.0f : 0.0f;
  }
  Tensor tensor(DType dtype, std::initializer_list<std::int64_t> shape) {
    Tensor t(nullptr, dtype, shape);
    t.data = backend.allocate(MemoryKind::kDevice, t.bytes());
    return t;
  }
  std::vector<Weight> weight(WeightKind kind, std::vector<std::pair<int, int>> shapes, int copies = kLayers) {
    std::vector<std::vector<std::uint16_t>> data;
    std::vector<Tensor> parts;
    for (auto [n, k] : shapes) {
      data.emplace_back(static_cast<std::size_t>(n) * static_cast<std::size_t>(k));
      for (auto& v : data.back()) v = f32_to_bf16(0.04f * (static_cast<float>(rng() >> 8) * 0x1p-24f - 0.5f));
    }
    for (std::size_t i = 0; i < data.size(); ++i) parts.emplace_back(data[i].data(), DType::kBF16, std::initializer_list<std::int64_t>{shapes[i].first, shapes[i].second});
    std::vector<Weight> weights;
    const double start = now_us();
    for (int i = 0; i < copies; ++i) weights.push_back(backend.prepare_weights(kind, DType::kBF16, parts));
    prepare_us += now_us() - start;
    return weights;
  }

  Backend& backend;
  std::minstd_rand rng{1};
  std::vector<Weight> qkv, out, gate_up, down, head;
  Tensor norm, rope;
  double prepare_us = 0;
};

// Sequences of `rows` new tokens each behind `context` old ones.
void run(Model& m, int seqs, int rows, int context, int repeats) {
  Backend& b = m.backend;
  const int tokens = seqs * rows, blocks = (context + rows + 63) / 64;
  KvArena arena;
  arena.dtype = DType::kBF16;
  arena.num_blocks = seqs * blocks;
  arena.layout = {kLayers, kKvHeads, 64, kHeadDim};
  Tensor kv = m.tensor(DType::kBF16, {arena.num_blocks, arena.layout.block_elements()});
  for (std::int64_t i = 0; i < kv.elements(); ++i) kv.as<std::uint16_t>()[i] = f32_to_bf16(static_cast<float>(m.rng() % 1000) * 1e-3f - 0.5f);
  arena.data = kv.data;
  arena.token_ids = m.tensor(DType::kI32, {arena.num_blocks * 64});
  Tensor ids = m.tensor(DType::kI32, {tokens}), positions = m.tensor(DType::kI32, {tokens}), slots = m.tensor(DType::kI32, {tokens});
  AttendBatch batch;
  batch.query_start = m.tensor(DType::kI32, {seqs + 1});
  batch.context_len = m.tensor(DType::kI32, {seqs});
  batch.block_table = m.tensor(DType::kI32, {seqs, blocks});
  Tensor logit_rows = m.tensor(DType::kI32, {seqs});
  SampleBatch sample;
  sample.rows = m.tensor(DType::kU8, {seqs, static_cast<std::int64_t>(sizeof(SampleRow))});
  sample.state_tokens = m.tensor(DType::kI32, {seqs});
  sample.block_table = batch.block_table;
  for (int s = 0; s < seqs; ++s) {
    batch.query_start.as<std::int32_t>()[s + 1] = (s + 1) * rows;
    batch.context_len.as<std::int32_t>()[s] = context + rows;
    logit_rows.as<std::int32_t>()[s] = (s + 1) * rows - 1;
    for (int i = 0; i < blocks; ++i) batch.block_table.as<std::int32_t>()[s * blocks + i] = s * blocks + i;
    for (int i = 0; i < rows; ++i) {
      ids.as<std::int32_t>()[s * rows + i] = static_cast<std::int32_t>(m.rng() % kVocab);
      positions.as<std::int32_t>()[s * rows + i] = context + i;
      slots.as<std::int32_t>()[s * rows + i] = s * blocks * 64 + context + i;
    }
    SampleRow row;
    row.logits_row = row.state_slot = s;
    row.temperature = 0.8f;
    row.top_p = 0.95f;
    std::memcpy(static_cast<char*>(sample.rows.data) + s * static_cast<int>(sizeof(row)), &row, sizeof(row));
  }
  Tensor residual = m.tensor(DType::kF32, {tokens, kDim}), normed = m.tensor(DType::kBF16, {tokens, kDim});
  Tensor q = m.tensor(DType::kBF16, {tokens, kHeads, kHeadDim}), attended = m.tensor(DType::kBF16, {tokens, kDim});
  Tensor ffn = m.tensor(DType::kBF16, {tokens, kFfn}), last = m.tensor(DType::kBF16, {seqs, kDim});
  Tensor sampled = m.tensor(DType::kI32, {seqs});

  std::map<std::string, std::vector<double>> times;
  std::vector<double> steps;
  const auto timed = [&](const char* name, auto&& op) {
    const double start = now_us();
    op();
    times[name].push_back(now_us() - start);
  };
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const double start = now_us();
    timed("1 embed", [&] { b.embed(Stream::kCompute, {ids, sample.state_tokens, slots, m.head[0], arena, residual}); });
    for (std::size_t l = 0; l < kLayers; ++l) {
      timed("2 norm", [&] { b.add_rms_norm(Stream::kCompute, residual, Tensor(), m.norm, 1e-5f, normed); });
      QkvArgs qkv;
      qkv.x = normed;
      qkv.weight = m.qkv[l];
      qkv.rope = m.rope;
      qkv.positions = positions;
      qkv.slots = slots;
      qkv.layer = static_cast<int>(l);
      qkv.arena = arena;
      qkv.q_out = q;
      timed("3 qkv", [&] { b.qkv_rope_store(Stream::kCompute, qkv); });
      timed("4 attend", [&] { b.attend(Stream::kCompute, {q, batch, arena, static_cast<int>(l), 0, 0.125f, attended}); });
      timed("5 out", [&] { b.linear_add(Stream::kCompute, attended, m.out[l], Tensor(), residual); });
      timed("2 norm", [&] { b.add_rms_norm(Stream::kCompute, residual, Tensor(), m.norm, 1e-5f, normed); });
      timed("6 gate_up", [&] { b.gate_up_silu(Stream::kCompute, normed, m.gate_up[l], ffn); });
      timed("7 down", [&] { b.linear_add(Stream::kCompute, ffn, m.down[l], Tensor(), residual); });
    }
    timed("8 gather", [&] { b.gather_rows(Stream::kCompute, normed, logit_rows, last); });
    timed("9 head, sample", [&] { b.logits_sample(Stream::kCompute, last, m.head[0], sample, arena, sampled, {}); });
    steps.push_back(now_us() - start);
  }
  const double step = median(steps), least = *std::min_element(steps.begin(), steps.end());
  const double products = kLayers * (kDim * (kDim + 2.0 * kKvHeads * kHeadDim) + kDim * kDim + 3.0 * kDim * kFfn);
  std::printf("\n%d x %d tokens behind %d: median %.2f ms (least %.2f), %.1f tokens/s, products %.0f GFLOP/s, weights %.1f GB/s\n", seqs, rows,
              context, step / 1e3, least / 1e3, tokens / step * 1e6, 2 * products * tokens / step / 1e3,
              2 * (products + static_cast<double>(kVocab) * kDim) / step / 1e3);
  for (const auto& [name, all] : times) {
    const double m1 = median(all), least_us = *std::min_element(all.begin(), all.end());
    const double total = m1 * static_cast<double>(all.size()) / repeats;
    std::printf("  %-16s %9.1f us (least %9.1f) x %zu = %8.2f ms (%4.1f%%)\n", name.c_str(), m1, least_us, all.size() / static_cast<std::size_t>(repeats), total / 1e3, 100 * total / step);
  }
}

}  // namespace

int main(int argc, char** argv) {
  BackendOptions options;
  options.num_threads = argc > 1 ? std::atoi(argv[1]) : 2;
  use_cpu_time = options.num_threads == 1;
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 20;
  ProductTuning tuning;
  if (const char* rows = std::getenv("ONEDNN_MIN_ROWS")) tuning.onednn_min_rows = std::atoi(rows);
  if (const char* native = std::getenv("FG_NATIVE_BF16")) tuning.native_bf16 = native[0] != '0';
  auto backend = make_cpu_backend(options, tuning);
  std::printf("%s\n", backend->device().c_str());
  Model model(*backend);
  std::printf("weights prepared in %.0f ms\n", model.prepare_us / 1e3);
  const struct {
    int seqs, rows, context, repeats;
  } cases[] = {{1, 1, 100, repeats},  {1, 1, 2000, repeats},      {4, 1, 100, repeats},     {16, 1, 100, repeats},
               {64, 1, 100, repeats / 2}, {1, 256, 0, repeats / 4}, {1, 1024, 0, repeats / 8}};
  for (int i = 0; i < 7; ++i) {
    if (argc > 3 && std::atoi(argv[3]) != i) continue;
    run(model, cases[i].seqs, cases[i].rows, cases[i].context, std::max(1, cases[i].repeats));
  }
}
