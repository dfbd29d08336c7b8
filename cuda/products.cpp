#include "products.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <iterator>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>

#include <fmt/format.h>

#include "base/log.h"
#include "base/model_folder.h"
#include "check.h"
#include "cublas.h"
#include "product_timer.h"
#include "row_kernels.h"
#include "skinny_kernel.h"
#include "weight_kernels.h"

namespace fastgen {

namespace {

constexpr std::size_t kWeightsToTime = 4;  // far more bytes than L2 holds, for the models that matter

bool is_timing_off() {
  const char* setting = std::getenv("FG_CUDA_TUNE");
  return setting != nullptr && std::string_view(setting) == "0";
}

// Whatever may change which algorithms there are or how fast they run.
std::string cache_key() {
  cudaDeviceProp properties{};
  int driver = 0, device = 0;
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  cuda_check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  cuda_check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  return fmt::format("fastgen products 1 | {} | {} SMs | cuBLASLt {} | driver {}", properties.name,
                     properties.multiProcessorCount, cublas_lt().version(), driver);
}

// Where x and out of a product may lie: the larger in the smallest piece that holds it, then the other.
std::optional<Products::Places> find_places(std::span<const Products::Scratch> scratch, std::size_t x_bytes, std::size_t out_bytes) {
  std::vector<Products::Scratch> left(scratch.begin(), scratch.end());
  const auto take = [&](std::size_t bytes) -> void* {
    bytes = (bytes + 255) / 256 * 256;
    Products::Scratch* best = nullptr;
    for (Products::Scratch& piece : left)
      if (piece.bytes >= bytes && (best == nullptr || piece.bytes < best->bytes)) best = &piece;
    if (best == nullptr) return nullptr;
    void* const data = best->data;
    best->data = static_cast<char*>(best->data) + bytes;
    best->bytes -= bytes;
    return data;
  };
  Products::Places found;
  for (const bool is_out : {out_bytes >= x_bytes, out_bytes < x_bytes}) {
    void* const data = take(is_out ? out_bytes : x_bytes);
    if (data == nullptr) return std::nullopt;
    (is_out ? found.out : found.x) = data;
  }
  return found;
}

std::size_t bytes_of(DType dtype, std::int64_t rows, std::int64_t cols) {
  return static_cast<std::size_t>(rows * cols) * dtype_bytes(dtype);
}

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(AlgorithmWords));

}  // namespace

bool is_skinny(DType dtype, std::int64_t num_rows, std::int64_t in_dim) {
  return dtype == DType::kBF16 && num_rows >= 1 && num_rows <= device::kSkinnyRowsMax && in_dim % 8 == 0;
}

Products::Products(std::chrono::duration<double> time_to_tune) : time_to_tune_(time_to_tune) {}
Products::~Products() = default;

Products::Entry& Products::entry(const ProductShape& shape) {
  std::unique_ptr<Entry>& found = entries_[shape];
  if (!found) found = std::make_unique<Entry>(context_, shape);
  return *found;
}

void Products::learn(const ProductShape& shape, const void* w, bool is_head, std::int64_t max_rows) {
  Entry& known = entry(shape);
  known.is_head = is_head, known.max_rows = max_rows;
  if (known.weights.size() < kWeightsToTime) known.weights.push_back(w);
}

void Products::use_cache(const std::filesystem::path& file, const std::string& key) {
  table_ = load_algorithms(file, key);
  for (const auto& [at, words] : table_) {
    const auto found = entries_.find(at.first);
    if (found == entries_.end()) continue;
    const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(words);
    if (found->second->cublas.supports(at.second, algorithm)) found->second->by_bucket[at.second] = algorithm;
  }
}

// The shapes and buckets of rows that steps will ask for, few rows first: decoding runs most often.
std::vector<Products::Question> Products::questions(const RowLimits& limits) {
  std::vector<Question> all;
  for (const std::int64_t bucket : row_buckets(std::max(limits.tokens, limits.logits))) {
    for (auto& [shape, known] : entries_) {
      const std::int64_t most = std::min(known->max_rows, known->is_head ? limits.logits : limits.tokens);
      if (bucket > row_bucket(most) || known->weights.empty()) continue;
      if (!is_skinny(shape.dtype, bucket, shape.in_dim)) all.push_back({&shape, known.get(), bucket, std::min(bucket, most)});
    }
  }
  return all;
}

void Products::tune(std::span<const Scratch> scratch, const RowLimits& limits) {
  if (entries_.empty() || is_timing_off()) return;
  const auto start = std::chrono::steady_clock::now();
  const std::string key = cache_key();
  const std::filesystem::path file = algorithm_file(cache_folder(), key);
  use_cache(file, key);
  std::vector<Question> all = questions(limits);
  const auto is_known = [](const Question& question) { return question.entry->by_bucket.contains(question.bucket); };
  const auto border = std::stable_partition(all.begin(), all.end(), is_known);
  run_known({all.begin(), border}, scratch);
  const std::size_t num_before = table_.size();
  time_open({border, all.end()}, scratch);
  if (table_.size() > num_before) save_algorithms(file, key, table_);
  log_debug("products: {} of {} algorithms timed in {:.0f} ms; {}", table_.size() - num_before, all.end() - border,
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count(), file.string());
}

std::optional<Products::Places> Products::places(const Question& question, std::span<const Scratch> scratch) {
  const ProductShape& shape = *question.shape;
  return find_places(scratch, bytes_of(shape.dtype, question.num_rows, shape.in_dim),
                     bytes_of(shape.out_dtype, question.num_rows, shape.out_dim));
}

// Each algorithm once, so that its code is loaded now: the library loads it at its first use, some milliseconds of somebody's first token.
void Products::run_known(std::span<const Question> known, std::span<const Scratch> scratch) {
  std::set<std::tuple<AlgorithmWords, DType, DType, bool>> seen;
  for (const Question& question : known) {
    const ProductShape& shape = *question.shape;
    const cublasLtMatmulAlgo_t& algorithm = question.entry->by_bucket.at(question.bucket);
    if (!seen.insert({std::bit_cast<AlgorithmWords>(algorithm), shape.dtype, shape.out_dtype, shape.add}).second) continue;
    if (const auto place = places(question, scratch))
      cublas_check(question.entry->cublas.run(nullptr, question.num_rows, algorithm, question.entry->weights[0], place->x, place->out),
                   "cublasLtMatmul");
  }
  cuda_check(cudaDeviceSynchronize(), "products run once");
}

void Products::time_open(std::span<const Question> open, std::span<const Scratch> scratch) {
  if (open.empty()) return;
  const auto start = std::chrono::steady_clock::now();
  // Random numbers, as activations are: a card at its power limit runs constants faster, and favours other algorithms for them.
  for (const Scratch& piece : scratch)
    device::fill_random(1, 0, static_cast<std::int64_t>(piece.bytes / sizeof(std::uint16_t)), piece.data, DType::kBF16, nullptr);
  check_launch("scratch for timing products");
  cuda_check(cudaDeviceSynchronize(), "before timing products");  // weights too may still be on their way
  ProductTimer timer;
  for (const Question& question : open) {
    if (std::chrono::steady_clock::now() - start > time_to_tune_) break;
    const auto place = places(question, scratch);
    if (!place) continue;
    const auto best =
        timer.fastest(question.entry->cublas, question.num_rows, question.entry->weights, place->x, place->out);
    if (!best) continue;
    question.entry->by_bucket[question.bucket] = *best;
    table_[{*question.shape, question.bucket}] = std::bit_cast<AlgorithmWords>(*best);
  }
}

// The bucket's, or a neighbour's if its number of rows is near; else the library's favourite.
const cublasLtMatmulAlgo_t& Products::algorithm(Entry& known, std::int64_t num_rows) {
  if (const auto found = known.by_rows.find(num_rows); found != known.by_rows.end()) return found->second;
  const auto above = known.by_bucket.lower_bound(num_rows);
  const cublasLtMatmulAlgo_t* timed = nullptr;
  if (above != known.by_bucket.end() && above->first <= 2 * num_rows + 16) {
    timed = &above->second;
  } else if (above != known.by_bucket.begin() && std::prev(above)->first * 3 / 2 >= num_rows) {
    timed = &std::prev(above)->second;
  }
  if (timed != nullptr && known.cublas.supports(num_rows, *timed)) return known.by_rows[num_rows] = *timed;
  const std::vector<cublasLtMatmulAlgo_t> favourite = known.cublas.candidates(num_rows, 1);
  cublas_check(favourite.empty() ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS, "no algorithm for a product");
  return known.by_rows[num_rows] = favourite[0];
}

void Products::run(cudaStream_t stream, const ProductShape& shape, const void* w, const void* x, const float* bias,
                   void* out, std::int64_t num_rows) {
  if (num_rows == 0) return;
  FG_CHECK(bias == nullptr || shape.out_dtype == DType::kF32, dtype_name(shape.out_dtype));
  const auto rows = static_cast<std::int32_t>(num_rows), out_dim = static_cast<std::int32_t>(shape.out_dim);
  if (is_skinny(shape.dtype, num_rows, shape.in_dim)) {
    device::skinny_linear({w, x, rows, out_dim, static_cast<std::int32_t>(shape.in_dim)}, bias, out,
                          shape.out_dtype == DType::kBF16, shape.add, stream);
    return;
  }
  Entry& known = entry(shape);
  cublas_check(known.cublas.run(stream, num_rows, algorithm(known, num_rows), w, x, out), "cublasLtMatmul");
  if (bias != nullptr) device::add_bias(static_cast<float*>(out), bias, rows, out_dim, stream);
}

}  // namespace fastgen
