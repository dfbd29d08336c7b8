#include "base/step_trace.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "support/support.h"

namespace fastgen {
namespace {

// A device that runs one kernel a millisecond long before each stop.
class FakeTracer final : public DeviceTracer {
 public:
  bool start() override {
    ++num_starts;
    return works;
  }
  std::vector<DeviceSpan> stop() override {
    const std::uint64_t now = now_ns();
    return {{DeviceSpan::Kind::kKernel, "fake", now - 1'000'000, now, 1, 0, 0}};
  }
  int num_starts = 0;
  bool works = true;
};

void take_steps(StepTracer& tracer, int count) {
  for (int i = 0; i < count; ++i) {
    tracer.before_step();
    {
      const SpanScope span(SpanKind::kLaunch);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    tracer.after_step();
  }
}

TEST_CASE("so many steps as asked for go into the file, with what the device did") {
  const test::TempDir folder;
  const std::string file = (folder.path() / "steps.json").string();
  FakeTracer device;
  set_device_tracer(&device);
  StepTracer tracer;
  take_steps(tracer, 3);
  CHECK_FALSE(take_step_trace_result());  // nobody asked
  request_step_trace(5, file);
  take_steps(tracer, 4 + 5 - 1);  // four only open the stretch that is measured
  CHECK_FALSE(take_step_trace_result());
  take_steps(tracer, 1);
  const std::optional<StepTraceResult> result = take_step_trace_result();
  REQUIRE(result);
  CHECK(result->file == file);
  CHECK(result->num_steps == 5);
  CHECK(result->wall_ms >= 10);
  CHECK(result->has_device);
  CHECK(result->device.kernel_ms > 0.5);
  CHECK(result->busy_percent() == doctest::Approx(100 * result->device.kernel_ms / result->wall_ms));
  CHECK(device.num_starts == 1);
  const std::string json = test::read_file(file);
  CHECK(json.find("\"launch\"") != std::string::npos);
  CHECK(json.find("\"fake\"") != std::string::npos);
  CHECK_FALSE(take_step_trace_result());
  set_device_tracer(nullptr);
}

TEST_CASE("without a device, or with one that cannot be traced, the host's part is there") {
  const test::TempDir folder;
  const std::string file = (folder.path() / "host.json").string();
  FakeTracer broken;
  broken.works = false;
  for (DeviceTracer* device : {static_cast<DeviceTracer*>(nullptr), static_cast<DeviceTracer*>(&broken)}) {
    set_device_tracer(device);
    StepTracer tracer;
    request_step_trace(1, file);
    take_steps(tracer, 2);
    const std::optional<StepTraceResult> result = take_step_trace_result();
    REQUIRE(result);
    CHECK_FALSE(result->has_device);
    CHECK(result->num_steps == 1);
    CHECK(test::read_file(file).find("\"launch\"") != std::string::npos);
  }
  set_device_tracer(nullptr);
}

TEST_CASE("a trace that the end cuts short is written, one that cannot be written says so") {
  const test::TempDir folder;
  const std::string file = (folder.path() / "short.json").string();
  {
    StepTracer tracer;
    request_step_trace(100, file);
    take_steps(tracer, 3);
  }
  std::optional<StepTraceResult> result = take_step_trace_result();
  REQUIRE(result);
  CHECK(result->num_steps == 2);
  CHECK(std::filesystem::exists(file));
  StepTracer tracer;
  request_step_trace(1, (folder.path() / "none" / "x.json").string());
  take_steps(tracer, 2);
  result = take_step_trace_result();
  REQUIRE(result);
  CHECK(result->file.empty());
}

TEST_CASE("a signal's trace has FG_PROFILE_ITERS steps and a name of its own") {
  const test::TempDir folder;
  setenv("FG_PROFILE_DIR", folder.path().c_str(), 1);
  setenv("FG_PROFILE_ITERS", "2", 1);
  StepTracer tracer;
  request_step_trace();
  request_step_trace();  // once is enough
  take_steps(tracer, 3);
  unsetenv("FG_PROFILE_ITERS");
  unsetenv("FG_PROFILE_DIR");
  const std::optional<StepTraceResult> result = take_step_trace_result();
  REQUIRE(result);
  CHECK(result->num_steps == 2);
  CHECK(result->file.starts_with(folder.path().string() + "/fastgen-"));
  CHECK(std::filesystem::exists(result->file));
}

}  // namespace
}  // namespace fastgen
