// One thread that holds many HTTP connections and reads their event streams: the engine of fgbench serve.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/load_figures.h"
#include "bench/load_target.h"

namespace fastgen::bench {

struct LoadJob {
  std::string body;
  std::int64_t input_tokens = 0;  // 0: as the server's usage says
  std::uint64_t due_ns = 0;       // after the start; not before
};

struct LoadProgress {
  std::size_t num_sent = 0, num_done = 0, num_open = 0, num_failed = 0;
  std::uint64_t num_chunks = 0;
};

struct LoadOptions {
  LoadTarget target;
  std::int32_t max_concurrency = 0;  // requests at a time; 0: no limit
  double timeout_s = 600;            // a request's, whole
  std::function<void(const LoadProgress&)> on_progress;  // twice a second
};

struct LoadResult {
  std::vector<LoadRecord> records;  // in the jobs' order
  double duration_s = 0;            // the first send to the last end
  std::uint64_t num_chunks = 0;
  double cpu_s = 0;                 // of this thread
};
// Sends all jobs and waits for their answers. A request that fails is a record that says why; throws Error if the host cannot be found.
LoadResult run_load(const std::vector<LoadJob>& jobs, const LoadOptions& options);

// GET, the whole body. Throws Error if it is not a 200.
std::string http_get(const LoadTarget& target, const std::string& path);

}  // namespace fastgen::bench
