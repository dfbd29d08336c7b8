#include "backend/echo/echo_ops.h"

#include <algorithm>
#include <cstring>

#include "backend/echo/echo_backend.h"
#include "backend/echo/echo_function.h"
#include "base/check.h"

namespace fastgen::echo {

namespace {

constexpr std::uint64_t kTokenRow = std::uint64_t{1} << 63;
constexpr std::uint64_t kUnwritten = 0xBADC0FFEE0DDF00Du;

std::int64_t words_per_row(const Tensor& tensor) {
  FG_CHECK(tensor.dtype == DType::kF32 && tensor.row_elements() % 2 == 0, dtype_name(tensor.dtype),
           tensor.row_elements());
  return tensor.row_elements() / 2;
}

std::uint64_t* row_words(const Tensor& tensor, std::int64_t row) {
  FG_CHECK(row >= 0 && row < tensor.rows(), row, tensor.rows());
  return static_cast<std::uint64_t*>(tensor.data) + row * words_per_row(tensor);
}

struct Row {
  std::uint64_t token = 0;  // kTokenRow | id
  std::uint64_t hash = 0;
};

Row& activation(const Tensor& tensor, std::int64_t row) {
  FG_CHECK(words_per_row(tensor) == 2, tensor.row_elements());
  return *reinterpret_cast<Row*>(row_words(tensor, row));
}

std::int64_t num_slots(const KvArena& arena) { return arena.num_blocks * arena.layout.block_size; }

// The words of one slot's K (kv 0) or V (kv 1); those of the slots after it in the same block follow.
std::uint64_t* kv_words(const KvArena& arena, std::int64_t slot, int kv) {
  FG_CHECK(slot >= 0 && slot < num_slots(arena), slot, num_slots(arena));
  return static_cast<std::uint64_t*>(arena.data) + arena.layout.offset(slot, 0, kv, 0) / 2;
}

void check_arena(const KvArena& arena, std::int32_t layer) {
  const KvLayout& layout = arena.layout;
  FG_CHECK(arena.dtype == DType::kF32 && layer == 0 && layout.num_layers == EchoShape::kNumLayers &&
               layout.num_kv_heads == EchoShape::kNumKvHeads && layout.head_dim == EchoShape::kHeadDim,
           dtype_name(arena.dtype), layer, layout.num_layers, layout.num_kv_heads, layout.head_dim);
}

// Position p of a sequence lies in slot table[p / block_size] * block_size + p % block_size.
struct SlotMap {
  const std::int32_t* table;  // [M]
  std::int64_t num_blocks;    // M
  std::int64_t block_size;

  std::int64_t slot(std::int64_t position) const {
    FG_CHECK(position >= 0 && position < num_blocks * block_size, position, num_blocks, block_size);
    const std::int64_t block = table[position / block_size];
    FG_CHECK(block >= 0, block, position);
    return block * block_size + position % block_size;
  }
};

SlotMap slot_map(const Tensor& block_table, std::int64_t row, const KvArena& arena) {
  FG_CHECK(row >= 0 && row < block_table.rows(), row, block_table.rows());
  return {block_table.as<std::int32_t>() + row * block_table.row_elements(), block_table.row_elements(),
          arena.layout.block_size};
}

std::uint64_t sum_words(const std::uint64_t* words, std::int64_t count) {
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += words[i] ^ kUnwritten;
  return sum;
}

struct Sums {
  std::uint64_t keys = 0;
  std::uint64_t values = 0;
};

// K and V of positions [begin, end), block by block.
Sums sum_positions(const KvArena& arena, const SlotMap& map, std::int64_t begin, std::int64_t end) {
  Sums sums;
  for (std::int64_t position = begin; position < end;) {
    const std::int64_t slot = map.slot(position);
    const std::int64_t count = std::min(end - position, map.block_size - position % map.block_size);
    sums.keys += sum_words(kv_words(arena, slot, 0), count);
    sums.values += sum_words(kv_words(arena, slot, 1), count);
    position += count;
  }
  return sums;
}

// The rows of one sequence. Integer sums are exact in any order, so each row's is made from the row's before.
void attend_sequence(const AttendArgs& args, std::int64_t seq, std::int64_t first_row, std::int64_t num_rows,
                     std::int64_t context_len) {
  FG_CHECK(num_rows <= context_len, seq, num_rows, context_len);
  const SlotMap map = slot_map(args.batch.block_table, seq, args.arena);
  Sums sums;
  std::int64_t begin = 0, end = 0;  // of the positions in `sums`
  for (std::int64_t i = 0; i < num_rows; ++i) {
    const std::int64_t row_end = context_len - num_rows + 1 + i;
    const std::int64_t row_begin = args.window > 0 ? std::max<std::int64_t>(0, row_end - args.window) : 0;
    if (i == 0) begin = end = row_begin;
    const Sums added = sum_positions(args.arena, map, end, row_end);
    const Sums dropped = sum_positions(args.arena, map, begin, row_begin);
    sums = {sums.keys + added.keys - dropped.keys, sums.values + added.values - dropped.values};
    begin = row_begin;
    end = row_end;
    // q is what K of the row's own position must be; the difference is 0 where slots, positions and table
    // agree.
    const std::uint64_t own_key = *kv_words(args.arena, map.slot(row_end - 1), 0) ^ kUnwritten;
    const std::uint64_t mismatch = *row_words(args.q, first_row + i) - own_key;
    *row_words(args.out, first_row + i) = hash_of_sums(sums.keys + mismatch, sums.values);
  }
}

bool is_banned(std::int32_t id, const SampleBatch& batch, const SampleRow& row) {
  for (std::int32_t i = row.bias_start; i < row.bias_start + row.bias_count; ++i) {
    if (batch.bias_ids.as<std::int32_t>()[i] == id && batch.bias_values.as<float>()[i] <= kBanBias)
      return true;
  }
  return false;
}

void check_row(const SampleRow& row, const SampleBatch& batch) {
  FG_CHECK(row.state_slot < batch.state_tokens.rows(), row.state_slot, batch.state_tokens.rows());
  FG_CHECK(row.num_top <= kSampleTop, row.num_top);
  FG_CHECK(row.bias_count == 0 || (row.bias_start >= 0 && row.bias_count > 0 &&
                                   row.bias_start + row.bias_count <= batch.bias_ids.rows()),
           row.bias_start, row.bias_count, batch.bias_ids.rows());
}

// Penalties count the row's tokens; here a wrong table row, length or token id changes the hash, right ones
// do not.
std::uint64_t check_history(std::uint64_t hash, const SampleRow& row, const SampleBatch& batch,
                            const KvArena& arena) {
  FG_CHECK(row.prompt_len > 0 && row.prompt_len <= row.history_len, row.prompt_len, row.history_len);
  const SlotMap map = slot_map(batch.block_table, row.table_row, arena);
  Context history;
  for (std::int64_t position = 0; position < row.history_len; ++position) {
    const std::int64_t slot = map.slot(position);
    FG_CHECK(slot < num_slots(arena), slot, num_slots(arena));
    history.push(arena.token_ids.as<std::int32_t>()[slot]);
  }
  return history.hash() == hash ? hash : mix64(hash);
}

void write_logprobs(const LogprobOutput& out, std::int64_t row, std::uint64_t hash, std::int32_t id,
                    std::int32_t num_top, std::int32_t vocab) {
  FG_CHECK(row < out.logprobs.rows(), row, out.logprobs.rows());
  out.logprobs.as<float>()[row] = logprob(hash, id, vocab);
  if (num_top <= 0) return;
  FG_CHECK(row < out.top_ids.rows() && row < out.top_logprobs.rows(), row, out.top_ids.rows(),
           out.top_logprobs.rows());
  for (std::int32_t j = 0; j < num_top; ++j) {
    const std::int32_t top_id = alternative(hash, j, vocab);
    out.top_ids.as<std::int32_t>()[row * kSampleTop + j] = top_id;
    out.top_logprobs.as<float>()[row * kSampleTop + j] = logprob(hash, top_id, vocab);
  }
}

}  // namespace

void embed(const EmbedArgs& args, std::int32_t vocab) {
  const std::int32_t* ids = args.token_ids.as<std::int32_t>();
  const std::int32_t* slots = args.slots.as<std::int32_t>();
  for (std::int64_t t = 0; t < args.token_ids.rows(); ++t) {
    activation(args.out, t) = {};
    if (slots[t] < 0) continue;
    std::int32_t id = ids[t];
    if (id < 0) {
      FG_CHECK(-1 - id < args.state_tokens.rows(), id, args.state_tokens.rows());
      id = args.state_tokens.as<std::int32_t>()[-1 - id];
    }
    FG_CHECK(id >= 0 && id < vocab, id, vocab, t);
    FG_CHECK(slots[t] < num_slots(args.arena), slots[t], num_slots(args.arena));
    args.arena.token_ids.as<std::int32_t>()[slots[t]] = id;
    activation(args.out, t).token = kTokenRow | static_cast<std::uint64_t>(id);
  }
}

void add_norm(const Tensor& residual, const Tensor& delta, const Tensor& out) {
  const std::int64_t num_words = residual.rows() * words_per_row(residual);
  FG_CHECK(out.rows() * words_per_row(out) == num_words, out.rows(), residual.rows());
  std::uint64_t* sum = static_cast<std::uint64_t*>(residual.data);
  if (delta) {
    FG_CHECK(delta.bytes() == residual.bytes(), delta.bytes(), residual.bytes());
    for (std::int64_t i = 0; i < num_words; ++i) sum[i] += static_cast<const std::uint64_t*>(delta.data)[i];
  }
  std::memcpy(out.data, residual.data, residual.bytes());
}

void store_kv(const QkvArgs& args) {
  check_arena(args.arena, args.layer);
  const std::int32_t* slots = args.slots.as<std::int32_t>();
  for (std::int64_t t = 0; t < args.x.rows(); ++t) {
    std::uint64_t* q = row_words(args.q_out, t);
    *q = 0;
    if (slots[t] < 0) continue;
    const std::uint64_t word = activation(args.x, t).token;
    FG_CHECK(word & kTokenRow, t, slots[t]);
    const std::int32_t position = args.positions.as<std::int32_t>()[t];
    FG_CHECK(position >= 0, position, t);
    *q = term(static_cast<std::int32_t>(word & ~kTokenRow), position);
    *kv_words(args.arena, slots[t], 0) = *q ^ kUnwritten;
    *kv_words(args.arena, slots[t], 1) = mix64(*q) ^ kUnwritten;
  }
}

void attend(const AttendArgs& args) {
  check_arena(args.arena, args.layer);
  const AttendBatch& batch = args.batch;
  const std::int32_t* query_start = batch.query_start.as<std::int32_t>();
  const std::int32_t* context_len = batch.context_len.as<std::int32_t>();
  const std::int64_t num_seqs = batch.context_len.rows();
  FG_CHECK(batch.query_start.rows() == num_seqs + 1 && batch.block_table.rows() >= num_seqs,
           batch.query_start.rows(), num_seqs, batch.block_table.rows());
  FG_CHECK(batch.num_decode_seqs <= num_seqs, batch.num_decode_seqs, num_seqs);
  fill_zero(args.out);
  for (std::int64_t seq = 0; seq < num_seqs; ++seq) {
    const std::int64_t first = query_start[seq], count = query_start[seq + 1] - first;
    FG_CHECK(first >= 0 && count >= 0 && first + count <= args.q.rows(), seq, first, count, args.q.rows());
    FG_CHECK(seq >= batch.num_decode_seqs || count == batch.num_query, seq, count, batch.num_query);
    if (context_len[seq] > 0) attend_sequence(args, seq, first, count, context_len[seq]);
  }
}

void linear(const Tensor& x, const Tensor& out) {
  fill_zero(out);
  linear_add(x, out);
}

void linear_add(const Tensor& x, const Tensor& residual) {
  FG_CHECK(x.rows() == residual.rows(), x.rows(), residual.rows());
  const std::int64_t count = std::min(words_per_row(x), words_per_row(residual));
  const std::int64_t skipped = words_per_row(residual) - count;
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    const std::uint64_t* from = row_words(x, t);
    std::uint64_t* to = row_words(residual, t) + skipped;
    for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
  }
}

void fill_zero(const Tensor& out) {
  if (out.bytes() > 0) std::memset(out.data, 0, out.bytes());
}

void gather_rows(const Tensor& x, const Tensor& rows, const Tensor& out) {
  const std::int64_t count = words_per_row(x);
  FG_CHECK(words_per_row(out) == count && out.rows() == rows.rows(), words_per_row(out), count, out.rows());
  for (std::int64_t r = 0; r < rows.rows(); ++r) {
    const std::int32_t from = rows.as<std::int32_t>()[r];
    if (from < 0) {
      std::fill_n(row_words(out, r), count, 0);
    } else {
      std::copy_n(row_words(x, from), count, row_words(out, r));
    }
  }
}

void logits_sample(const Tensor& x, const SampleBatch& batch, const KvArena& arena, std::int32_t vocab,
                   const Tensor& ids, const LogprobOutput& out) {
  FG_CHECK(batch.rows.row_elements() == sizeof(SampleRow), batch.rows.row_elements());
  FG_CHECK(ids.rows() >= batch.rows.rows(), ids.rows(), batch.rows.rows());
  for (std::int64_t i = 0; i < batch.rows.rows(); ++i) {
    SampleRow row;
    std::memcpy(&row, static_cast<const char*>(batch.rows.data) + i * static_cast<std::int64_t>(sizeof(row)),
                sizeof(row));
    if (row.state_slot < 0) continue;
    check_row(row, batch);
    const Row& logits = activation(x, row.logits_row);
    FG_CHECK(logits.token & kTokenRow, i, row.logits_row);
    const std::uint64_t hash =
        row.has_penalties() ? check_history(logits.hash, row, batch, arena) : logits.hash;
    const std::uint64_t draw = draw_of(hash, row.temperature, row.seed, row.choice_idx, row.position);
    const std::int32_t id =
        allowed_id(draw, vocab, [&](std::int32_t which) { return is_banned(which, batch, row); });
    ids.as<std::int32_t>()[i] = id;
    batch.state_tokens.as<std::int32_t>()[row.state_slot] = id;
    if (row.num_top >= 0) write_logprobs(out, i, hash, id, row.num_top, vocab);
  }
}

void token_logprobs(const Tensor& x, const Tensor& ids, std::int32_t num_top, std::int32_t vocab,
                    const LogprobOutput& out) {
  FG_CHECK(num_top <= kSampleTop, num_top);
  for (std::int64_t r = 0; r < ids.rows(); ++r) {
    const Row& row = activation(x, r);
    const std::int32_t id = ids.as<std::int32_t>()[r];
    FG_CHECK(row.token & kTokenRow, r);
    FG_CHECK(id >= 0 && id < vocab, id, vocab);
    write_logprobs(out, r, row.hash, id, num_top, vocab);
  }
}

}  // namespace fastgen::echo
