#include "backend/stall/stall_backend.h"

#include <fmt/format.h>

#include <thread>
#include <utility>

#include "backend/forwarding.h"
#include "base/check.h"

namespace fastgen {

namespace {

class StallBackend final : public ForwardingBackend {
 public:
  StallBackend(std::unique_ptr<Backend> inner, const StallPlan& plan) : ForwardingBackend(std::move(inner)), plan_(plan) {}

  std::string name() const override {
    return plan_.num_steps >= 0 ? fmt::format("stall-after:{}:{}", plan_.num_steps, inner().name())
                                : fmt::format("slow:{}:{}", plan_.delay.count(), inner().name());
  }
  FenceId record(Stream stream) override {
    if (stream == Stream::kCompute) take_time();
    return inner().record(stream);
  }

 private:
  void take_time() {
    std::this_thread::sleep_for(plan_.delay);
    while (plan_.num_steps >= 0 && num_recorded_ >= plan_.num_steps) std::this_thread::sleep_for(std::chrono::hours(1));
    ++num_recorded_;
  }

  const StallPlan plan_;
  std::int64_t num_recorded_ = 0;
};

}  // namespace

std::unique_ptr<Backend> make_stall_backend(std::unique_ptr<Backend> inner, const StallPlan& plan) {
  FG_CHECK(inner != nullptr);
  return std::make_unique<StallBackend>(std::move(inner), plan);
}

}  // namespace fastgen
