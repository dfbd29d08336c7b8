#include "base/step_trace.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <mutex>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"

namespace fastgen {

namespace {

constexpr std::int32_t kDefaultSteps = 8, kMaxSteps = 100'000;
// Steps before those that are measured. To begin tracing holds the engine up: the device has run dry, and its driver prepares
// each kernel and graph anew at its first launch.
constexpr std::int32_t kSettleSteps = 1, kSettleStepsDevice = 4;

// Says that there is something to look at: a signal (1) or a program's wish (2), which lies in `wish` below. Written by any
// thread and by signal handlers; the engine thread takes it.
std::atomic<int> asked{0};

struct Wish {
  std::int32_t num_steps = 0;
  std::string file;
};
std::mutex mutex;
Wish wish;                               // guarded by mutex
std::optional<StepTraceResult> result;   // guarded by mutex

std::int32_t steps_of_environment() {
  const char* text = std::getenv("FG_PROFILE_ITERS");
  if (text == nullptr) return kDefaultSteps;
  const long steps = std::strtol(text, nullptr, 10);
  if (steps >= 1 && steps <= kMaxSteps) return static_cast<std::int32_t>(steps);
  log_warn("FG_PROFILE_ITERS={}: not between 1 and {}, {} steps are traced", text, kMaxSteps, kDefaultSteps);
  return kDefaultSteps;
}

}  // namespace

std::string trace_file_name(const char* word) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y%m%d-%H%M%S", &parts);
  const char* folder = std::getenv("FG_PROFILE_DIR");
  return fmt::format("{}/fastgen-{}-{}-{}.trace.json", folder ? folder : ".", text.data(), getpid(), word);
}

void request_step_trace() { asked.store(1, std::memory_order_relaxed); }

void request_step_trace(std::int32_t num_steps, std::string file) {
  FG_CHECK(num_steps >= 1 && !file.empty(), num_steps);
  const std::lock_guard lock(mutex);
  wish = {num_steps, std::move(file)};
  asked.store(2, std::memory_order_relaxed);  // the mutex publishes the wish
}

std::optional<StepTraceResult> take_step_trace_result() {
  const std::lock_guard lock(mutex);
  return std::exchange(result, std::nullopt);
}

void StepTracer::before_step() {
  if (asked.load(std::memory_order_relaxed) != 0) begin();
}

void StepTracer::begin() {
  const int by = asked.exchange(0, std::memory_order_relaxed);
  if (by == 0 || is_tracing_) return;
  if constexpr (!kHasProfiler) return log_warn("no trace is written: {}", kNoProfiler);
  {
    const std::lock_guard lock(mutex);
    num_wanted_ = by == 2 ? wish.num_steps : steps_of_environment();
    file_ = by == 2 ? wish.file : trace_file_name("steps");
  }
  log_info("tracing the next {} steps", num_wanted_);
  has_device_ = device_tracer() != nullptr && device_tracer()->start();
  num_settle_ = has_device_ ? kSettleStepsDevice : kSettleSteps;
  start_ns_ = now_ns();
  num_seen_ = 0;
  is_tracing_ = true;
}

void StepTracer::count_step() {
  last_ns_ = now_ns();
  if (++num_seen_ <= num_settle_) first_ns_ = last_ns_;
  if (num_seen_ == num_settle_ + num_wanted_) finish();
}

void StepTracer::finish() {
  if (!is_tracing_) return;
  is_tracing_ = false;
  TraceContents contents;
  if (has_device_) contents.device = device_tracer()->stop();
  contents.threads = recorded_spans(start_ns_, now_ns());
  StepTraceResult end{.file = file_, .has_device = has_device_};
  if (num_seen_ > num_settle_) {
    end.num_steps = num_seen_ - num_settle_;
    end.wall_ms = static_cast<double>(last_ns_ - first_ns_) * 1e-6;
    end.device = device_use(contents.device, first_ns_, last_ns_);
  }
  std::ofstream out(file_);
  out << chrome_trace(contents) << '\n';
  if (!out.flush()) {
    log_error("the trace {} cannot be written", file_);
    end.file.clear();
  } else if (has_device_ && end.num_steps > 0) {
    log_info("{} steps traced in {}: GPU busy {:.2f} % of {:.2f} ms", end.num_steps, file_, end.busy_percent(), end.wall_ms);
  } else {
    log_info("{} steps traced in {}", end.num_steps, file_);
  }
  const std::lock_guard lock(mutex);
  result = std::move(end);
}

}  // namespace fastgen
