#include "text/jinja_limits.h"

#include "base/check.h"

namespace fastgen::jinja {

namespace {

struct Budget {
  bool active = false;
  std::int64_t steps_left = 0;
  std::int64_t live_bytes = 0;
};

thread_local Budget budget;

}  // namespace

void fail(const char* kind, const std::string& message) {
  throw RenderError(std::string(kind) + ": " + message);
}

void charge_steps(std::size_t count) {
  if (!budget.active) return;
  budget.steps_left -= static_cast<std::int64_t>(count);
  if (budget.steps_left < 0) fail("LimitError", "the template takes too many steps");
}

std::size_t charge_bytes(std::size_t bytes) {
  if (!budget.active) return 0;
  charge_steps(bytes / 256);
  if (budget.live_bytes + static_cast<std::int64_t>(bytes) > kMaxLiveBytes)
    fail("LimitError", "the template uses too much memory");
  budget.live_bytes += static_cast<std::int64_t>(bytes);
  return bytes;
}

void release_bytes(std::size_t bytes) noexcept {
  if (budget.active) budget.live_bytes -= static_cast<std::int64_t>(bytes);
}

void check_text_size(std::size_t bytes) {
  if (bytes > kMaxText) fail("LimitError", "a text grows beyond 64 MiB");
}

BudgetScope::BudgetScope() {
  FG_CHECK(!budget.active);
  budget = {true, kMaxSteps, 0};
}

BudgetScope::~BudgetScope() { budget.active = false; }

}  // namespace fastgen::jinja
