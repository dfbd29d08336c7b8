// What fgbench offline says of its runs: the table and the JSON record.
#pragma once

#include <cstdint>
#include <fstream>
#include <optional>
#include <vector>

#include "base/step_trace.h"
#include "bench/ceilings.h"
#include "bench/figures.h"
#include "bench/offline.h"
#include "fastgen/engine.h"

namespace fastgen::bench {

// Rates at the ceilings: prefill and decode one after the other, weights read once a step, K and V once a token.
struct OfflineCeiling {
  double output_tokens_per_s = 0;
  double prefill_tokens_per_s = 0;
  double decode_tokens_per_s = 0;  // 0: nothing is decoded
};
OfflineCeiling ceiling_of(const OfflineCase& run, const EngineInfo& info, const ModelShape& shape, const Ceilings& ceilings);

struct OfflineRun {
  OfflineCase shape;
  std::int32_t repeat = 0;
  Figures figures;
  EngineStats stats;  // of the measured part
  std::optional<OfflineCeiling> ceiling;
  std::optional<StepTraceResult> trace;
};

void print_head(const OfflineOptions& options, const EngineInfo& info);
void print_run(const OfflineRun& run);
// Throws Error naming --json.
void write_record(const OfflineOptions& options, const EngineInfo& info, const Ceilings& ceilings, const std::vector<OfflineRun>& runs,
                  std::ofstream& out);

}  // namespace fastgen::bench
