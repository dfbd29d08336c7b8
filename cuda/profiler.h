// What the GPU did, for traces (base/trace.h): kernels, copies and fills through CUPTI's activity API. CUPTI is loaded at run time
// when a trace is first asked for; until then this costs nothing.
#pragma once

namespace fastgen {

// Makes the GPU traceable for the whole process; where an NVTX tool is attached (Nsight), also shows it the host's spans as ranges.
// Once or many times, from any thread.
void install_gpu_profiler();

}  // namespace fastgen
