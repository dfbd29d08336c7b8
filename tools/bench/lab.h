// What micro-benchmarks share: random data in a backend's memory, and times with caches cold.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace fastgen::bench {

struct LabOptions {
  std::string backend = "cpu";
  std::string dtype = "bfloat16";  // of weights; or float32
  int num_threads = 0;             // CPU: 0 is all cores
  double gpu_gb = 0;
  double cold_mb = 0;              // an op comes back to the same data after so much other data; 0: by backend
  double sample_ms = 0;            // least time of one sample; 0: by backend
};

struct Timing {
  double median_us = 0;  // of one op, over the samples
  double least_us = 0;
  std::int64_t num_ops = 0;  // of one sample
};

// One backend with what it was given to work on. All of it goes with the lab.
class Lab {
 public:
  // Throws Error for a backend that does not compute (echo).
  explicit Lab(const LabOptions& options);

  Backend& backend() { return *backend_; }
  DType dtype() const { return dtype_; }
  ActivationTypes types() const { return backend_->activation_types(dtype_); }
  bool is_gpu() const { return is_gpu_; }
  // So many sets of `bytes` each keep caches cold; at least 1, at most `most`.
  std::int64_t num_sets(double bytes, std::int64_t most = 1 << 16) const;
  double cold_bytes() const { return cold_bytes_; }

  // Device memory: normal, sigma 1; integers; zeros.
  Tensor random(DType dtype, std::initializer_list<std::int64_t> shape);
  Tensor ints(const std::vector<std::int32_t>& numbers, std::initializer_list<std::int64_t> shape);
  Tensor zeros(DType dtype, std::initializer_list<std::int64_t> shape);
  void upload(const Tensor& to, const void* bytes);
  // `copies` matrices, sigma 0.02; parts [N, K].
  std::vector<Weight> weights(WeightKind kind, const std::vector<std::pair<std::int64_t, std::int64_t>>& parts, std::int64_t copies);

  // Queues `op` again and again, its argument counting the calls, and measures batches of them between fences; where the backend
  // has graphs that run on their own (CUDA), a batch is the replay of one.
  Timing time(const std::function<void(std::int64_t call)>& op, std::int64_t num_sets);

 private:
  double run_calls(const std::function<void(std::int64_t)>& op, std::int64_t count);
  void wait() { backend_->host_wait(backend_->record(Stream::kCompute)); }

  std::unique_ptr<Backend> backend_;
  DType dtype_;
  bool is_gpu_;
  double cold_bytes_, sample_us_;
  Tensor staging_;            // pinned
  std::vector<float> normal_;  // sigma 1; data repeats it
  std::int64_t num_calls_ = 0, num_parts_ = 0;
};

}  // namespace fastgen::bench
