// The next N steps into a trace file: asked for by a signal or a program, carried out by the engine thread between steps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/trace.h"

namespace fastgen {

// "FOLDER/fastgen-20241124-101500-PID-WORD.trace.json": by time in $FG_PROFILE_DIR, or else the working directory.
std::string trace_file_name(const char* word);

// The process's answer to SIGUSR2: $FG_PROFILE_ITERS steps (8) into trace_file_name; the log says its name. Any thread, also from a signal handler. Asked again before those are over, it does nothing.
void request_step_trace();
// The same with a number and a file of one's own. num_steps >= 1. Not from a signal handler.
void request_step_trace(std::int32_t num_steps, std::string file);

// What came of the trace that ended last. A few steps come before those that are counted, since to begin tracing holds up the
// engine: times are between the collect of the last of them and that of the last step.
struct StepTraceResult {
  std::string file;
  std::int64_t num_steps = 0;  // in wall_ms
  double wall_ms = 0;
  bool has_device = false;     // the rest holds something
  DeviceUse device;
  double busy_percent() const { return wall_ms > 0 ? 100 * (device.kernel_ms + device.copy_ms) / wall_ms : 0; }
  double covered_percent() const { return wall_ms > 0 ? 100 * device.covered_ms / wall_ms : 0; }
};
// None while no trace has ended since the last call. Any thread.
std::optional<StepTraceResult> take_step_trace_result();

// The engine's side: one per engine thread, which calls it.
class StepTracer {
 public:
  ~StepTracer() { finish(); }
  // Before each turn of the loop. Costs one load while nothing is asked for.
  void before_step();
  // A step has been collected.
  void after_step() {
    if (is_tracing_) count_step();
  }
  // Ends a trace early: what there is goes to the file.
  void finish();

 private:
  void begin();
  void count_step();

  bool is_tracing_ = false;
  bool has_device_ = false;
  std::int32_t num_wanted_ = 0, num_settle_ = 0, num_seen_ = 0;
  std::string file_;
  std::uint64_t start_ns_ = 0, first_ns_ = 0, last_ns_ = 0;
};

}  // namespace fastgen
