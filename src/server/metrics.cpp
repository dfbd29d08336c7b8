#include "server/metrics.h"

#include <algorithm>

#include "base/check.h"

namespace fastgen::server {

Histogram::Histogram(std::initializer_list<double> bounds) : num_bounds_(bounds.size()) {
  FG_CHECK(bounds.size() <= kMostBounds && std::is_sorted(bounds.begin(), bounds.end()), bounds.size());
  std::copy(bounds.begin(), bounds.end(), bounds_.begin());
}

void Histogram::observe(double value) {
  const auto end = bounds_.begin() + static_cast<std::ptrdiff_t>(num_bounds_);
  counts_[static_cast<std::size_t>(std::lower_bound(bounds_.begin(), end, value) - bounds_.begin())].add(1);
  sum_.add(value);
}

Refusal refusal_of(const ApiError& error) {
  if (error.code == "rate_limit_exceeded") return Refusal::kQueueFull;
  if (error.code == "queue_too_long") return Refusal::kQueueTooLong;
  if (error.code == "deadline_exceeded") return Refusal::kDeadline;
  if (error.code == "loading") return Refusal::kLoading;
  if (error.code == "shutting_down") return Refusal::kDraining;
  if (error.status == 401) return Refusal::kApiKey;
  return error.status < 500 ? Refusal::kBadRequest : Refusal::kEngine;
}

void ThreadMetrics::count_http(Route route, int status) {
  const auto found = std::find(kStatuses.begin(), kStatuses.end() - 1, status);
  http[static_cast<std::size_t>(route)][static_cast<std::size_t>(found - kStatuses.begin())].add(1);
}

}  // namespace fastgen::server
