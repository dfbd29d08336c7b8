#include "model/loader.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "backend/bf16.h"
#include "backend/random_weights.h"
#include "fastgen/error.h"
#include "model/tensor_specs.h"
#include "model/uploader.h"
#include "model/weight_source.h"

namespace fastgen {

namespace {

void to_f32(const Tensor& from, float* out) {
  const std::int64_t count = from.elements();
  if (from.dtype == DType::kF32) {
    std::copy(from.as<float>(), from.as<float>() + count, out);
    return;
  }
  const auto convert = from.dtype == DType::kBF16 ? bf16_to_f32 : f16_to_f32;
  const std::uint16_t* bits = from.as<std::uint16_t>();
  for (std::int64_t i = 0; i < count; ++i) out[i] = convert(bits[i]);
}

// Carries tensors from a source to the backend, one after the other.
class Loader {
 public:
  Loader(Backend& backend, WeightSource& source, const ModelConfig& config, const LoadOptions& options)
      : backend_(backend),
        source_(source),
        options_(options),
        uploader_(backend, std::max<std::int64_t>(
                               config.model_dim, std::int64_t{config.num_heads + 2 * config.num_kv_heads} * config.head_dim)),
        progress_{0, source.total_bytes()} {}

  ModelWeights load(const ModelSpecs& specs, bool tied_head) {
    report();
    ModelWeights out;
    out.embedding = matrix(WeightKind::kHead, {specs.embedding});
    for (const LayerSpecs& layer : specs.layers) out.layers.push_back(load_layer(layer));
    out.final_norm = vector({specs.final_norm});
    out.head = tied_head ? out.embedding : matrix(WeightKind::kHead, {specs.head});
    return out;
  }

 private:
  LayerWeights load_layer(const LayerSpecs& specs) {
    LayerWeights out;
    out.attention_norm = vector({specs.attention_norm});
    out.qkv = matrix(WeightKind::kQkv, specs.qkv);
    if (!specs.qkv_bias.empty()) out.qkv_bias = vector(specs.qkv_bias);
    if (!specs.qk_norm.empty()) {
      out.q_norm = vector({specs.qk_norm[0]});
      out.k_norm = vector({specs.qk_norm[1]});
    }
    out.output = matrix(WeightKind::kLinear, {specs.output});
    out.ffn_norm = vector({specs.ffn_norm});
    out.gate_up = matrix(WeightKind::kGateUp, specs.gate_up);
    out.down = matrix(WeightKind::kLinear, {specs.down});
    return out;
  }

  Weight matrix(WeightKind kind, const std::vector<TensorSpec>& parts) {
    if (options_.dummy_weights) return random_matrix(kind, parts);
    std::vector<Tensor> tensors;
    std::vector<FilePlace> places;
    for (const TensorSpec& part : parts) {
      tensors.push_back(read(part));
      places.push_back(source_.place(part));
    }
    const Weight weight = backend_.prepare_weights(kind, options_.dtype, tensors, places);
    finish();
    return weight;
  }

  // The backend makes them where they will live.
  Weight random_matrix(WeightKind kind, const std::vector<TensorSpec>& specs) {
    std::vector<RandomPart> parts;
    for (const TensorSpec& spec : specs) {
      parts.push_back({spec.shape[0], spec.shape[1], options_.dummy_seed, random_weight_stream(spec.name)});
      progress_.done_bytes += static_cast<std::uint64_t>(spec.shape[0] * spec.shape[1]) * dtype_bytes(options_.dtype);
    }
    const Weight weight = backend_.prepare_random_weights(kind, options_.dtype, parts);
    finish();
    return weight;
  }

  // The parts one after the other, in float32.
  Tensor vector(const std::vector<TensorSpec>& parts) {
    std::int64_t count = 0;
    for (const TensorSpec& part : parts) {
      to_f32(read(part), uploader_.staging() + count);
      count += part.shape[0];
    }
    const Tensor out = device_tensor(backend_, DType::kF32, {count});
    uploader_.upload(out);
    finish();
    return out;
  }

  Tensor read(const TensorSpec& spec) {
    const Tensor tensor = source_.read(spec);
    progress_.done_bytes += tensor.bytes();
    return tensor;
  }

  void finish() {
    source_.release();
    report();
  }

  void report() const {
    if (options_.on_progress) options_.on_progress(progress_);
  }

  Backend& backend_;
  WeightSource& source_;
  const LoadOptions& options_;
  Uploader uploader_;
  LoadProgress progress_;
};

// What a backend that looks only at tokens gets: the right number of layers and the dtype.
ModelWeights empty_weights(const ModelConfig& config, DType dtype) {
  ModelWeights out;
  out.embedding.kind = out.head.kind = WeightKind::kHead;
  out.embedding.dtype = out.head.dtype = dtype;
  out.layers.resize(static_cast<std::size_t>(config.num_layers));
  return out;
}

}  // namespace

ModelWeights load_weights(Backend& backend, const std::filesystem::path& folder, const ModelConfig& config,
                          const LoadOptions& options) {
  FG_CHECK(options.dtype == DType::kBF16 || options.dtype == DType::kF32, dtype_name(options.dtype));
  if (!backend.uses_weights()) return empty_weights(config, options.dtype);
  const ModelSpecs specs = tensor_specs(config);
  const std::vector<TensorSpec> wanted = all_tensors(specs, config.tied_head);
  const auto source = options.dummy_weights
                          ? make_dummy_source(wanted, options.dtype, options.dummy_seed)
                          : make_checkpoint_source(Checkpoint::open(folder), wanted, config.tied_head);
  return Loader(backend, *source, config, options).load(specs, config.tied_head);
}

DType resolve_dtype(const std::string& name, const ModelConfig& config) {
  if (name == "auto") return config.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float32") return DType::kF32;
  throw Error(fmt::format("--dtype {}: not one of auto, bfloat16, float32", name));
}

}  // namespace fastgen
