#include "weight_loader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "check.h"
#include "weight_kernels.h"

namespace fastgen {

namespace {

constexpr unsigned kThreadsMax = 8;
constexpr std::int64_t kPieceElements = 2 << 20;  // 4 MB of bfloat16
constexpr std::size_t kPieceBytesMax = kPieceElements * sizeof(float);

void read_file(int descriptor, std::uint64_t offset, void* to, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t count = pread(descriptor, static_cast<char*>(to) + done, bytes - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Error(fmt::format("cannot read a file of weights: {}", std::strerror(errno)));
    if (count == 0) throw Error("a file of weights ended early: it was changed while it was read");
    done += static_cast<std::size_t>(count);
  }
}

}  // namespace

WeightLoader::WeightLoader() {
  const unsigned num_threads = std::clamp(std::thread::hardware_concurrency(), 1u, kThreadsMax);
  for (unsigned i = 0; i < num_threads; ++i) {
    Worker& worker = *workers_.emplace_back(std::make_unique<Worker>());
    cuda_check(cudaStreamCreateWithFlags(&worker.stream, cudaStreamNonBlocking), "cudaStreamCreate");
    for (Buffer& buffer : worker.buffers) {
      cuda_check(cudaHostAlloc(&buffer.pinned, kPieceBytesMax, cudaHostAllocDefault), "pinned memory for loading weights");
      cuda_check(cudaMalloc(&buffer.device, kPieceBytesMax), "GPU memory for loading weights");
      cuda_check(cudaEventCreateWithFlags(&buffer.copied, cudaEventDisableTiming), "cudaEventCreate");
    }
  }
  for (const auto& worker : workers_) worker->thread = std::thread([this, &worker = *worker] { work(worker); });
}

WeightLoader::~WeightLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_there_.notify_all();
  for (const auto& worker : workers_) {
    if (worker->thread.joinable()) worker->thread.join();
    if (worker->stream) cudaStreamSynchronize(worker->stream);
    for (Buffer& buffer : worker->buffers) {
      cudaFreeHost(buffer.pinned);
      cudaFree(buffer.device);
      if (buffer.copied) cudaEventDestroy(buffer.copied);
    }
    if (worker->stream) cudaStreamDestroy(worker->stream);
  }
}

void WeightLoader::copy(const Tensor& part, const FilePlace& place, DType dtype, void* to, cudaStream_t stream) {
  std::unique_lock lock(mutex_);
  job_ = {part, place, dtype, static_cast<char*>(to), (part.elements() + kPieceElements - 1) / kPieceElements};
  next_piece_ = num_read_ = 0;
  work_there_.notify_all();
  part_read_.wait(lock, [this] { return num_read_ == job_.num_pieces; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  for (const auto& worker : workers_)
    for (const Buffer& buffer : worker->buffers) cuda_check(cudaStreamWaitEvent(stream, buffer.copied, 0), "wait");
}

void WeightLoader::work(Worker& worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    work_there_.wait(lock, [this] { return stopping_ || next_piece_ < job_.num_pieces; });
    if (stopping_) return;
    const std::int64_t piece = next_piece_++;
    const Job job = job_;
    lock.unlock();
    std::exception_ptr failure;
    try {
      copy_piece(worker, job, piece);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure) {
      failure_ = failure;
      job_.num_pieces = next_piece_;  // nobody takes another one; those taken are waited for, as they read the source
    }
    ++num_read_;
    if (num_read_ == job_.num_pieces) part_read_.notify_one();
  }
}

void WeightLoader::copy_piece(Worker& worker, const Job& job, std::int64_t piece) {
  Buffer& buffer = worker.buffers[std::exchange(worker.next, 1 - worker.next)];
  cuda_check(cudaEventSynchronize(buffer.copied), "copy of weights");  // passed at once if it was never recorded
  const std::int64_t first = piece * kPieceElements, n = std::min(kPieceElements, job.part.elements() - first);
  const std::size_t bytes = static_cast<std::size_t>(n) * dtype_bytes(job.part.dtype);
  const char* from = static_cast<const char*>(job.part.data) + static_cast<std::size_t>(first) * dtype_bytes(job.part.dtype);
  char* to = job.to + static_cast<std::size_t>(first) * dtype_bytes(job.dtype);
  if (job.place.descriptor >= 0) {
    read_file(job.place.descriptor, job.place.offset + static_cast<std::size_t>(first) * dtype_bytes(job.part.dtype), buffer.pinned, bytes);
  } else {
    std::memcpy(buffer.pinned, from, bytes);
  }
  const bool converts = job.part.dtype != job.dtype;
  cuda_check(cudaMemcpyAsync(converts ? buffer.device : to, buffer.pinned, bytes, cudaMemcpyHostToDevice, worker.stream),
             "copy of weights");
  if (converts) {
    device::convert(buffer.device, job.part.dtype, to, job.dtype, n, worker.stream);
    check_launch("conversion of weights");
  }
  cuda_check(cudaEventRecord(buffer.copied, worker.stream), "record");
}

}  // namespace fastgen
