#include "base/trace.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "base/json_writer.h"

namespace fastgen {

namespace {

// Published once by the backend's constructor, before the engine thread that reads it starts.
std::atomic<DeviceTracer*> the_device_tracer{nullptr};

// Processes of the trace: tracks are grouped by them.
constexpr std::int32_t kHostTracks = 1, kDeviceTracks = 2;

class TraceWriter {
 public:
  explicit TraceWriter(const TraceContents& contents) : contents_(contents), json_(text_) {}

  std::string write() {
    for (const ThreadSpans& thread : contents_.threads)
      for (const Span& span : thread.spans) origin_ns_ = std::min(origin_ns_, span.start_ns);
    for (const DeviceSpan& span : contents_.device) origin_ns_ = std::min(origin_ns_, span.start_ns);
    json_.begin_object().field("displayTimeUnit", "ms").key("traceEvents").begin_array();
    name("process_name", kHostTracks, 0, fmt::format("host, process {}", getpid()));
    for (const ThreadSpans& thread : contents_.threads) write_thread(thread);
    if (!contents_.device.empty()) write_device();
    json_.end_array().end_object();
    return std::move(text_);
  }

 private:
  void begin(const char* name, const char* phase, std::int32_t process, std::int64_t track) {
    json_.begin_object().field("name", name).field("ph", phase).field("pid", process).field("tid", track);
  }
  void name(const char* what, std::int32_t process, std::int64_t track, const std::string& value) {
    begin(what, "M", process, track);
    json_.key("args").begin_object().field("name", value).end_object().end_object();
  }
  // Trace times are microseconds; three decimals keep the nanoseconds.
  void time(const char* key, std::uint64_t ns) { json_.key(key).raw(fmt::format("{}.{:03}", ns / 1000, ns % 1000)); }
  void at(std::uint64_t ns) { time("ts", ns - origin_ns_); }
  void duration(std::uint64_t from_ns, std::uint64_t to_ns) { time("dur", to_ns > from_ns ? to_ns - from_ns : 0); }

  void write_thread(const ThreadSpans& thread) {
    name("thread_name", kHostTracks, thread.thread_idx, thread.name);
    for (const Span& span : thread.spans) {
      if (span_info(span.kind).is_of_thread()) {
        write_nested(span, thread.thread_idx);
      } else {
        write_own_track(span, "b", span.start_ns);
        write_own_track(span, "e", span.end_ns);
      }
    }
  }
  void write_nested(const Span& span, std::int32_t thread_idx) {
    begin(span_info(span.kind).name, "X", kHostTracks, thread_idx);
    json_.field("cat", "host");
    at(span.start_ns);
    duration(span.start_ns, span.end_ns);
    json_.end_object();
  }
  void write_own_track(const Span& span, const char* phase, std::uint64_t ns) {
    const SpanInfo& info = span_info(span.kind);
    begin(info.name, phase, kHostTracks, 0);
    const bool is_request = span.kind >= SpanKind::kQueued;
    json_.field("cat", info.category);
    json_.field("id", is_request ? fmt::format("request {:x}.{}", span.id, span.numbers[0]) : fmt::format("step {}", span.id));
    at(ns);
    if (*phase == 'b') {
      json_.key("args").begin_object().field("id", span.id);
      for (std::size_t i = 0; i < span.numbers.size(); ++i)
        if (info.number_names[i]) json_.field(info.number_names[i], span.numbers[i]);
      json_.end_object();
    }
    json_.end_object();
  }

  void write_device() {
    name("process_name", kDeviceTracks, 0, "GPU");
    std::set<std::uint32_t> streams;
    for (const DeviceSpan& span : contents_.device) streams.insert(span.stream);
    for (std::uint32_t stream : streams) name("thread_name", kDeviceTracks, stream, fmt::format("stream {}", stream));
    constexpr const char* kCategories[] = {"kernel", "copy", "fill"};
    for (const DeviceSpan& span : contents_.device) {
      begin(span.name.c_str(), "X", kDeviceTracks, span.stream);
      json_.field("cat", kCategories[static_cast<int>(span.kind)]);
      at(span.start_ns);
      duration(span.start_ns, span.end_ns);
      json_.key("args").begin_object();
      if (span.bytes > 0) json_.field("bytes", span.bytes);
      if (span.graph > 0) json_.field("graph", span.graph);
      json_.end_object().end_object();
    }
  }

  const TraceContents& contents_;
  std::string text_;
  JsonWriter json_;
  std::uint64_t origin_ns_ = std::numeric_limits<std::uint64_t>::max();
};

}  // namespace

void set_device_tracer(DeviceTracer* tracer) { the_device_tracer.store(tracer, std::memory_order_release); }
DeviceTracer* device_tracer() { return the_device_tracer.load(std::memory_order_acquire); }

std::string chrome_trace(const TraceContents& contents) { return TraceWriter(contents).write(); }

std::string recent_trace(std::uint64_t ms) {
  const std::uint64_t now = now_ns(), length = std::min(ms, now / 1'000'000) * 1'000'000;
  return chrome_trace({.threads = recorded_spans(now - length, now), .device = {}});
}

DeviceUse device_use(std::span<const DeviceSpan> spans, std::uint64_t from_ns, std::uint64_t to_ns) {
  DeviceUse use;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> stretches;
  for (const DeviceSpan& span : spans) {
    const std::uint64_t start = std::max(span.start_ns, from_ns), end = std::min(span.end_ns, to_ns);
    if (start >= end) continue;
    const bool is_kernel = span.kind == DeviceSpan::Kind::kKernel;
    (is_kernel ? use.kernel_ms : use.copy_ms) += static_cast<double>(end - start) * 1e-6;
    ++(is_kernel ? use.num_kernels : use.num_copies);
    stretches.emplace_back(start, end);
  }
  std::sort(stretches.begin(), stretches.end());
  std::uint64_t covered_to = from_ns;
  for (const auto& [start, end] : stretches) {
    if (end <= covered_to) continue;
    use.covered_ms += static_cast<double>(end - std::max(start, covered_to)) * 1e-6;
    covered_to = end;
  }
  return use;
}

}  // namespace fastgen
