#include "model/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "backend/bf16.h"
#include "model/tensor_specs.h"

namespace fastgen::test {

namespace fs = std::filesystem;

ModelConfig tiny_config() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.num_layers = 2;
  config.model_dim = 48;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.ffn_dim = 80;
  config.vocab = 97;
  config.max_positions = 256;
  config.rope.theta = 1000;
  return config;
}

// Sigmas are large, so that attention is sharp and a wrong position or head shows.
TinyModel make_tiny_model(const ModelConfig& config, std::uint64_t seed) {
  TinyModel model{config, {}};
  std::mt19937_64 random(seed);
  for (const TensorSpec& spec : all_tensors(tensor_specs(config), config.tied_head)) {
    TinyTensor tensor{spec.shape, {}};
    std::int64_t count = 1;
    for (std::int64_t dim : spec.shape) count *= dim;
    const double sigma = spec.is_norm() ? 0.2 : spec.shape.size() == 1 ? 0.5 : 1.5 / std::sqrt(static_cast<double>(spec.shape.back()));
    std::normal_distribution<double> normal(spec.is_norm() ? 1 : 0, sigma);
    for (std::int64_t i = 0; i < count; ++i) {
      tensor.values.push_back(bf16_to_f32(f32_to_bf16(static_cast<float>(normal(random)))));
    }
    model.tensors[spec.name] = tensor;
  }
  return model;
}

std::string config_json(const ModelConfig& config) {
  std::string rope = "null";
  if (config.rope.scaling == RopeScaling::kYarn) {
    rope = fmt::format(R"({{"rope_type": "yarn", "factor": {}, "original_max_position_embeddings": {}}})", config.rope.factor,
                       static_cast<int>(config.rope.original_max_positions));
  }
  if (config.rope.scaling == RopeScaling::kLinear) rope = fmt::format(R"({{"type": "linear", "factor": {}}})", config.rope.factor);
  if (config.rope.scaling == RopeScaling::kLlama3) {
    rope = fmt::format(R"({{"rope_type": "llama3", "factor": {}, "low_freq_factor": {}, "high_freq_factor": {}, )"
                       R"("original_max_position_embeddings": {}}})",
                       config.rope.factor, config.rope.low_freq_factor, config.rope.high_freq_factor,
                       static_cast<int>(config.rope.original_max_positions));
  }
  std::string layer_types;
  for (bool windowed : config.windowed) {
    layer_types += fmt::format("{}\"{}\"", layer_types.empty() ? "" : ", ", windowed ? "sliding_attention" : "full_attention");
  }
  if (!layer_types.empty()) layer_types = fmt::format(R"(, "layer_types": [{}])", layer_types);
  return fmt::format(
      R"({{"architectures": ["{}"], "num_hidden_layers": {}, "hidden_size": {}, "num_attention_heads": {}, )"
      R"("num_key_value_heads": {}, "head_dim": {}, "intermediate_size": {}, "vocab_size": {}, "max_position_embeddings": {}, )"
      R"("rms_norm_eps": 1e-05, "tie_word_embeddings": {}, "rope_theta": {}, "rope_scaling": {}, "torch_dtype": "bfloat16", )"
      R"("bos_token_id": 1, "eos_token_id": 2, "sliding_window": {}{}}})",
      config.architecture, config.num_layers, config.model_dim, config.num_heads, config.num_kv_heads, config.head_dim, config.ffn_dim,
      config.vocab, config.max_positions, config.tied_head, config.rope.theta, rope,
      config.window > 0 ? std::to_string(config.window) : "null", layer_types);
}

namespace {

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Values here are small enough for float16's normal range or become zero; exactness is the caller's concern.
std::uint16_t to_f16(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  return std::bit_cast<std::uint16_t>(half);
}

std::string stored(const TinyTensor& tensor, const std::string& dtype) {
  std::string out;
  for (float value : tensor.values) {
    if (dtype == "F32") append(out, value);
    if (dtype == "BF16") append(out, f32_to_bf16(value));
    if (dtype == "F16") append(out, to_f16(value));
  }
  return out;
}

}  // namespace

std::string safetensors_bytes(const std::string& header, const std::string& data) {
  std::string out;
  append(out, std::uint64_t{header.size()});
  return out + header + data;
}

void write_tiny_model(const TinyModel& model, const fs::path& folder, const std::string& dtype, int num_files) {
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << config_json(model.config);
  const auto count = static_cast<std::size_t>(num_files);
  std::vector<std::string> headers(count, R"({"__metadata__": {"format": "pt"})"), data(count);
  std::string map;
  std::size_t next = 0;
  for (const auto& [name, tensor] : model.tensors) {
    const std::size_t file = next++ % count;
    const std::size_t begin = data[file].size();
    data[file] += stored(tensor, dtype);
    headers[file] += fmt::format(R"(, "{}": {{"dtype": "{}", "shape": [{}], "data_offsets": [{}, {}]}})", name, dtype,
                                 fmt::join(tensor.shape, ", "), begin, data[file].size());
    map += fmt::format(R"({}"{}": "shard-{}.safetensors")", map.empty() ? "" : ", ", name, file);
  }
  for (std::size_t file = 0; file < count; ++file) {
    const std::string name = num_files == 1 ? "model.safetensors" : fmt::format("shard-{}.safetensors", file);
    std::ofstream(folder / name, std::ios::binary) << safetensors_bytes(headers[file] + "}", data[file]);
  }
  if (num_files > 1) {
    std::ofstream(folder / "model.safetensors.index.json") << R"({"metadata": {}, "weight_map": {)" << map << "}}";
  }
}

namespace {

using Vector = std::vector<double>;

class Reference {
 public:
  explicit Reference(const TinyModel& model) : model_(model), config_(model.config) {}

  std::vector<Vector> logprobs(const std::vector<std::int32_t>& ids) const {
    std::vector<Vector> x;
    for (std::int32_t id : ids) x.push_back(row("model.embed_tokens.weight", id));
    for (int l = 0; l < config_.num_layers; ++l) layer(l, fmt::format("model.layers.{}.", l), x);
    std::vector<Vector> out;
    for (const Vector& v : x) {
      out.push_back(log_softmax(product(config_.tied_head ? "model.embed_tokens.weight" : "lm_head.weight", rms(v, "model.norm.weight"))));
    }
    return out;
  }

 private:
  void layer(int layer_idx, const std::string& prefix, std::vector<Vector>& x) const {
    std::vector<Vector> q, k, v;
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Vector normed = rms(x[t], prefix + "input_layernorm.weight");
      q.push_back(rotate(head_norm(biased(product(prefix + "self_attn.q_proj.weight", normed), prefix + "self_attn.q_proj.bias"), prefix + "self_attn.q_norm.weight"), t));
      k.push_back(rotate(head_norm(biased(product(prefix + "self_attn.k_proj.weight", normed), prefix + "self_attn.k_proj.bias"), prefix + "self_attn.k_norm.weight"), t));
      v.push_back(biased(product(prefix + "self_attn.v_proj.weight", normed), prefix + "self_attn.v_proj.bias"));
    }
    for (std::size_t t = 0; t < x.size(); ++t) {
      add(x[t], product(prefix + "self_attn.o_proj.weight", attend(q[t], k, v, t, config_.layer_window(layer_idx))));
      const Vector normed = rms(x[t], prefix + "post_attention_layernorm.weight");
      Vector gate = product(prefix + "mlp.gate_proj.weight", normed);
      const Vector up = product(prefix + "mlp.up_proj.weight", normed);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      add(x[t], product(prefix + "mlp.down_proj.weight", gate));
    }
  }

  Vector attend(const Vector& q, const std::vector<Vector>& k, const std::vector<Vector>& v, std::size_t t, std::int32_t window) const {
    const auto d = static_cast<std::size_t>(config_.head_dim);
    Vector out(q.size());
    for (std::size_t h = 0; h < static_cast<std::size_t>(config_.num_heads); ++h) {
      const std::size_t kv = h / static_cast<std::size_t>(config_.num_heads / config_.num_kv_heads);
      const auto width = static_cast<std::size_t>(window);
      const std::size_t first = window > 0 && t + 1 > width ? t + 1 - width : 0;
      Vector weights;
      double sum = 0;
      for (std::size_t s = first; s <= t; ++s) {
        double score = 0;
        for (std::size_t i = 0; i < d; ++i) score += q[h * d + i] * k[s][kv * d + i];
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
        sum += weights.back();
      }
      for (std::size_t s = first; s <= t; ++s) {
        for (std::size_t i = 0; i < d; ++i) out[h * d + i] += weights[s - first] / sum * v[s][kv * d + i];
      }
    }
    return out;
  }

  // The complex number (x[i], x[i + D/2]) of each head turns by position * frequency.
  Vector rotate(Vector x, std::size_t position) const {
    const auto d = static_cast<std::size_t>(config_.head_dim);
    for (std::size_t head = 0; head < x.size(); head += d) {
      for (std::size_t i = 0; i < d / 2; ++i) {
        const double angle = static_cast<double>(position) * frequency(i);
        const double a = x[head + i], b = x[head + i + d / 2];
        x[head + i] = a * std::cos(angle) - b * std::sin(angle);
        x[head + i + d / 2] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
    return x;
  }

  Vector head_norm(Vector x, const std::string& name) const {
    if (!config_.qk_norm) return x;
    const auto d = static_cast<std::ptrdiff_t>(config_.head_dim);
    for (auto head = x.begin(); head != x.end(); head += d) {
      const Vector normed = rms(Vector(head, head + d), name);
      std::copy(normed.begin(), normed.end(), head);
    }
    return x;
  }

  // Llama 3.1's scaling written over wavelengths, as its authors published it; the product's own is over turns.
  double frequency(std::size_t i) const {
    const RopeConfig& rope = config_.rope;
    const double plain = 1 / std::pow(rope.theta, 2 * static_cast<double>(i) / config_.head_dim);
    if (rope.scaling == RopeScaling::kNone) return plain;
    if (rope.scaling == RopeScaling::kLinear) return plain / rope.factor;
    const double wavelength = 2 * M_PI / plain;
    const double longest = rope.original_max_positions / rope.low_freq_factor;
    const double shortest = rope.original_max_positions / rope.high_freq_factor;
    if (wavelength < shortest) return plain;
    if (wavelength > longest) return plain / rope.factor;
    const double smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    return (1 - smooth) * plain / rope.factor + smooth * plain;
  }

  const TinyTensor& tensor(const std::string& name) const { return model_.tensors.at(name); }

  Vector row(const std::string& name, std::int64_t r) const {
    const TinyTensor& matrix = tensor(name);
    const auto start = matrix.values.begin() + r * matrix.shape[1];
    return {start, start + matrix.shape[1]};
  }

  Vector product(const std::string& name, const Vector& x) const {
    Vector out;
    for (std::int64_t r = 0; r < tensor(name).shape[0]; ++r) {
      const Vector w = row(name, r);
      double sum = 0;
      for (std::size_t i = 0; i < x.size(); ++i) sum += w[i] * x[i];
      out.push_back(sum);
    }
    return out;
  }

  Vector biased(Vector x, const std::string& name) const {
    if (!config_.qkv_bias) return x;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += tensor(name).values[i];
    return x;
  }

  Vector rms(const Vector& x, const std::string& name) const {
    double sum = 0;
    for (double value : x) sum += value * value;
    const double scale = 1 / std::sqrt(sum / static_cast<double>(x.size()) + config_.norm_eps);
    Vector out;
    for (std::size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * scale * tensor(name).values[i]);
    return out;
  }

  static void add(Vector& x, const Vector& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  static Vector log_softmax(Vector x) {
    const double largest = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double value : x) sum += std::exp(value - largest);
    for (double& value : x) value -= largest + std::log(sum);
    return x;
  }

  const TinyModel& model_;
  const ModelConfig& config_;
};

}  // namespace

std::vector<std::vector<double>> reference_logprobs(const TinyModel& model, const std::vector<std::int32_t>& ids) {
  return Reference(model).logprobs(ids);
}

std::vector<std::int32_t> random_ids(std::size_t count, std::int32_t vocab, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int32_t> out(count);
  for (std::int32_t& id : out) id = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocab));
  return out;
}

}  // namespace fastgen::test
