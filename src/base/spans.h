// The flight recorder: what each thread did lately, always on. A span is one stretch of time with a kind and three numbers.
//
// Every thread that records has a ring of its own; the newest record overwrites the oldest. Recording takes two clock reads
// and six stores, no lock and no allocation after the thread's first span. Anyone may read at any time; a record that is
// overwritten meanwhile is left out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace fastgen {

// Without it (meson -Dprofiler=false, to measure what it costs) nothing is recorded, and who asks for a trace is refused.
#ifdef FG_NO_PROFILER
inline constexpr bool kHasProfiler = false;
#else
inline constexpr bool kHasProfiler = true;
#endif
inline constexpr const char* kNoProfiler = "this build has no profiler (meson -Dprofiler=false)";

enum class SpanKind : std::uint8_t {
  // The engine thread's turn.
  kPlan,
  kPack,
  kLaunch,
  kWait,
  kCollect,
  kEmit,
  // io and text threads.
  kParse,
  kTokenize,
  kWrite,
  // A step from launch to collect: id its number; numbers: decode rows, prefill tokens, whether a graph was replayed.
  kStep,
  // A choice of a request, id the request's: choice, prompt tokens, output tokens.
  kQueued,
  kPrefill,
  kDecode,
  kCount,
};

// How a kind is shown. Spans of one thread nest; the others overlap, so each id has a track of its own.
struct SpanInfo {
  const char* name;
  const char* category;                    // "host", "step" or "request"
  std::array<const char*, 3> number_names;  // null: unused
  bool is_of_thread() const { return category[0] == 'h'; }
};
const SpanInfo& span_info(SpanKind kind);

struct Span {
  SpanKind kind = SpanKind::kPlan;
  std::uint64_t start_ns = 0;  // now_ns()
  std::uint64_t end_ns = 0;
  std::uint64_t id = 0;
  std::array<std::int32_t, 3> numbers{};
};

inline constexpr std::size_t kSpansPerThread = 8192;

// Into the calling thread's ring.
void push_span(const Span& span);
inline void record_span(const Span& span) {
  if constexpr (kHasProfiler) push_span(span);
}
// What the calling thread is called in traces, and by the system (ps, top -H); in traces other threads are "thread N".
void name_thread(const std::string& name);

struct ThreadSpans {
  std::string name;
  std::int32_t thread_idx = 0;
  std::vector<Span> spans;  // in the order in which they ended
};
// Of all threads that recorded, those spans that overlap [from_ns, to_ns]; one that is still open ends now. Any thread.
std::vector<ThreadSpans> recorded_spans(std::uint64_t from_ns, std::uint64_t to_ns);

// Told of every SpanScope that opens and closes, on its thread: how a backend shows them to a profiler of its own (NVTX).
// Both stay for the life of the process.
struct RangeHooks {
  void (*begin)(const char* name);
  void (*end)();
};
void set_range_hooks(const RangeHooks* hooks);

// One span of the calling thread, from here to the end of the scope, to end() or to next().
class SpanScope {
 public:
  explicit SpanScope(SpanKind kind) {
    if constexpr (kHasProfiler) open(kind, now_ns());
  }
  SpanScope(const SpanScope&) = delete;
  SpanScope& operator=(const SpanScope&) = delete;
  ~SpanScope() { end(); }

  void end() {
    if (is_open_) close(now_ns());
  }
  // Ends this one and begins another at the same moment.
  void next(SpanKind kind) {
    if constexpr (!kHasProfiler) return;
    const std::uint64_t now = now_ns();
    if (is_open_) close(now);
    open(kind, now);
  }
  std::uint64_t start_ns() const { return span_.start_ns; }  // 0 without the profiler

 private:
  void open(SpanKind kind, std::uint64_t now);
  void close(std::uint64_t now);

  Span span_;
  std::uint64_t around_ = 0;  // the thread's open span before this one
  bool is_open_ = false;
};

}  // namespace fastgen
