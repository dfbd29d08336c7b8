#include "bench/model_shape.h"

#include <algorithm>

#include "bench/ceilings.h"
#include "bench/offline_report.h"
#include "bench/op_cases.h"
#include "fastgen/error.h"
#include "support/support.h"

namespace fastgen::bench {
namespace {

// Two layers of 3 query heads and 1 KV head of 4, dim 5, ffn 7, vocabulary 11.
constexpr ModelShape kShape{.num_layers = 2, .model_dim = 5, .num_heads = 3, .num_kv_heads = 1, .head_dim = 4, .ffn_dim = 7, .vocab = 11};

TEST_CASE("the work of the products, by hand") {
  // Per layer: q 12 x 5, k and v 4 x 5 each, o 5 x 12, gate, up and down 7 x 5 each.
  CHECK(kShape.layer_weights() == 2 * (60 + 40 + 60 + 105));
  CHECK(kShape.head_weights() == 55);
  const Work work = product_work(kShape, 10, 3, DType::kBF16);
  // Of the last layer, o, gate, up and down are wanted of the three rows alone.
  CHECK(work.flops == 2.0 * ((530 - 165) * 10 + (165 + 55) * 3));
  CHECK(work.bytes == 2.0 * (530 + 55));
  CHECK(product_work(kShape, 1, 0, DType::kF32).bytes == 4.0 * 530);
}

TEST_CASE("tokens seen under a causal mask, with and without a window, counted one by one") {
  for (std::int32_t window : {0, 1, 3, 100}) {
    ModelShape shape = kShape;
    shape.window = window;
    for (std::int64_t first : {0, 1, 2, 7}) {
      for (std::int64_t count : {0, 1, 2, 5, 20}) {
        double naive = 0;
        for (std::int64_t p = first; p < first + count; ++p) naive += double(window > 0 ? std::min<std::int64_t>(p + 1, window) : p + 1);
        CAPTURE(window);
        CAPTURE(first);
        CAPTURE(count);
        CHECK(seen_tokens(shape, first, count) == naive);
      }
    }
  }
}

TEST_CASE("the work of attention, by hand") {
  const Work work = attention_work(kShape, 6, 4, DType::kBF16);
  CHECK(work.flops == 4.0 * 12 * 6 * 2);      // two products of head_dim each for every head, layer and pair
  CHECK(work.bytes == 2.0 * 4 * 2 * 4 * 2);   // K and V, 4 elements of 2 bytes, 4 tokens, 2 layers
}

TEST_CASE("a ceiling is the slower of memory and arithmetic; an offline run adds prefill and decode up") {
  const Ceilings ceilings{.read_gb_per_s = 1, .copy_gb_per_s = 1, .product_tflop_per_s = 1e-3, .device = ""};
  CHECK(ceilings.floor_s({.flops = 1e9, .bytes = 0.5e9}) == doctest::Approx(1));
  CHECK(ceilings.floor_s({.flops = 1e9, .bytes = 3e9}) == doctest::Approx(3));
  CHECK(ceilings.is_memory_bound({.flops = 1e9, .bytes = 3e9}));
  CHECK_FALSE(ceilings.is_memory_bound({.flops = 4e9, .bytes = 3e9}));
  CHECK(percent_text(ceilings, {.flops = 1e9, .bytes = 0}, 2) == "50 %");

  EngineInfo info;
  info.dtype = "bfloat16";
  info.max_batch = 2;
  // Three prompts of 4, 3 tokens each: two waves of decode steps, two steps each, at contexts 5 and 6.
  const OfflineCeiling ceiling = ceiling_of({3, 4, 3}, info, kShape, ceilings);
  Work prefill = product_work(kShape, 12, 3, DType::kBF16);
  prefill += attention_work(kShape, 3 * 10, 0, DType::kBF16);
  const double prefill_s = ceilings.floor_s(prefill);
  const double decode_s = 4 * ceilings.floor_s(product_work(kShape, 2, 2, DType::kBF16)) +
                          ceilings.floor_s(attention_work(kShape, 33, 33, DType::kBF16));
  CHECK(ceiling.prefill_tokens_per_s == doctest::Approx(12 / prefill_s));
  CHECK(ceiling.decode_tokens_per_s == doctest::Approx(6 / decode_s));
  CHECK(ceiling.output_tokens_per_s == doctest::Approx(9 / (prefill_s + decode_s)));
  CHECK(ceiling_of({1, 4, 1}, info, kShape, ceilings).decode_tokens_per_s == 0);
}

TEST_CASE("cases on the command line") {
  CHECK(parse_lengths("2x10,1x3").contexts == std::vector<std::int32_t>{10, 10, 3});
  for (const char* bad : {"", "x", "2x", "x3", "0x5", "2x-1", "2x5x6", "2x1e9", "99999x1"})
    CHECK_THROWS_AS(parse_lengths(bad), Error);
  const Chunks alone = parse_chunks("8x1024"), behind = parse_chunks("2x512:4096");
  CHECK(alone.count == 8);
  CHECK(alone.rows == 1024);
  CHECK(alone.context == 1024);
  CHECK(behind.context == 4096);
  for (const char* bad : {"", "8", "8x", "8x10:5", "ax1"})
    CHECK_THROWS_AS(parse_chunks(bad), Error);
}

}  // namespace
}  // namespace fastgen::bench
