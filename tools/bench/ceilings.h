// What this machine can do at most: the ceilings that figures are held against. Measured, or read from a file.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/json_writer.h"
#include "bench/lab.h"
#include "bench/model_shape.h"

namespace fastgen::bench {

struct Ceilings {
  double read_gb_per_s = 0;        // 1e9 bytes; the best streaming read seen
  double copy_gb_per_s = 0;        // bytes read and written
  double product_tflop_per_s = 0;  // the best product seen, random data
  std::string device;
  bool known() const { return read_gb_per_s > 0 && product_tflop_per_s > 0; }
  // The least time for `work`, memory traffic and arithmetic side by side.
  double floor_s(const Work& work) const;
  bool is_memory_bound(const Work& work) const;
};

// CPU: reads by threads of our own, with nothing but loads. GPU: the fastest of the backend's ops that move memory. Products: the
// best of several large shapes. Takes a second or two.
Ceilings measure_ceilings(const LabOptions& options);
// A file that `fgbench roofline --json` wrote. Throws Error.
Ceilings read_ceilings(const std::string& path);
void write_ceilings(JsonWriter& json, const Ceilings& ceilings);

// "41 %" of the ceiling for work that took so long; empty if no ceiling is known.
std::string percent_text(const Ceilings& ceilings, const Work& work, double seconds);

struct RooflineOptions {
  LabOptions lab;
  std::string json_path;
  std::string command;
};
CLI::App* add_roofline(CLI::App& app, RooflineOptions& options);
void run_roofline(const RooflineOptions& options);

// The flags of a lab, for roofline and op.
void add_lab_flags(CLI::App& app, LabOptions& options);

}  // namespace fastgen::bench
