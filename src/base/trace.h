// Spans of host and device as Chrome's trace JSON, which Perfetto (ui.perfetto.dev) and chrome://tracing show.
// Format: "Trace Event Format", Google 2016.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/spans.h"

namespace fastgen {

// One kernel or copy as it ran on a device.
struct DeviceSpan {
  enum class Kind : std::uint8_t { kKernel, kCopy, kFill };
  Kind kind = Kind::kKernel;
  std::string name;            // of the kernel, or "HtoD" and the like
  std::uint64_t start_ns = 0;  // on the clock of now_ns()
  std::uint64_t end_ns = 0;
  std::uint32_t stream = 0;    // the driver's number of it
  std::uint64_t bytes = 0;     // of a copy or fill
  std::uint32_t graph = 0;     // 0: not out of a graph
};

// What a backend offers to be traced by. start and stop are called in turn from the engine thread, between two steps.
class DeviceTracer {
 public:
  virtual ~DeviceTracer() = default;
  // False (and a line in the log) if the device cannot be traced.
  virtual bool start() = 0;
  // Everything that began since start and has ended, in any order.
  virtual std::vector<DeviceSpan> stop() = 0;
};
// The process's device tracer; null: none. It must outlive every engine that may trace. Set before an engine starts.
void set_device_tracer(DeviceTracer* tracer);
DeviceTracer* device_tracer();

struct TraceContents {
  std::vector<ThreadSpans> threads;
  std::vector<DeviceSpan> device;
};
std::string chrome_trace(const TraceContents& contents);

// The flight recorder's last `ms` milliseconds as a trace. Any thread.
std::string recent_trace(std::uint64_t ms);

// How busy the device was in a stretch of time: what lies outside of it is cut off.
struct DeviceUse {
  double kernel_ms = 0;   // sum of the kernels' times
  double copy_ms = 0;     // sum of copies and fills
  double covered_ms = 0;  // time in which at least one of them ran
  std::int64_t num_kernels = 0;
  std::int64_t num_copies = 0;
};
DeviceUse device_use(std::span<const DeviceSpan> spans, std::uint64_t from_ns, std::uint64_t to_ns);

}  // namespace fastgen
