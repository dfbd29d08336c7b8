// How gate-up of many rows is cut into units of work, and which units a cluster takes (gate_up_wgmma.cu). Plain C++17, for the host and for
// kernels.
//
// A unit is 256 rows by 128 columns of out: 128 rows for each of a cluster's two blocks. Units go rows first within a group of as many rows
// as L2 holds, so that blocks that run together read the same weights. Cluster c of C takes units c, c + C, c + 2 C, ... What is left for
// a last round that fills at most half of the clusters is cut into halves, 64 rows for each block.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fastgen::device {

struct GateUpTiles {
  static constexpr int kRows = 128, kColumns = 128;  // of a block's part of a unit
  static constexpr std::int64_t kGroupBytes = 16 << 20;  // of x: half and twice as much are slower on an H200 (no record)

  int row_pairs = 0, columns = 0;  // of units
  int group = 1;                   // row pairs that go together
  int num_whole = 0, num_split = 0;

  // rows >= 1; ffn_dim a multiple of 128; bytes of a row of x.
  GateUpTiles(int num_rows, int ffn_dim, std::int64_t row_bytes, int num_clusters)
      : row_pairs((num_rows + 2 * kRows - 1) / (2 * kRows)), columns(ffn_dim / kColumns) {
    const auto rows_together = static_cast<int>(kGroupBytes / row_bytes);
    group = rows_together < 4 * kRows ? 1 : rows_together / (2 * kRows);
    const int all = row_pairs * columns, last = all % num_clusters;
    num_split = 2 * last <= num_clusters ? last : 0;
    num_whole = all - num_split;
  }

  // Of one block.
  struct Part {
    int row, column;  // the first, of out
    int num_rows;     // kRows or half of it
  };
  __host__ __device__ int num_units() const { return num_whole + 2 * num_split; }
  __host__ __device__ Part part(int unit, int rank) const {
    const int half = unit < num_whole ? -1 : (unit - num_whole) % 2;
    const int index = half < 0 ? unit : num_whole + (unit - num_whole) / 2;
    const int first = index / (group * columns) * group, within = index - first * columns;
    const int height = group < row_pairs - first ? group : row_pairs - first;
    const int row = (first + within % height) * 2 * kRows, column = within / height * kColumns;
    if (half < 0) return {row + rank * kRows, column, kRows};
    return {row + half * kRows + rank * (kRows / 2), column, kRows / 2};
  }
};

}  // namespace fastgen::device
