#include "profiler.h"

#include <cuda_runtime_api.h>
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/trace.h"
#include "check.h"

namespace fastgen {

namespace {

constexpr std::size_t kBufferBytes = 8 << 20;
constexpr std::size_t kBufferAlign = 8;  // ACTIVITY_RECORD_ALIGNMENT
constexpr std::size_t kNameBytesMax = 160;
constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET};

// The loader's own search first, then where toolkits put it.
constexpr const char* kLibraries[] = {"libcupti.so.13", "/usr/local/cuda/lib64/libcupti.so.13",
                                      "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13"};

// The functions in use, each with its own type.
struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush_all = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
  decltype(&cuptiActivityGetNumDroppedRecords) num_dropped = nullptr;
  decltype(&cuptiGetTimestamp) timestamp = nullptr;
  decltype(&cuptiGetResultString) result_string = nullptr;
};

template <typename Function>
bool find(void* library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// Null, and a line in the log, if CUPTI is not there. The library stays for the life of the process.
const Cupti* load_cupti() {
  void* library = nullptr;
  for (const char* name : kLibraries)
    if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    log_warn("the trace will not show the GPU: {} cannot be loaded", kLibraries[0]);
    return nullptr;
  }
  static Cupti cupti;
  const bool whole = find(library, cupti.register_callbacks, "cuptiActivityRegisterCallbacks") &&
                     find(library, cupti.enable, "cuptiActivityEnable") && find(library, cupti.disable, "cuptiActivityDisable") &&
                     find(library, cupti.flush_all, "cuptiActivityFlushAll") &&
                     find(library, cupti.next_record, "cuptiActivityGetNextRecord") &&
                     find(library, cupti.num_dropped, "cuptiActivityGetNumDroppedRecords") &&
                     find(library, cupti.timestamp, "cuptiGetTimestamp") && find(library, cupti.result_string, "cuptiGetResultString");
  if (!whole) log_warn("the trace will not show the GPU: {} lacks a function", kLibraries[0]);
  return whole ? &cupti : nullptr;
}

// A moment on both clocks.
struct ClockPair {
  std::uint64_t host_ns = 0, device_ns = 0;
};

// The tightest of several readings, so that an interrupt between the two does not count.
ClockPair read_clocks(const Cupti& cupti) {
  ClockPair best;
  std::uint64_t best_gap = ~std::uint64_t{0};
  for (int i = 0; i < 20; ++i) {
    std::uint64_t device = 0;
    const std::uint64_t before = now_ns();
    cupti.timestamp(&device);
    const std::uint64_t after = now_ns();
    if (after - before < best_gap) best_gap = after - before, best = {before + (after - before) / 2, device};
  }
  return best;
}

// From CUPTI's clock to now_ns(): the line through two moments, since the clocks drift.
class ClockMap {
 public:
  ClockMap(ClockPair first, ClockPair last) : first_(first) {
    const double device = static_cast<double>(last.device_ns) - static_cast<double>(first.device_ns);
    if (device > 0) rate_ = static_cast<double>(last.host_ns - first.host_ns) / device;
  }
  std::uint64_t operator()(std::uint64_t device_ns) const {
    const double since = static_cast<double>(static_cast<std::int64_t>(device_ns - first_.device_ns));
    return first_.host_ns + static_cast<std::uint64_t>(static_cast<std::int64_t>(since * rate_));
  }

 private:
  ClockPair first_;
  double rate_ = 1;
};

std::string readable(const char* mangled) {
  if (mangled == nullptr) return "kernel";
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 && text != nullptr ? text : mangled;
  std::free(text);
  if (name.starts_with("void ")) name.erase(0, 5);
  if (name.size() > kNameBytesMax) name.resize(kNameBytesMax);
  return name;
}

const char* copy_name(std::uint8_t kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD: return "copy host to device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH: return "copy device to host";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD: return "copy within the device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_PTOP: return "copy between devices";
    default: return "copy";
  }
}

DeviceSpan span_of(const CUpti_ActivityKernel10& kernel) {
  return {DeviceSpan::Kind::kKernel, readable(kernel.name), kernel.start, kernel.end, kernel.streamId, 0, kernel.graphId};
}
DeviceSpan span_of(const CUpti_ActivityMemcpy6& copy) {
  return {DeviceSpan::Kind::kCopy, copy_name(copy.copyKind), copy.start, copy.end, copy.streamId, copy.bytes, copy.graphId};
}
DeviceSpan span_of(const CUpti_ActivityMemset4& fill) {
  return {DeviceSpan::Kind::kFill, "fill", fill.start, fill.end, fill.streamId, fill.bytes, fill.graphId};
}

// CUPTI hands buffers back on a thread of its own, hence the mutex.
class CuptiTracer final : public DeviceTracer {
 public:
  bool start() override {
    if (!is_loaded_) cupti_ = load_cupti();
    is_loaded_ = true;
    if (cupti_ == nullptr) return false;
    if (!is_registered_ && !check(cupti_->register_callbacks(give_buffer, take_buffer), "register")) return false;
    is_registered_ = true;
    {
      const std::lock_guard lock(mutex_);
      spans_.clear();
    }
    for (CUpti_ActivityKind kind : kKinds) {
      if (check(cupti_->enable(kind), "enable")) continue;
      disable();
      return false;
    }
    first_ = read_clocks(*cupti_);
    return true;
  }

  std::vector<DeviceSpan> stop() override {
    // A buffer comes back only when all that it records has ended; what is in flight ends within a step.
    const cudaError_t status = cudaDeviceSynchronize();
    const ClockMap map(first_, read_clocks(*cupti_));
    disable();
    check(cupti_->flush_all(0), "flush");
    if (status != cudaSuccess) log_warn("the GPU failed while it was traced: {}", cudaGetErrorString(status));
    const std::lock_guard lock(mutex_);
    for (DeviceSpan& span : spans_) span.start_ns = map(span.start_ns), span.end_ns = map(span.end_ns);
    if (num_dropped_ > 0) log_warn("CUPTI dropped {} records: the trace has gaps", std::exchange(num_dropped_, 0));
    return std::exchange(spans_, {});
  }

 private:
  bool check(CUptiResult result, const char* what) const {
    if (result == CUPTI_SUCCESS) return true;
    const char* text = nullptr;
    cupti_->result_string(result, &text);
    log_warn("the trace will not show the GPU: CUPTI, {}: {}", what, text ? text : "unknown error");
    return false;
  }
  void disable() const {
    for (CUpti_ActivityKind kind : kKinds) cupti_->disable(kind);
  }

  static void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* max_records) {
    *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(kBufferAlign, kBufferBytes));
    *size = *buffer ? kBufferBytes : 0;  // without one CUPTI drops records and counts them
    *max_records = 0;
  }
  static void CUPTIAPI take_buffer(CUcontext context, std::uint32_t stream, std::uint8_t* buffer, std::size_t, std::size_t used);

  void add(const CUpti_Activity& record) {
    if (record.kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL || record.kind == CUPTI_ACTIVITY_KIND_KERNEL)
      spans_.push_back(span_of(reinterpret_cast<const CUpti_ActivityKernel10&>(record)));
    if (record.kind == CUPTI_ACTIVITY_KIND_MEMCPY) spans_.push_back(span_of(reinterpret_cast<const CUpti_ActivityMemcpy6&>(record)));
    if (record.kind == CUPTI_ACTIVITY_KIND_MEMSET) spans_.push_back(span_of(reinterpret_cast<const CUpti_ActivityMemset4&>(record)));
    // A start of 0 means that CUPTI could not take the time.
    if (!spans_.empty() && (spans_.back().start_ns == 0 || spans_.back().end_ns < spans_.back().start_ns)) spans_.pop_back();
  }

  const Cupti* cupti_ = nullptr;
  bool is_loaded_ = false, is_registered_ = false;
  ClockPair first_;
  std::mutex mutex_;
  std::vector<DeviceSpan> spans_;  // guarded by mutex_, on CUPTI's clock until stop()
  std::size_t num_dropped_ = 0;    // guarded by mutex_
};

CuptiTracer& tracer() {
  static CuptiTracer& instance = *new CuptiTracer;  // never destroyed: CUPTI's thread may outlive main
  return instance;
}

void CuptiTracer::take_buffer(CUcontext context, std::uint32_t stream, std::uint8_t* buffer, std::size_t, std::size_t used) {
  CuptiTracer& self = tracer();
  {
    const std::lock_guard lock(self.mutex_);
    CUpti_Activity* record = nullptr;
    while (used > 0 && self.cupti_->next_record(buffer, used, &record) == CUPTI_SUCCESS) self.add(*record);
    std::size_t dropped = 0;
    if (self.cupti_->num_dropped(context, stream, &dropped) == CUPTI_SUCCESS) self.num_dropped_ += dropped;
  }
  std::free(buffer);
}

constexpr RangeHooks kNvtxRanges = {.begin = [](const char* name) { nvtxRangePushA(name); }, .end = [] { nvtxRangePop(); }};

}  // namespace

void install_gpu_profiler() {
  set_device_tracer(&tracer());
  // Tools that listen name their library here before the program starts.
  if (std::getenv("NVTX_INJECTION64_PATH") != nullptr) set_range_hooks(&kNvtxRanges);
}

}  // namespace fastgen
