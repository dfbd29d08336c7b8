#include "backend/cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>

#include "backend/bf16.h"
#include "base/check.h"

namespace fastgen {

namespace {

std::int64_t round_up(std::int64_t value, std::int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

struct SourceRow {
  const void* data = nullptr;  // null: padding
  DType dtype = DType::kF32;
};

SourceRow tensor_row(const Tensor& part, std::int64_t row) {
  return {static_cast<const char*>(part.data) + static_cast<std::size_t>(row * part.row_elements()) * dtype_bytes(part.dtype),
          part.dtype};
}

// Which row of which part lies in packed column `col`.
SourceRow source_row(const PackedMatrix& matrix, std::span<const Tensor> parts, std::int64_t col) {
  if (matrix.kind == WeightKind::kGateUp) {
    const std::int64_t unit = col / kUnit;
    const std::int64_t row = unit / 2 * kUnit + col % kUnit;
    const Tensor& part = parts[static_cast<std::size_t>(unit % 2)];
    return row < part.rows() ? tensor_row(part, row) : SourceRow{};
  }
  for (const Tensor& part : parts) {
    if (col < part.rows()) return tensor_row(part, col);
    col -= part.rows();
  }
  return {};
}

float element(const SourceRow& row, std::int64_t k) {
  if (row.dtype == DType::kF32) return static_cast<const float*>(row.data)[k];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(row.data)[k];
  return row.dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

// One column's 16 values of k from `begin`, in the packed dtype.
template <typename T>
void read_run(const SourceRow& row, std::int64_t begin, std::int64_t in_dim, T (&out)[kUnit]) {
  const std::int64_t count = std::clamp<std::int64_t>(in_dim - begin, 0, kUnit);
  for (std::int64_t i = 0; i < kUnit; ++i) out[i] = 0;
  if (!row.data) return;
  if constexpr (sizeof(T) == 2) {
    if (row.dtype == DType::kBF16) {
      std::memcpy(out, static_cast<const std::uint16_t*>(row.data) + begin, static_cast<std::size_t>(count) * 2);
      return;
    }
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = element(row, begin + i);
    if constexpr (sizeof(T) == 2) {
      out[i] = f32_to_bf16(value);
    } else {
      out[i] = value;
    }
  }
}

// bf16 to bf16, whole runs: pairs of k move as one number.
void pack_pairs(const SourceRow (&rows)[kPanel], std::int64_t begin, std::uint16_t* out) {
  for (std::int64_t c = 0; c < kPanel; ++c) {
    std::uint32_t pairs[kUnit / 2];
    std::memcpy(pairs, static_cast<const std::uint16_t*>(rows[c].data) + begin, sizeof(pairs));
    for (std::int64_t i = 0; i < kUnit / 2; ++i) std::memcpy(out + (i * kPanel + c) * 2, &pairs[i], 4);
  }
}

// Runs of 16 k for 64 columns at a time: reads and writes both stay within few cache lines.
template <typename T>
void pack_panel(std::span<const Tensor> parts, const PackedMatrix& matrix, std::int64_t panel) {
  constexpr std::int64_t kGroup = sizeof(T) == 2 ? 2 : 1;  // consecutive k side by side
  SourceRow rows[kPanel];
  bool plain = sizeof(T) == 2;  // no padding and nothing to convert
  for (std::int64_t c = 0; c < kPanel; ++c) {
    rows[c] = source_row(matrix, parts, panel * kPanel + c);
    plain = plain && rows[c].data && rows[c].dtype == DType::kBF16;
  }
  T* out = static_cast<T*>(matrix.data) + panel * kPanel * matrix.padded_in;
  for (std::int64_t k = 0; k < matrix.padded_in; k += kUnit, out += kUnit * kPanel) {
    if constexpr (sizeof(T) == 2) {
      if (plain && k + kUnit <= matrix.in_dim) {
        pack_pairs(rows, k, out);
        continue;
      }
    }
    for (std::int64_t c = 0; c < kPanel; ++c) {
      T run[kUnit];
      read_run(rows[c], k, matrix.in_dim, run);
      for (std::int64_t i = 0; i < kUnit; ++i) out[i / kGroup * kGroup * kPanel + c * kGroup + i % kGroup] = run[i];
    }
  }
}

}  // namespace

PackedMatrix packed_shape(WeightKind kind, DType dtype, std::span<const Tensor> parts) {
  FG_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, dtype_name(dtype));
  const std::size_t num_parts = kind == WeightKind::kQkv ? 3 : kind == WeightKind::kGateUp ? 2 : 1;
  FG_CHECK(parts.size() == num_parts, parts.size(), num_parts);
  PackedMatrix matrix;
  matrix.kind = kind;
  matrix.dtype = dtype;
  matrix.in_dim = parts[0].row_elements();
  for (const Tensor& part : parts) {
    FG_CHECK(part.row_elements() == matrix.in_dim, part.row_elements(), matrix.in_dim);
    FG_CHECK(part.dtype == DType::kF32 || dtype_bytes(part.dtype) == 2, dtype_name(part.dtype));
    matrix.out_dim += part.rows();
  }
  if (kind == WeightKind::kGateUp) FG_CHECK(parts[0].rows() == parts[1].rows(), parts[0].rows(), parts[1].rows());
  // Each half of a gate|up pair is padded to whole units.
  const std::int64_t columns =
      kind == WeightKind::kGateUp ? 2 * round_up(parts[0].rows(), kUnit) : matrix.out_dim;
  matrix.padded_in = round_up(matrix.in_dim, 2 * kUnit);
  matrix.num_units = round_up(columns, kPanel) / kUnit;
  return matrix;
}

void pack(ThreadPool& pool, std::span<const Tensor> parts, const PackedMatrix& matrix) {
  pool.parallel_for(matrix.num_units / kPanelUnits, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      if (matrix.dtype == DType::kBF16) {
        pack_panel<std::uint16_t>(parts, matrix, panel);
      } else {
        pack_panel<float>(parts, matrix, panel);
      }
    }
  });
}

void unpack_row(const PackedMatrix& matrix, std::int64_t row, float* out) {
  FG_CHECK(row >= 0 && row < matrix.out_dim, row, matrix.out_dim);
  if (matrix.dtype == DType::kF32) {
    const float* data = static_cast<const float*>(matrix.data) + matrix.offset(row, 0);
    for (std::int64_t k = 0; k < matrix.in_dim; ++k) out[k] = data[k * kPanel];
    return;
  }
  const std::uint16_t* data = static_cast<const std::uint16_t*>(matrix.data) + matrix.offset(row, 0);
  for (std::int64_t k = 0; k < matrix.in_dim; ++k) out[k] = bf16_to_f32(data[k / 2 * 2 * kPanel + k % 2]);
}

}  // namespace fastgen
