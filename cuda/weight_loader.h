// Host matrices to the card: a few threads read the source, a file where there is one, into pinned buffers while the copies of what
// they read before are under way, and the card converts. Reading a file beats copying out of its mapping by a third (5.4 against 4.1
// GB/s a thread, out of the page cache), and the mapping would have to be taken down again by one thread, 14 GB in a second.
//
//   thread i:  read piece -> pinned a | read piece -> pinned b | wait for a's copy, read piece -> pinned a | ...
//   stream i:                         | copy a, convert        | copy b, convert ...
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "backend/backend.h"

namespace fastgen {

class WeightLoader {
 public:
  WeightLoader();
  ~WeightLoader();  // waits for the copies; gives threads and buffers back
  WeightLoader(const WeightLoader&) = delete;
  WeightLoader& operator=(const WeightLoader&) = delete;

  // part: host memory, f32, bf16 or f16. to: device memory for its elements in `dtype` (f32 or bf16). Returns when the source has
  // been read; what is queued on `stream` afterwards runs after the copies. Throws Error.
  void copy(const Tensor& part, const FilePlace& place, DType dtype, void* to, cudaStream_t stream);

 private:
  struct Buffer {
    void* pinned = nullptr;
    void* device = nullptr;  // what is still to be converted
    cudaEvent_t copied = nullptr;
  };
  struct Worker {
    cudaStream_t stream = nullptr;
    Buffer buffers[2];
    int next = 0;
    std::thread thread;
  };
  // What the threads work on: pieces next_piece_ .. num_pieces_ - 1 of the part.
  struct Job {
    Tensor part;
    FilePlace place;
    DType dtype = DType::kF32;
    char* to = nullptr;
    std::int64_t num_pieces = 0;
  };

  void work(Worker& worker);
  void copy_piece(Worker& worker, const Job& job, std::int64_t piece);

  std::vector<std::unique_ptr<Worker>> workers_;
  std::mutex mutex_;  // of all below
  std::condition_variable work_there_, part_read_;
  Job job_;
  std::int64_t next_piece_ = 0, num_read_ = 0;
  std::exception_ptr failure_;
  bool stopping_ = false;
};

}  // namespace fastgen
