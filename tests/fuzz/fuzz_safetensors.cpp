// Any bytes as a safetensors file: the header is refused with an Error, or its tensors tile the file. The first byte chooses how the others
// are read: as the whole file, as a header whose length and amount of data are made to fit, or as config.json.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/check.h"
#include "fastgen/error.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/tensor_specs.h"

namespace fastgen {
namespace {

std::uint64_t element_count(const StoredTensor& tensor) {
  std::uint64_t count = 1;
  for (std::int64_t dim : tensor.shape) count *= static_cast<std::uint64_t>(dim);
  return count;
}

void check_header(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  std::uint64_t header_bytes = 0;
  const std::vector<StoredTensor> tensors = parse_safetensors_header(bytes, file_bytes, "fuzz");
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  std::uint64_t end = 8 + header_bytes;
  for (const StoredTensor& tensor : tensors) {
    FG_CHECK(tensor.offset == end, tensor.offset, end);
    FG_CHECK(tensor.bytes <= file_bytes - tensor.offset, tensor.bytes, tensor.offset, file_bytes);
    if (tensor.dtype) FG_CHECK(element_count(tensor) * dtype_bytes(*tensor.dtype) == tensor.bytes, tensor.bytes);
    end += tensor.bytes;
  }
  FG_CHECK(end == file_bytes, end, file_bytes);
}

void check_fitted_header(std::string_view header, std::uint64_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes += header;
  check_header(std::as_bytes(std::span(bytes.data(), bytes.size())), bytes.size() + data_bytes);
}

void check_config(std::string_view json) {
  const ModelConfig config = parse_config(json, "", "fuzz");
  FG_CHECK(config.head_dim > 0 && config.head_dim % 2 == 0 && config.num_heads % config.num_kv_heads == 0, config.head_dim);
  FG_CHECK(config.num_parameters() > 0 && config.kv_bytes_per_token(DType::kF32) > 0, config.num_parameters());
  for (std::int32_t id : config.eos_ids) FG_CHECK(id >= 0 && id < config.vocab, id);
}

void run(std::uint8_t choice, std::string_view rest) {
  if (choice % 3 == 0) check_header(std::as_bytes(std::span(rest.data(), rest.size())), rest.size());
  if (choice % 3 == 1) check_fitted_header(rest, choice / 3);
  if (choice % 3 == 2) check_config(rest);
}

}  // namespace
}  // namespace fastgen

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  try {
    fastgen::run(data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
  } catch (const fastgen::Error&) {
  }
  return 0;
}
