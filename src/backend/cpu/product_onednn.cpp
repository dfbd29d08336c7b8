// Each of our threads calls oneDNN on its own part with its own stream, and with one OpenMP thread: Debian's library
// would otherwise start a team of its own within each of ours.
#include "backend/cpu/product_onednn.h"

#include "backend/cpu/cpu_info.h"

#ifdef FG_HAVE_ONEDNN
#include <omp.h>

#include <map>
#include <tuple>

#include <oneapi/dnnl/dnnl.hpp>

#include "base/check.h"

namespace fastgen {

namespace {

// x [rows, in_dim] row-major times packed panels, to f32 [rows, columns].
struct Matmul {
  dnnl::matmul primitive;
  dnnl::memory x, weight, out, scratchpad;
};

// What one thread holds: a primitive for each shape it has met. A model has a handful of matrices, and row counts below
// kOnednnRows come from the last block only. Built on first use, outside the backend's sealed memory.
class ThreadProducts {
 public:
  ThreadProducts() : engine_(dnnl::engine::kind::cpu, 0), stream_((omp_set_num_threads(1), engine_)) {}

  void run(const ProductJob& job, const ProductPart& part, float* out) {
    const PackedMatrix& w = *job.weight;
    const std::int64_t rows = part.row_end - part.row_begin, columns = (part.unit_end - part.unit_begin) * kUnit;
    Matmul& matmul = find(rows, columns, w.in_dim);
    const auto* x = static_cast<const std::uint16_t*>(job.x) + part.row_begin * w.in_dim;
    auto* panels = static_cast<std::uint16_t*>(w.data) + w.offset(part.unit_begin * kUnit, 0);
    matmul.x.set_data_handle(const_cast<std::uint16_t*>(x));
    matmul.weight.set_data_handle(panels);
    matmul.out.set_data_handle(out);
    matmul.primitive.execute(stream_, {{DNNL_ARG_SRC, matmul.x},
                                       {DNNL_ARG_WEIGHTS, matmul.weight},
                                       {DNNL_ARG_DST, matmul.out},
                                       {DNNL_ARG_SCRATCHPAD, matmul.scratchpad}});
    stream_.wait();
  }

 private:
  Matmul& find(std::int64_t rows, std::int64_t columns, std::int64_t in_dim) {
    const auto key = std::make_tuple(rows, columns, in_dim);
    const auto found = matmuls_.find(key);
    return found != matmuls_.end() ? found->second : matmuls_.emplace(key, make(rows, columns, in_dim)).first->second;
  }

  Matmul make(std::int64_t rows, std::int64_t columns, std::int64_t in_dim) {
    using dnnl::memory;
    const memory::desc x({rows, in_dim}, memory::data_type::bf16, memory::format_tag::ab);
    const memory::desc weight({in_dim, columns}, memory::data_type::bf16, memory::format_tag::BA16a64b2a);
    const memory::desc out({rows, columns}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc desc({x, weight, out}, attributes, engine_);
    return {dnnl::matmul(desc), memory(x, engine_, DNNL_MEMORY_NONE), memory(weight, engine_, DNNL_MEMORY_NONE),
            memory(out, engine_, DNNL_MEMORY_NONE), memory(desc.scratchpad_desc(), engine_)};
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, Matmul> matmuls_;
};

}  // namespace

bool has_product_onednn() { return cpu_has_avx512_bf16() || cpu_has_amx_bf16(); }

// Measured on SmolLM2's shapes. Xeon with AMX, 2 threads: a step of 1 row 11.8 ms here and 11.6 in our own product, of
// 4 rows 12.4 and 19.8, of 16 rows 18.0 and 35.8; a prefill of 1,024 is 4.5 times as fast. Zen 4 (no AMX): our own product is 6
// to 9 % faster at 64 and at 1,024 rows.
std::int64_t onednn_default_min_rows() { return cpu_has_amx_bf16() ? 2 : 0; }

void product_part_onednn(const ProductJob& job, const ProductPart& part, float* scratch) {
  FG_CHECK(job.weight->dtype == DType::kBF16 && part.unit_begin % kPanelUnits == 0 && part.unit_end % kPanelUnits == 0,
           part.unit_begin, part.unit_end);
  FG_CHECK(part.row_end - part.row_begin <= kOnednnRows && part.unit_end - part.unit_begin <= kOnednnUnits, part.row_end);
  thread_local ThreadProducts products;
  products.run(job, part, scratch);
  finish_tile(job, scratch, part.row_begin, part.row_end - part.row_begin, part.unit_begin,
              part.unit_end - part.unit_begin);
}

}  // namespace fastgen

#else

namespace fastgen {
bool has_product_onednn() { return false; }
std::int64_t onednn_default_min_rows() { return 0; }
void product_part_onednn(const ProductJob&, const ProductPart&, float*) {}
}  // namespace fastgen

#endif
