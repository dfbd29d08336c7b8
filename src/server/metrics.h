// What is counted, per io thread: written by that thread alone, read by whoever scrapes. Names and meanings: metrics_text.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "server/api_error.h"

namespace fastgen::server {

// A counter or a sum with one writer: a load and a store are enough, and cost no locked instruction.
template <typename Number>
class OneWriter {
 public:
  void add(Number amount) { value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed); }
  Number get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<Number> value_{0};
};

// Buckets with upper bounds, as Prometheus has them.
class Histogram {
 public:
  static constexpr std::size_t kMostBounds = 26;
  // Ascending; at most kMostBounds.
  Histogram(std::initializer_list<double> bounds);
  void observe(double value);

  std::size_t num_bounds() const { return num_bounds_; }
  double bound(std::size_t i) const { return bounds_[i]; }
  std::uint64_t count(std::size_t i) const { return counts_[i].get(); }  // of bucket i alone; i == num_bounds(): above all
  double sum() const { return sum_.get(); }

 private:
  std::size_t num_bounds_ = 0;
  std::array<double, kMostBounds> bounds_{};
  std::array<OneWriter<std::uint64_t>, kMostBounds + 1> counts_;
  OneWriter<double> sum_;
};

enum class Route : std::uint8_t {
  kChat, kCompletions, kTokenize, kDetokenize, kTokenizerInfo, kModels, kHealth, kMetrics, kVersion, kOpenApi, kDebug, kOther, kNumRoutes
};
enum class Refusal : std::uint8_t {
  kQueueFull, kQueueTooLong, kDeadline, kLoading, kDraining, kApiKey, kBadRequest, kEngine, kSlowReader, kNumRefusals
};
enum class Outcome : std::uint8_t { kStop, kLength, kTimeout, kAbort, kError, kNumOutcomes };

inline constexpr std::array<std::string_view, static_cast<std::size_t>(Route::kNumRoutes)> kRouteNames = {
    "/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/tokenizer_info", "/v1/models",
    "/health",              "/metrics",        "/version",  "/openapi.json", "/debug",          "other"};
inline constexpr std::array<std::string_view, static_cast<std::size_t>(Refusal::kNumRefusals)> kRefusalNames = {
    "queue_full", "queue_too_long", "deadline", "loading", "draining", "api_key", "bad_request", "engine", "slow_reader"};
inline constexpr std::array<std::string_view, static_cast<std::size_t>(Outcome::kNumOutcomes)> kOutcomeNames = {
    "stop", "length", "timeout", "abort", "error"};
inline constexpr std::array<int, 16> kStatuses = {200, 204, 400, 401, 404, 405, 408, 413, 415, 429, 431, 500, 501, 503, 504, 0};

Refusal refusal_of(const ApiError& error);

struct ThreadMetrics {
  Histogram ttft_s{0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640};
  Histogram itl_s{0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 80};
  Histogram tpot_s{0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 80};
  Histogram e2e_s{0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  Histogram queue_s{0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960};
  Histogram prefill_s{0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960};
  Histogram decode_s{0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960};
  Histogram inference_s{0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960};
  Histogram prompt_tokens{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
  Histogram generated_tokens{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
  Histogram most_generated_tokens{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
  Histogram max_tokens{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
  Histogram num_choices{1, 2, 5, 10, 20, 50, 100};
  // From the engine's collect of a step to the return of the write that carries its token.
  Histogram write_s{0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5};

  OneWriter<std::uint64_t> num_prompt_tokens, num_generated_tokens;
  OneWriter<std::uint64_t> num_frames;        // SSE events written
  OneWriter<std::uint64_t> num_merged;        // tokens that went out in another's frame because their reader was slow
  OneWriter<std::uint64_t> num_writes, num_blocked_writes;  // the latter: not all fitted, the rest went by and by
  std::array<OneWriter<std::uint64_t>, static_cast<std::size_t>(Outcome::kNumOutcomes)> outcomes;
  std::array<OneWriter<std::uint64_t>, static_cast<std::size_t>(Refusal::kNumRefusals)> refusals;
  std::array<std::array<OneWriter<std::uint64_t>, kStatuses.size()>, static_cast<std::size_t>(Route::kNumRoutes)> http;

  std::atomic<int> cpu_clock{0};  // clockid_t of the thread's processor time; 0: the thread does not run

  void count_http(Route route, int status);
  void count_refusal(Refusal refusal) { refusals[static_cast<std::size_t>(refusal)].add(1); }
  void count_outcome(Outcome outcome) { outcomes[static_cast<std::size_t>(outcome)].add(1); }
};

}  // namespace fastgen::server
