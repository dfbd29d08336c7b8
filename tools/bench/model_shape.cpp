#include "bench/model_shape.h"

#include <algorithm>

#include "base/model_folder.h"
#include "model/config.h"

namespace fastgen::bench {

std::int64_t ModelShape::layer_weights() const {
  const std::int64_t per_layer = (2 * q_dim() + 2 * kv_dim() + std::int64_t{3} * ffn_dim) * model_dim;
  return per_layer * num_layers;
}

ModelShape load_shape(const std::string& model, const std::string& revision, const std::vector<std::string>& ignore_config_keys) {
  const ModelConfig config = load_config(model.empty() ? default_model_folder() : resolve_model_folder(model, revision), ignore_config_keys);
  return {.num_layers = config.num_layers,
          .model_dim = config.model_dim,
          .num_heads = config.num_heads,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .ffn_dim = config.ffn_dim,
          .vocab = config.vocab,
          .window = config.window};
}

double seen_tokens(const ModelShape& shape, std::int64_t first, std::int64_t count) {
  const auto until = [](std::int64_t n) { return double(n) * double(n + 1) / 2; };  // 1 + .. + n
  const std::int64_t end = first + count;
  if (shape.window == 0 || end <= shape.window) return until(end) - until(first);
  const std::int64_t growing = std::max<std::int64_t>(shape.window - first, 0);  // rows that see less than the window
  return until(first + growing) - until(first) + double(count - growing) * shape.window;
}

Work product_work(const ModelShape& shape, std::int64_t num_tokens, std::int64_t num_logit_rows, DType weights) {
  const double layers = double(shape.layer_weights()), head = num_logit_rows > 0 ? double(shape.head_weights()) : 0;
  const double last = double(shape.q_dim() + std::int64_t{3} * shape.ffn_dim) * shape.model_dim;  // of the last layer, behind its K and V
  return {.flops = 2 * ((layers - last) * double(num_tokens) + (last + head) * double(num_logit_rows)),
          .bytes = (layers + head) * double(dtype_bytes(weights))};
}

Work attention_work(const ModelShape& shape, double seen, double kv_tokens, DType kv) {
  const double per_layer_flops = 4 * double(shape.q_dim()), per_layer_bytes = 2 * double(shape.kv_dim() * std::int64_t(dtype_bytes(kv)));
  return {.flops = per_layer_flops * seen * shape.num_layers, .bytes = per_layer_bytes * kv_tokens * shape.num_layers};
}

}  // namespace fastgen::bench
