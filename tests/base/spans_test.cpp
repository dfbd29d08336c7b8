#include "base/spans.h"

#include <atomic>
#include <limits>
#include <thread>

#include "support/support.h"

namespace fastgen {
namespace {

constexpr std::uint64_t kEver = std::numeric_limits<std::uint64_t>::max();

std::vector<Span> spans_of(const std::string& thread_name, std::uint64_t from_ns = 0, std::uint64_t to_ns = kEver) {
  for (const ThreadSpans& thread : recorded_spans(from_ns, to_ns))
    if (thread.name == thread_name) return thread.spans;
  return {};
}

TEST_CASE("a scope's spans come back under the thread's name, in order and back to back") {
  std::thread([] {
    name_thread("scopes");
    SpanScope span(SpanKind::kPlan);
    span.next(SpanKind::kPack);
    span.end();
    span.end();  // only once
    const SpanScope inner(SpanKind::kEmit);
  }).join();
  const std::vector<Span> spans = spans_of("scopes");
  REQUIRE(spans.size() == 3);
  CHECK(spans[0].kind == SpanKind::kPlan);
  CHECK(spans[1].kind == SpanKind::kPack);
  CHECK(spans[2].kind == SpanKind::kEmit);
  CHECK(spans[0].end_ns == spans[1].start_ns);
  CHECK(spans[0].start_ns <= spans[0].end_ns);
  CHECK(spans[1].end_ns <= spans[2].start_ns);
}

TEST_CASE("what is open shows as far as it has come, the innermost alone") {
  std::thread([] {
    name_thread("open");
    const SpanScope outer(SpanKind::kCollect);
    {
      const SpanScope inner(SpanKind::kWrite);
      const std::vector<Span> spans = spans_of("open");
      REQUIRE(spans.size() == 1);
      CHECK(spans[0].kind == SpanKind::kWrite);
      CHECK(spans[0].start_ns == inner.start_ns());
      CHECK(spans[0].end_ns >= inner.start_ns());
    }
    const std::vector<Span> spans = spans_of("open");
    REQUIRE(spans.size() == 2);
    CHECK(spans[0].kind == SpanKind::kWrite);
    CHECK(spans[1].kind == SpanKind::kCollect);
    CHECK(spans_of("open", 0, outer.start_ns() - 1).empty());
  }).join();
  CHECK(spans_of("open").size() == 2);
}

TEST_CASE("every field survives, and a range picks the spans that overlap it") {
  const Span step{SpanKind::kStep, 100, 200, 0xFEDCBA9876543210, {-1, 2'000'000'000, -2'000'000'000}};
  std::thread([&] {
    name_thread("fields");
    record_span(step);
    record_span({SpanKind::kDecode, 150, 300, 7, {}});
  }).join();
  const std::vector<Span> spans = spans_of("fields");
  REQUIRE(spans.size() == 2);
  CHECK(spans[0].kind == step.kind);
  CHECK(spans[0].start_ns == 100);
  CHECK(spans[0].end_ns == 200);
  CHECK(spans[0].id == step.id);
  CHECK(spans[0].numbers == step.numbers);
  CHECK(spans_of("fields", 201).size() == 1);
  CHECK(spans_of("fields", 0, 149).size() == 1);
  CHECK(spans_of("fields", 301).empty());
}

TEST_CASE("the ring keeps the newest, also while somebody reads, and never a torn record") {
  std::atomic<bool> done{false};
  std::thread writer([&] {
    name_thread("busy");
    for (std::uint64_t i = 1; i <= 20 * kSpansPerThread; ++i) {
      const auto number = static_cast<std::int32_t>(i);
      record_span({SpanKind::kStep, i, i, i, {number, number, number}});
    }
    done = true;
  });
  while (!done) {
    std::uint64_t last = 0;
    for (const Span& span : spans_of("busy")) {
      const auto number = static_cast<std::int32_t>(span.id);
      REQUIRE(span.start_ns == span.id);
      REQUIRE(span.end_ns == span.id);
      REQUIRE(span.numbers == std::array{number, number, number});
      REQUIRE((last == 0 || span.id == last + 1));
      last = span.id;
    }
  }
  writer.join();
  const std::vector<Span> spans = spans_of("busy");
  // The oldest place counts as being written.
  REQUIRE(spans.size() == kSpansPerThread - 1);
  CHECK(spans.back().id == 20 * kSpansPerThread);
}

TEST_CASE("threads without end do not take memory without end") {
  for (int i = 0; i < 100; ++i) std::thread([] { record_span({SpanKind::kWrite, 1, 2, 3, {}}); }).join();
  CHECK(recorded_spans(0, kEver).size() < 40);
}

}  // namespace
}  // namespace fastgen
