#include "model/weight_source.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "fastgen/error.h"

namespace fastgen {

namespace {

class CheckpointSource : public WeightSource {
 public:
  CheckpointSource(Checkpoint checkpoint, const std::vector<TensorSpec>& wanted) : checkpoint_(std::move(checkpoint)) {
    for (const TensorSpec& spec : wanted) total_bytes_ += entry(spec).tensor.bytes;
  }

  std::uint64_t total_bytes() const override { return total_bytes_; }

  Tensor read(const TensorSpec& spec) override {
    const Checkpoint::Entry& found = entry(spec);
    const std::span<const std::byte> bytes = checkpoint_.bytes(found);
    in_use_.push_back(&found);
    Tensor out(aligned(bytes, dtype_bytes(*found.tensor.dtype)), *found.tensor.dtype, {});
    out.rank = static_cast<std::int32_t>(spec.shape.size());
    std::copy(spec.shape.begin(), spec.shape.end(), out.shape.begin());
    return out;
  }

  FilePlace place(const TensorSpec& spec) override {
    const Checkpoint::Entry& found = entry(spec);
    return {checkpoint_.file(found).descriptor(), found.tensor.offset};
  }

  // The pages go, so that a model needs its memory once while it is packed and not twice.
  void release() override {
    for (const Checkpoint::Entry* used : in_use_) {
      checkpoint_.file(*used).done_with(used->tensor.offset, used->tensor.bytes);
    }
    in_use_.clear();
    copies_.clear();
  }

 private:
  const Checkpoint::Entry& entry(const TensorSpec& spec) const { return checkpoint_.entries().find(spec.name)->second; }

  // A file whose header is not padded may hold its numbers at odd addresses; those are copied. The backend does not
  // write to what it is given, so that the const can go.
  void* aligned(std::span<const std::byte> bytes, std::size_t alignment) {
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignment == 0) return const_cast<std::byte*>(bytes.data());
    copies_.push_back(std::make_unique<std::byte[]>(bytes.size()));
    std::memcpy(copies_.back().get(), bytes.data(), bytes.size());
    return copies_.back().get();
  }

  Checkpoint checkpoint_;
  std::uint64_t total_bytes_ = 0;
  std::vector<const Checkpoint::Entry*> in_use_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;
};

void check_tensor(const Checkpoint& checkpoint, const TensorSpec& spec) {
  const auto found = checkpoint.entries().find(spec.name);
  if (found == checkpoint.entries().end()) {
    throw Error(fmt::format("{}: tensor {} is missing", checkpoint.path().string(), spec.name));
  }
  const StoredTensor& tensor = found->second.tensor;
  const std::string file = checkpoint.file(found->second).path().string();
  if (tensor.shape != spec.shape) {
    throw Error(fmt::format("{}: tensor {} has shape {}, config.json makes it {}", file, spec.name, tensor.shape, spec.shape));
  }
  if (!tensor.dtype) {
    throw Error(fmt::format("{}: tensor {} has dtype {}, which is not supported", file, spec.name, tensor.dtype_text));
  }
}

void check_no_other(const Checkpoint& checkpoint, const std::vector<TensorSpec>& wanted, bool tied_head) {
  std::set<std::string_view> names;
  for (const TensorSpec& spec : wanted) names.insert(spec.name);
  for (const auto& [name, entry] : checkpoint.entries()) {
    if (names.contains(name) || is_redundant(name, tied_head)) continue;
    throw Error(fmt::format("{}: tensor {} is not one of this model's", checkpoint.file(entry).path().string(), name));
  }
}

}  // namespace

std::unique_ptr<WeightSource> make_checkpoint_source(Checkpoint checkpoint, const std::vector<TensorSpec>& wanted,
                                                     bool tied_head) {
  for (const TensorSpec& spec : wanted) check_tensor(checkpoint, spec);
  check_no_other(checkpoint, wanted, tied_head);
  return std::make_unique<CheckpointSource>(std::move(checkpoint), wanted);
}

}  // namespace fastgen
