#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "fastgen/error.h"
#include "model/json_fields.h"

namespace fastgen {

namespace dom = simdjson::dom;
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::size_t kMaxRank = 16;

struct StoredType {
  std::string_view name;
  std::uint64_t bytes;
  std::optional<DType> dtype;
};
constexpr std::array<StoredType, 15> kStoredTypes = {{
    {"F32", 4, DType::kF32},
    {"BF16", 2, DType::kBF16},
    {"F16", 2, DType::kF16},
    {"F64", 8, {}},
    {"I64", 8, {}},
    {"U64", 8, {}},
    {"I32", 4, {}},
    {"U32", 4, {}},
    {"I16", 2, {}},
    {"U16", 2, {}},
    {"I8", 1, {}},
    {"U8", 1, {}},
    {"BOOL", 1, {}},
    {"F8_E4M3", 1, {}},
    {"F8_E5M2", 1, {}},
}};

const StoredType& read_type(const JsonFields& fields) {
  const std::string name = fields.text("dtype");
  const auto found = std::find_if(kStoredTypes.begin(), kStoredTypes.end(), [&](const auto& t) { return t.name == name; });
  if (found == kStoredTypes.end()) fields.fail("dtype", fmt::format("\"{}\" is unknown", name));
  return *found;
}

// Fills in the shape; returns element size times all of it.
std::uint64_t read_shape(const JsonFields& fields, std::uint64_t element_bytes, std::vector<std::int64_t>& shape) {
  dom::array dims;
  if (fields.at("shape").get(dims) != simdjson::SUCCESS) fields.fail("shape", "is not a list");
  if (dims.size() > kMaxRank) fields.fail("shape", "has too many dimensions");
  std::uint64_t bytes = element_bytes;
  for (dom::element element : dims) {
    std::int64_t dim = 0;
    if (element.get(dim) != simdjson::SUCCESS || dim < 0) fields.fail("shape", "holds something other than a size");
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dim), &bytes)) fields.fail("shape", "is too large");
    shape.push_back(dim);
  }
  return bytes;
}

struct Range {
  std::uint64_t begin = 0, end = 0;
};

Range read_offsets(const JsonFields& fields, std::uint64_t data_bytes) {
  constexpr const char* kKey = "data_offsets";
  dom::array list;
  Range range;
  if (fields.at(kKey).get(list) != simdjson::SUCCESS || list.size() != 2 ||
      list.at(0).get(range.begin) != simdjson::SUCCESS || list.at(1).get(range.end) != simdjson::SUCCESS) {
    fields.fail(kKey, "is not a pair of offsets");
  }
  if (range.begin > range.end) fields.fail(kKey, "end before they begin");
  if (range.end > data_bytes) {
    fields.fail(kKey, fmt::format("end at {}, past the {} bytes of data; is the file complete?", range.end, data_bytes));
  }
  return range;
}

StoredTensor read_tensor(const JsonFields& fields, std::string_view name, std::uint64_t data_start,
                         std::uint64_t data_bytes) {
  StoredTensor tensor;
  tensor.name = name;
  const StoredType& type = read_type(fields);
  tensor.dtype_text = type.name;
  tensor.dtype = type.dtype;
  tensor.bytes = read_shape(fields, type.bytes, tensor.shape);
  const Range range = read_offsets(fields, data_bytes);
  if (range.end - range.begin != tensor.bytes) {
    fields.fail("data_offsets", fmt::format("hold {} bytes, dtype and shape ask for {}", range.end - range.begin, tensor.bytes));
  }
  tensor.offset = data_start + range.begin;
  return tensor;
}

// The header's length, once it is known to lie in the file.
std::uint64_t read_header_bytes(std::span<const std::byte> bytes, std::uint64_t file_bytes, std::string_view name) {
  if (bytes.size() < 8 || file_bytes < 8) throw Error(fmt::format("{}: too short for a safetensors file", name));
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | std::to_integer<std::uint64_t>(bytes[static_cast<std::size_t>(i)]);
  if (header_bytes > kMaxHeaderBytes) throw Error(fmt::format("{}: header of {} bytes is over 100 MB", name, header_bytes));
  if (header_bytes > file_bytes - 8 || header_bytes > bytes.size() - 8) {
    throw Error(fmt::format("{}: header of {} bytes is longer than the file", name, header_bytes));
  }
  return header_bytes;
}

void check_tiling(const std::vector<StoredTensor>& tensors, std::uint64_t data_start, std::uint64_t file_bytes,
                  std::string_view name) {
  std::uint64_t end = data_start;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.offset != end) {
      throw Error(fmt::format("{}: tensor {} {}", name, tensor.name, tensor.offset < end ? "overlaps another" : "leaves a gap before it"));
    }
    end += tensor.bytes;
  }
  if (end != file_bytes) throw Error(fmt::format("{}: {} bytes after the last tensor", name, file_bytes - end));
}

void check_unique(const std::vector<StoredTensor>& tensors, std::string_view name) {
  std::set<std::string_view> seen;
  for (const StoredTensor& tensor : tensors) {
    if (!seen.insert(tensor.name).second) throw Error(fmt::format("{}: tensor {} appears twice", name, tensor.name));
  }
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A shard's name comes from a foreign file: it must not lead out of the folder.
bool is_file_name(std::string_view name) {
  return !name.empty() && name[0] != '.' && name.find('/') == name.npos && name.find('\0') == name.npos;
}

}  // namespace

std::vector<StoredTensor> parse_safetensors_header(std::span<const std::byte> bytes, std::uint64_t file_bytes,
                                                   std::string_view name) {
  const std::uint64_t header_bytes = read_header_bytes(bytes, file_bytes, name);
  const std::uint64_t data_start = 8 + header_bytes;
  dom::parser parser;
  const std::string where(name);
  const std::string_view text = as_text(bytes.subspan(8, header_bytes));
  const dom::object header = parse_json_object(parser, text, where);

  std::vector<StoredTensor> tensors;
  for (const auto [key, value] : header) {
    if (key == "__metadata__") continue;
    dom::object object;
    if (value.get(object) != simdjson::SUCCESS) throw Error(fmt::format("{}: tensor {} is not an object", name, key));
    tensors.push_back(read_tensor(JsonFields(object, where, fmt::format("tensor {}: ", key)), key, data_start, file_bytes - data_start));
  }
  // Empty tensors share their offset with the next one and come before it.
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  check_unique(tensors, name);
  check_tiling(tensors, data_start, file_bytes, name);
  return tensors;
}

Checkpoint Checkpoint::open(const fs::path& folder) {
  Checkpoint out;
  const fs::path single = folder / "model.safetensors", index = folder / "model.safetensors.index.json";
  if (fs::exists(single)) {
    out.path_ = single;
    out.add_file(single);
  } else if (fs::exists(index)) {
    out.path_ = index;
    out.add_shards(index);
  } else {
    throw Error(fmt::format("{}: neither model.safetensors nor model.safetensors.index.json", folder.string()));
  }
  return out;
}

std::span<const std::byte> Checkpoint::bytes(const Entry& entry) const {
  return file(entry).bytes().subspan(entry.tensor.offset, entry.tensor.bytes);
}

void Checkpoint::add_file(const fs::path& path) {
  MappedFile file(path);
  for (StoredTensor& tensor : parse_safetensors_header(file.bytes(), file.bytes().size(), path.string())) {
    std::string name = tensor.name;
    total_bytes_ += tensor.bytes;
    const auto [at, is_new] = entries_.emplace(std::move(name), Entry{std::move(tensor), files_.size()});
    if (!is_new) {
      throw Error(fmt::format("{}: tensor {} is in {} too", path.string(), at->first, this->file(at->second).path().string()));
    }
  }
  files_.push_back(std::move(file));
}

void Checkpoint::add_shards(const fs::path& index_path) {
  const MappedFile index(index_path);
  dom::parser parser;
  const JsonFields root(parse_json_object(parser, as_text(index.bytes()), index_path.string()), index_path.string());
  dom::object weight_map;
  if (root.at("weight_map").get(weight_map) != simdjson::SUCCESS) root.fail("weight_map", "is not an object");

  std::map<std::string, std::string, std::less<>> file_of;  // by tensor
  std::set<std::string> file_names;
  for (const auto [tensor, value] : weight_map) {
    std::string_view file_name;
    if (value.get(file_name) != simdjson::SUCCESS || !is_file_name(file_name)) {
      root.fail("weight_map", fmt::format("has no file name for {}", tensor));
    }
    if (!file_of.emplace(tensor, file_name).second) root.fail("weight_map", fmt::format("names {} twice", tensor));
    file_names.emplace(file_name);
  }
  for (const std::string& file_name : file_names) add_file(index_path.parent_path() / file_name);

  for (const auto& [tensor, file_name] : file_of) {
    const auto entry = entries_.find(tensor);
    if (entry == entries_.end() || file(entry->second).path().filename() != file_name) {
      throw Error(fmt::format("{}: tensor {} is missing, {} promises it", (index_path.parent_path() / file_name).string(), tensor,
                              index_path.filename().string()));
    }
  }
  for (const auto& [tensor, entry] : entries_) {
    if (!file_of.contains(tensor)) {
      throw Error(fmt::format("{}: tensor {} is not in {}", file(entry).path().string(), tensor, index_path.filename().string()));
    }
  }
}

}  // namespace fastgen
