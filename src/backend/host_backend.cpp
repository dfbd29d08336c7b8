#include "backend/host_backend.h"

#include <algorithm>
#include <cstring>

namespace fastgen {

namespace {

void fill_table_now(const Tensor& entries, const Tensor& starts, const Tensor& table) {
  FG_CHECK(starts.rows() <= table.rows() + 1, starts.rows(), table.rows());
  const std::int32_t *from = entries.as<std::int32_t>(), *start = starts.as<std::int32_t>();
  for (std::int64_t b = 0; b + 1 < starts.rows(); ++b) {
    FG_CHECK(start[b] >= 0 && start[b] <= start[b + 1] && start[b + 1] <= entries.rows() &&
                 start[b + 1] - start[b] <= table.row_elements(),
             b, start[b], start[b + 1], entries.rows());
    std::copy(from + start[b], from + start[b + 1], table.as<std::int32_t>() + b * table.row_elements());
  }
}

void copy_blocks_now(const KvArena& arena, const Tensor& pairs) {
  const std::size_t block_bytes = static_cast<std::size_t>(arena.layout.block_elements()) * dtype_bytes(arena.dtype);
  const std::int64_t block_size = arena.layout.block_size;
  char* data = static_cast<char*>(arena.data);
  std::int32_t* tokens = arena.token_ids.as<std::int32_t>();
  for (std::int64_t i = 0; i < pairs.rows(); ++i) {
    const std::int64_t from = pairs.as<std::int32_t>()[2 * i], to = pairs.as<std::int32_t>()[2 * i + 1];
    FG_CHECK(from >= 0 && from < arena.num_blocks && to >= 0 && to < arena.num_blocks && from != to, from, to, arena.num_blocks);
    std::memcpy(data + static_cast<std::size_t>(to) * block_bytes, data + static_cast<std::size_t>(from) * block_bytes, block_bytes);
    std::copy_n(tokens + from * block_size, block_size, tokens + to * block_size);
  }
}

}  // namespace

void HostBackend::upload(Stream stream, void* device, const void* pinned, std::size_t bytes) {
  calls_.run(stream, [=] { std::memcpy(device, pinned, bytes); });
}

void HostBackend::download(Stream stream, void* pinned, const void* device, std::size_t bytes) {
  calls_.run(stream, [=] { std::memcpy(pinned, device, bytes); });
}

void HostBackend::fill_table(Stream stream, Tensor entries, Tensor starts, Tensor table) {
  calls_.run(stream, [=] { fill_table_now(entries, starts, table); });
}

void HostBackend::copy_blocks(Stream stream, const KvArena& arena, Tensor pairs) {
  calls_.run(stream, [=] { copy_blocks_now(arena, pairs); });
}

}  // namespace fastgen
