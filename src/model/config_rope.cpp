#include "model/config_rope.h"

#include <cmath>
#include <string>

#include <fmt/format.h>

#include "model/config_keys.h"

namespace fastgen {

namespace {

constexpr double kMinTheta = 1, kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;
constexpr std::int64_t kMaxPositions = 1 << 28;

// Where the file does not say at which context the model was trained, transformers takes max_position_embeddings.
double original_positions(const JsonFields& fields, std::int32_t max_positions) {
  return static_cast<double>(fields.integer_or("original_max_position_embeddings", max_positions, 1, kMaxPositions));
}

void read_llama3(const JsonFields& fields, std::int32_t max_positions, RopeConfig& rope) {
  rope.low_freq_factor = fields.number("low_freq_factor", 1e-6, kMaxFactor);
  rope.high_freq_factor = fields.number("high_freq_factor", 1e-6, kMaxFactor);
  if (rope.high_freq_factor <= rope.low_freq_factor) fields.fail("high_freq_factor", "is not above low_freq_factor");
  rope.original_max_positions = original_positions(fields, max_positions);
}

double yarn_scale(double factor, double scale) { return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1; }

// The paper's temperature of the softmax, as a factor of cosines and sines; DeepSeek's configs give it as a quotient.
double yarn_attention_factor(const JsonFields& fields, double factor) {
  if (fields.has("attention_factor")) return fields.number("attention_factor", 1e-6, kMaxFactor);
  const double mscale = fields.number_or("mscale", 0, 0, kMaxFactor), all_dim = fields.number_or("mscale_all_dim", 0, 0, kMaxFactor);
  return mscale > 0 && all_dim > 0 ? yarn_scale(factor, mscale) / yarn_scale(factor, all_dim) : yarn_scale(factor, 1);
}

void read_yarn(const JsonFields& fields, std::int32_t max_positions, RopeConfig& rope) {
  rope.original_max_positions = original_positions(fields, max_positions);
  rope.beta_fast = fields.number_or("beta_fast", 32, 1e-6, kMaxFactor);
  rope.beta_slow = fields.number_or("beta_slow", 1, 1e-6, kMaxFactor);
  if (rope.beta_fast < rope.beta_slow) fields.fail("beta_fast", "is below beta_slow");
  rope.truncate = fields.boolean_or("truncate", true);
  rope.attention_factor = yarn_attention_factor(fields, rope.factor);
  if (rope.theta <= 1) fields.fail("rope_theta", "must be above 1 with yarn");
}

// Keys that belong to other models' RoPE and would change results here.
void refuse_foreign(const JsonFields& fields) {
  for (const char* key : {"full_attention", "sliding_attention", "long_factor", "short_factor", "llama_4_scaling_beta", "mrope_section"}) {
    if (fields.has(key)) fields.fail(key, "is not supported");
  }
  if (fields.number_or("partial_rotary_factor", 1, -1e30, 1e30) != 1) {
    fields.fail("partial_rotary_factor", "other than 1 is not supported");
  }
}

RopeConfig read_rope_object(const JsonFields& fields, double theta, std::int32_t max_positions, std::span<const std::string> ignored) {
  refuse_foreign(fields);
  check_rope_keys(fields, ignored);
  RopeConfig rope;
  rope.theta = fields.number_or("rope_theta", theta, kMinTheta, kMaxTheta);
  const char* key = fields.has("rope_type") ? "rope_type" : "type";  // "type" is the oldest notation
  const std::string type = fields.text_or(key, "default");
  if (type == "default") {
    if (fields.number_or("factor", 1, -1e30, 1e30) != 1) fields.fail("factor", "without a rope_type is not supported");
    return rope;
  }
  const auto scaled = [&](RopeScaling scaling) {
    rope.scaling = scaling;
    rope.factor = fields.number("factor", 1, kMaxFactor);
  };
  if (type == "linear") {
    scaled(RopeScaling::kLinear);
  } else if (type == "dynamic") {
    scaled(RopeScaling::kDynamic);
    rope.original_max_positions = max_positions;
  } else if (type == "llama3") {
    scaled(RopeScaling::kLlama3);
    read_llama3(fields, max_positions, rope);
  } else if (type == "yarn") {
    scaled(RopeScaling::kYarn);
    read_yarn(fields, max_positions, rope);
  } else {
    fields.fail(key, fmt::format("\"{}\" is not supported", type));
  }
  return rope;
}

}  // namespace

RopeConfig read_rope(const JsonFields& config, std::int32_t max_positions, std::span<const std::string> ignored) {
  const double theta = config.number_or("rope_theta", 10000, kMinTheta, kMaxTheta);
  RopeConfig rope;
  rope.theta = theta;
  if (config.has("rope_scaling")) rope = read_rope_object(config.object("rope_scaling"), theta, max_positions, ignored);
  if (!config.has("rope_parameters")) return rope;
  const RopeConfig parameters = read_rope_object(config.object("rope_parameters"), theta, max_positions, ignored);
  if (config.has("rope_scaling") && !(parameters == rope)) config.fail("rope_parameters", "contradicts rope_scaling");
  return parameters;
}

}  // namespace fastgen
