#include "base/trace.h"

#include "support/support.h"

namespace fastgen {
namespace {

// One thread, one step, one request, one kernel; times in nanoseconds.
TraceContents example() {
  TraceContents contents;
  contents.threads = {{"engine", 1,
                       {{SpanKind::kPack, 1'000'500, 1'002'750, 0, {}},
                        {SpanKind::kStep, 1'000'500, 1'900'000, 12, {3, 64, 1}},
                        {SpanKind::kDecode, 1'000'000, 1'950'000, 0xAB, {2, 10, 20}}}}};
  contents.device = {{DeviceSpan::Kind::kKernel, "attend<128>", 1'003'000, 1'103'000, 7, 0, 4}};
  return contents;
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("a trace counts from its first span, in microseconds with nanoseconds behind the point") {
  const std::string json = chrome_trace(example());
  CHECK(json.starts_with(R"({"displayTimeUnit":"ms","traceEvents":[)"));
  CHECK(json.ends_with("]}"));
  CHECK(holds(json, R"({"name":"pack","ph":"X","pid":1,"tid":1,"cat":"host","ts":0.500,"dur":2.250})"));
  CHECK(holds(json, R"({"name":"step","ph":"b","pid":1,"tid":0,"cat":"step","id":"step 12","ts":0.500,)"
                    R"("args":{"id":12,"decode_rows":3,"prefill_tokens":64,"graph":1}})"));
  CHECK(holds(json, R"({"name":"step","ph":"e","pid":1,"tid":0,"cat":"step","id":"step 12","ts":899.999)") == false);
  CHECK(holds(json, R"({"name":"step","ph":"e","pid":1,"tid":0,"cat":"step","id":"step 12","ts":900.000})"));
  CHECK(holds(json, R"("name":"decode","ph":"b","pid":1,"tid":0,"cat":"request","id":"request ab.2","ts":0.000)"));
  CHECK(holds(json, R"({"name":"attend<128>","ph":"X","pid":2,"tid":7,"cat":"kernel","ts":3.000,"dur":100.000,"args":{"graph":4}})"));
  CHECK(holds(json, R"({"name":"thread_name","ph":"M","pid":1,"tid":1,"args":{"name":"engine"}})"));
}

TEST_CASE("an empty trace is one too") {
  const std::string json = chrome_trace({});
  CHECK(json.starts_with(R"({"displayTimeUnit":"ms","traceEvents":[)"));
  CHECK_FALSE(holds(json, "GPU"));
}

TEST_CASE("device use: sums, overlaps counted once in what is covered, and nothing outside of the stretch") {
  using Kind = DeviceSpan::Kind;
  constexpr std::uint64_t kMs = 1'000'000;
  const std::vector<DeviceSpan> spans = {{Kind::kKernel, "a", 0, 2 * kMs, 1, 0, 0},             // half of it before
                                         {Kind::kKernel, "b", 3 * kMs, 6 * kMs, 1, 0, 0},
                                         {Kind::kCopy, "HtoD", 5 * kMs, 7 * kMs, 2, 10, 0},     // overlaps b
                                         {Kind::kFill, "fill", 10 * kMs, 30 * kMs, 1, 10, 0},   // 1 ms inside
                                         {Kind::kKernel, "c", 12 * kMs, 13 * kMs, 1, 0, 0}};    // after
  const DeviceUse use = device_use(spans, kMs, 11 * kMs);
  CHECK(use.kernel_ms == doctest::Approx(1 + 3));
  CHECK(use.copy_ms == doctest::Approx(2 + 1));
  CHECK(use.covered_ms == doctest::Approx(1 + 4 + 1));
  CHECK(use.num_kernels == 2);
  CHECK(use.num_copies == 2);
}

}  // namespace
}  // namespace fastgen
