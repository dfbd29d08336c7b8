// What the GPU did shows in traces: kernels and copies, on our clock, in graphs too, again and again.
#include <algorithm>

#include "base/trace.h"
#include "cuda_support.h"

namespace fastgen::test {
namespace {

std::int64_t count_of(const std::vector<DeviceSpan>& spans, DeviceSpan::Kind kind) {
  return std::count_if(spans.begin(), spans.end(), [&](const DeviceSpan& span) { return span.kind == kind; });
}

TEST_CASE("cuda: kernels and copies are traced on the host's clock") {
  FG_NEEDS_GPU();
  Bench b;
  const Twin residual = b.random(DType::kF32, {64, 1024}), weight = b.random(DType::kF32, {1024}), out = b.random(DType::kBF16, {64, 1024});
  const auto norm = [&] { b.gpu->add_rms_norm(kStream, residual.gpu, Tensor(), weight.gpu, 1e-5f, out.gpu); };
  const auto wait = [&] { b.gpu->host_wait(b.gpu->record(kStream)); };
  Tensor host = residual.gpu;
  host.data = b.gpu->allocate(MemoryKind::kPinned, host.bytes());
  norm();
  b.gpu->begin_capture();
  for (int i = 0; i < 5; ++i) norm();
  const GraphId graph = b.gpu->end_capture();
  wait();

  DeviceTracer* tracer = device_tracer();
  REQUIRE(tracer != nullptr);
  for (int round = 0; round < 2; ++round) {  // a second trace is as whole as the first
    if (!tracer->start()) FG_SKIP("CUPTI");
    const std::uint64_t before_ns = now_ns();
    for (int i = 0; i < 3; ++i) norm();
    b.gpu->replay(graph);
    b.gpu->download(kStream, host.data, residual.gpu.data, host.bytes());
    wait();
    const std::uint64_t after_ns = now_ns();
    const std::vector<DeviceSpan> spans = tracer->stop();
    CHECK(count_of(spans, DeviceSpan::Kind::kKernel) == 3 + 5);
    CHECK(count_of(spans, DeviceSpan::Kind::kCopy) == 1);
    std::int64_t num_of_graph = 0;
    for (const DeviceSpan& span : spans) {
      CAPTURE(span.name);
      CHECK(span.start_ns <= span.end_ns);
      CHECK(span.start_ns + 50'000 >= before_ns);  // the clocks agree to 50 us
      CHECK(span.end_ns <= after_ns + 50'000);
      num_of_graph += span.graph != 0;
      if (span.kind == DeviceSpan::Kind::kCopy) CHECK(span.bytes == host.bytes());
      if (span.kind == DeviceSpan::Kind::kKernel) CHECK(span.name.find("norm") != std::string::npos);
    }
    CHECK(num_of_graph == 5);
    const DeviceUse use = device_use(spans, before_ns, after_ns);
    CHECK(use.covered_ms > 0);
    CHECK(use.kernel_ms + use.copy_ms <= static_cast<double>(after_ns - before_ns) * 1e-6 * 1.01);
    norm();  // not traced: the next round counts its own alone
    wait();
  }
}

}  // namespace
}  // namespace fastgen::test
