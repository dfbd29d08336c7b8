// embed, add_rms_norm, qkv_rope_store, gather_rows, copy_blocks, memory and graphs.
#include "backend/cpu_support.h"
#include "fastgen/error.h"

namespace fastgen::test {
namespace {

KvArena make_arena(Backend& backend, DType dtype, std::int64_t num_blocks, KvLayout layout) {
  KvArena arena;
  arena.dtype = dtype;
  arena.num_blocks = num_blocks;
  arena.layout = layout;
  const std::size_t elements = static_cast<std::size_t>(num_blocks * layout.block_elements());
  arena.data = backend.allocate(MemoryKind::kDevice, elements * dtype_bytes(dtype));
  arena.token_ids = make_tensor(backend, DType::kI32, {num_blocks * layout.block_size});
  return arena;
}

double arena_value(const KvArena& arena, std::int64_t element) {
  if (arena.dtype == DType::kF32) return static_cast<const float*>(arena.data)[element];
  return bf16_to_f32(static_cast<const std::uint16_t*>(arena.data)[element]);
}

TEST_CASE("cpu embed: rows of the table, state tokens, padding and stored ids") {
  for_each_variant([](Backend& backend) {
    Rng rng(11);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const std::int64_t vocab = 150, dim = 46;
      const Tensor w = make_random(backend, rng, dtype, {vocab, dim});
      EmbedArgs args;
      args.table = backend.prepare_weights(WeightKind::kHead, dtype, {{w}});
      args.arena = make_arena(backend, dtype, 4, {1, 1, 8, 8});
      args.token_ids = make_ints(backend, {0, 149, -1, -3, 7, 70});
      args.state_tokens = make_ints(backend, {12, 0, 99});
      args.slots = make_ints(backend, {5, 0, 31, 17, -1, 6});
      args.out = make_random(backend, rng, DType::kF32, {6, dim});
      backend.embed(Stream::kCompute, args);
      const Doubles table = values(w), got = values(args.out);
      const int want[] = {0, 149, 12, 99, -1, 70};
      Doubles expected;
      for (int id : want) {
        for (std::int64_t i = 0; i < dim; ++i) expected.push_back(id < 0 ? 0 : table[static_cast<std::size_t>(id * dim + i)]);
      }
      CHECK(got == expected);
      const std::int32_t* ids = args.arena.token_ids.as<std::int32_t>();
      CHECK(ids[5] == 0);
      CHECK(ids[0] == 149);
      CHECK(ids[31] == 12);
      CHECK(ids[17] == 99);
      CHECK(ids[6] == 70);
    }
  });
}

TEST_CASE("cpu add_rms_norm equals the formula in double") {
  for_each_variant([](Backend& backend) {
    Rng rng(12);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (std::int64_t dim : {1, 15, 64, 577}) {
        for (bool with_delta : {false, true}) {
          const std::int64_t rows = 23;
          const Tensor residual = make_random(backend, rng, DType::kF32, {rows, dim}, 3);
          const Tensor delta = with_delta ? make_random(backend, rng, DType::kF32, {rows, dim}) : Tensor();
          const Tensor weight = make_random(backend, rng, DType::kF32, {dim});
          const Tensor out = make_tensor(backend, dtype, {rows, dim});
          Doubles sum = values(residual);
          if (with_delta) {
            const Doubles d = values(delta);
            for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += d[i];
          }
          backend.add_rms_norm(Stream::kCompute, residual, delta, weight, 1e-5f, out);
          const Doubles w = values(weight);
          Doubles want(sum.size());
          for (std::int64_t r = 0; r < rows; ++r) {
            double squares = 0;
            for (std::int64_t i = 0; i < dim; ++i) squares += sum[static_cast<std::size_t>(r * dim + i)] * sum[static_cast<std::size_t>(r * dim + i)];
            const double rms = std::sqrt(squares / static_cast<double>(dim) + 1e-5);
            for (std::int64_t i = 0; i < dim; ++i) {
              const std::size_t at = static_cast<std::size_t>(r * dim + i);
              want[at] = sum[at] / rms * w[static_cast<std::size_t>(i)];
            }
          }
          check_close(values(out), want, tolerance(dtype, 0.1), "add_rms_norm");
          check_close(values(residual), sum, tolerance(DType::kF32, 0.1), "residual");
        }
      }
    }
  });
}

struct QkvCase {
  std::int32_t heads, kv_heads, head_dim;
  bool bias, norms;
};

// q, k and v of row t by the formulas, heads in order.
Doubles naive_qkv(const QkvArgs& args, const QkvCase& shape, const Doubles& weights) {
  const std::int64_t dim = args.x.row_elements(), rows = args.x.rows(), d = shape.head_dim;
  const std::int64_t width = (shape.heads + 2 * shape.kv_heads) * d;
  Doubles out = naive_product(values(args.x), weights, rows, width, dim);
  const Doubles angles = values(args.rope);
  for (std::int64_t t = 0; t < rows; ++t) {
    const std::int64_t position = args.positions.as<std::int32_t>()[t];
    for (std::int64_t h = 0; h < shape.heads + 2 * shape.kv_heads; ++h) {
      double* head = out.data() + t * width + h * d;
      if (shape.bias) {
        const Doubles b = values(args.bias);
        for (std::int64_t i = 0; i < d; ++i) head[i] += b[static_cast<std::size_t>(h * d + i)];
      }
      if (h >= shape.heads + shape.kv_heads) continue;
      if (shape.norms) {
        const Doubles norm = values(h < shape.heads ? args.q_norm : args.k_norm);
        double squares = 0;
        for (std::int64_t i = 0; i < d; ++i) squares += head[i] * head[i];
        const double rms = std::sqrt(squares / static_cast<double>(d) + static_cast<double>(args.norm_eps));
        for (std::int64_t i = 0; i < d; ++i) head[i] = head[i] / rms * norm[static_cast<std::size_t>(i)];
      }
      for (std::int64_t i = 0; i < d / 2; ++i) {
        const double c = angles[static_cast<std::size_t>(position * d + i)];
        const double s = angles[static_cast<std::size_t>(position * d + d / 2 + i)];
        const double a = head[i], b = head[i + d / 2];
        head[i] = a * c - b * s;
        head[i + d / 2] = b * c + a * s;
      }
    }
  }
  return out;
}

TEST_CASE("cpu qkv_rope_store: q out, k and v in their slots") {
  for_each_variant([](Backend& backend) {
    Rng rng(13);
    const QkvCase cases[] = {{9, 3, 64, false, false}, {4, 2, 8, true, false}, {3, 3, 48, false, true}, {2, 1, 128, true, true}};
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (const QkvCase& shape : cases) {
        CAPTURE(std::string(dtype_name(dtype)));
        CAPTURE(shape.head_dim);
        const std::int64_t dim = 80, rows = 19, d = shape.head_dim;
        QkvArgs args;
        args.x = make_random(backend, rng, dtype, {rows, dim});
        const double sigma = 1 / std::sqrt(static_cast<double>(dim));
        const Tensor q = make_random(backend, rng, dtype, {shape.heads * d, dim}, sigma);
        const Tensor k = make_random(backend, rng, dtype, {shape.kv_heads * d, dim}, sigma);
        const Tensor v = make_random(backend, rng, dtype, {shape.kv_heads * d, dim}, sigma);
        args.weight = backend.prepare_weights(WeightKind::kQkv, dtype, {{q, k, v}});
        if (shape.bias) args.bias = make_random(backend, rng, DType::kF32, {(shape.heads + 2 * shape.kv_heads) * d});
        if (shape.norms) {
          args.q_norm = make_random(backend, rng, DType::kF32, {d});
          args.k_norm = make_random(backend, rng, DType::kF32, {d});
          args.norm_eps = 1e-6f;
        }
        args.rope = make_tensor(backend, DType::kF32, {40, d});
        for (std::int64_t p = 0; p < 40; ++p) {
          for (std::int64_t i = 0; i < d / 2; ++i) {
            const double angle = rng.uniform() * 6.28;
            args.rope.as<float>()[p * d + i] = static_cast<float>(std::cos(angle));
            args.rope.as<float>()[p * d + d / 2 + i] = static_cast<float>(std::sin(angle));
          }
        }
        std::vector<std::int32_t> positions, slots;
        for (int t = 0; t < rows; ++t) {
          positions.push_back(rng.integer(0, 39));
          slots.push_back(t == 4 ? -1 : (t * 5 + 3) % 28);
        }
        args.positions = make_ints(backend, positions);
        args.slots = make_ints(backend, slots);
        args.layer = 1;
        args.arena = make_arena(backend, dtype, 4, {2, shape.kv_heads, 7, shape.head_dim});
        args.q_out = make_tensor(backend, dtype, {rows, shape.heads, d});
        backend.qkv_rope_store(Stream::kCompute, args);

        Doubles weights = values(q);
        for (const Tensor& part : {k, v}) {
          const Doubles more = values(part);
          weights.insert(weights.end(), more.begin(), more.end());
        }
        const Doubles want = naive_qkv(args, shape, weights);
        const std::int64_t width = (shape.heads + 2 * shape.kv_heads) * d;
        Doubles want_q, want_kv, got_kv;
        double stored_elsewhere = 0;
        for (std::int64_t e = 0; e < 4 * args.arena.layout.block_elements(); ++e) stored_elsewhere += std::fabs(arena_value(args.arena, e));
        for (std::int64_t t = 0; t < rows; ++t) {
          const double* row = want.data() + t * width;
          want_q.insert(want_q.end(), row, row + shape.heads * d);
          if (slots[static_cast<std::size_t>(t)] < 0) continue;
          want_kv.insert(want_kv.end(), row + shape.heads * d, row + width);
          for (int kv = 0; kv < 2; ++kv) {
            for (int h = 0; h < shape.kv_heads; ++h) {
              for (std::int64_t i = 0; i < d; ++i) {
                got_kv.push_back(arena_value(args.arena, args.arena.layout.offset(slots[static_cast<std::size_t>(t)], 1, kv, h) + i));
                stored_elsewhere -= std::fabs(got_kv.back());
              }
            }
          }
        }
        check_close(values(args.q_out), want_q, tolerance(dtype, 2), "q");
        check_close(got_kv, want_kv, tolerance(dtype, 2), "k and v");
        CHECK(std::fabs(stored_elsewhere) < 1e-6);  // nothing beside the slots, nothing for slot -1
        Doubles wrong = want_kv;  // sabotage: two tokens exchanged
        std::swap_ranges(wrong.begin(), wrong.begin() + width - shape.heads * d, wrong.begin() + (width - shape.heads * d));
        check_differs(wrong, want_kv, tolerance(dtype, 2), "k and v, tokens exchanged");
      }
    }
  });
}

TEST_CASE("cpu gather_rows: chosen rows, zeros for padding") {
  for_each_variant([](Backend& backend) {
    Rng rng(14);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor x = make_random(backend, rng, dtype, {5, 33});
      const Tensor out = make_random(backend, rng, dtype, {4, 33});
      backend.gather_rows(Stream::kCompute, x, make_ints(backend, {4, -1, 0, 4}), out);
      CHECK(values(out.slice(0, 1)) == values(x.slice(4, 1)));
      CHECK(values(out.slice(1, 1)) == Doubles(33, 0.0));
      CHECK(values(out.slice(2, 1)) == values(x.slice(0, 1)));
      CHECK(values(out.slice(3, 1)) == values(x.slice(4, 1)));
    }
  });
}

TEST_CASE("cpu copy_blocks: all layers and the token ids, nothing beside") {
  auto backend = make_cpu_backend({1, 0});
  Rng rng(15);
  const KvLayout layout{3, 2, 4, 8};
  const KvArena arena = make_arena(*backend, DType::kBF16, 5, layout);
  auto* data = static_cast<std::uint16_t*>(arena.data);
  const std::int64_t size = layout.block_elements();
  for (std::int64_t i = 0; i < 5 * size; ++i) data[i] = static_cast<std::uint16_t>(rng.integer(0, 65535));
  for (int i = 0; i < 20; ++i) arena.token_ids.as<std::int32_t>()[i] = i;
  std::vector<std::uint16_t> want(data, data + 5 * size);
  std::copy_n(want.begin() + 1 * size, size, want.begin() + 3 * size);
  std::copy_n(want.begin() + 4 * size, size, want.begin());
  Tensor pairs = make_ints(*backend, {1, 3, 4, 0});
  pairs.rank = 2;
  pairs.shape = {2, 2, 1, 1};
  backend->copy_blocks(Stream::kCompute, arena, pairs);
  CHECK(std::equal(want.begin(), want.end(), data));
  const std::vector<std::int32_t> ids(arena.token_ids.as<std::int32_t>(), arena.token_ids.as<std::int32_t>() + 20);
  CHECK(ids == std::vector<std::int32_t>{16, 17, 18, 19, 4, 5, 6, 7, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19});
}

TEST_CASE("cpu graph: a replay sees what its inputs hold then, capture runs nothing") {
  auto backend = make_cpu_backend({2, 0});
  REQUIRE(backend->has_graphs());
  Rng rng(16);
  const Tensor w = make_random(*backend, rng, DType::kF32, {32, 16});
  const Tensor x = make_random(*backend, rng, DType::kF32, {3, 16});
  const Tensor staged = make_random(*backend, rng, DType::kF32, {3, 16});
  const Tensor out = make_tensor(*backend, DType::kF32, {3, 32});
  const Weight weight = backend->prepare_weights(WeightKind::kLinear, DType::kF32, {{w}});
  backend->begin_capture();
  backend->upload(Stream::kCompute, x.data, staged.data, x.bytes());
  backend->linear(Stream::kCompute, x, weight, Tensor(), out);
  const GraphId graph = backend->end_capture();
  CHECK(values(out) == Doubles(96, 0.0));
  const Tolerance allowed = tolerance(DType::kF32, 4);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 48; ++i) staged.as<float>()[i] = static_cast<float>(rng.normal());
    const Doubles before = values(out);
    backend->replay(graph);
    const Doubles want = naive_product(values(staged), values(w), 3, 32, 16);
    check_close(values(out), want, allowed, "replay");
    check_differs(before, want, allowed, "replay of old inputs");
  }
}

TEST_CASE("cpu memory: zero-filled, aligned, and refused by one line when there is not enough") {
  auto backend = make_cpu_backend({1, 0});
  for (std::size_t bytes : {std::size_t{1}, std::size_t{1000}, std::size_t{5} << 20}) {
    const auto* data = static_cast<const unsigned char*>(backend->allocate(MemoryKind::kDevice, bytes));
    CHECK(reinterpret_cast<std::uintptr_t>(data) % 64 == 0);
    bool zero = true;
    for (std::size_t i = 0; i < bytes; ++i) zero = zero && data[i] == 0;
    CHECK(zero);
  }
  CHECK(backend->free_bytes() > 0);
  CHECK_THROWS_AS(backend->allocate(MemoryKind::kPinned, std::size_t{1} << 60), Error);
  CHECK(backend->activation_types(DType::kBF16).residual == DType::kF32);
  CHECK(backend->activation_types(DType::kBF16).kv == DType::kBF16);
  CHECK(backend->activation_types(DType::kF32).product == DType::kF32);
}

}  // namespace
}  // namespace fastgen::test
