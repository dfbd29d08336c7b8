#include "text/sentencepiece_file.h"

#include <cstdint>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "fastgen/error.h"
#include "text/utf8.h"

namespace fastgen {

namespace {

constexpr std::size_t kMaxPieces = 1 << 22;

// One field of a protocol buffer: a number, or the bytes of a string or message (format: protobuf.dev, "Encoding").
struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;  // varint or the bits of a fixed one
  std::string_view bytes;
};

class Fields {
 public:
  Fields(std::string_view rest, std::string_view name) : rest_(rest), name_(name) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t tag = varint();
    Field field{.number = tag >> 3, .value = 0, .bytes = {}};
    switch (tag & 7) {
      case 0: field.value = varint(); break;
      case 1: field.value = fixed(8); break;
      case 2: field.bytes = take(varint()); break;
      case 5: field.value = fixed(4); break;
      default: fail("has a field of an unknown kind");
    }
    return field;
  }

 private:
  [[noreturn]] void fail(const char* what) const { throw Error(fmt::format("{}: {}: not a sentencepiece model, or cut off", name_, what)); }

  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) fail("a field is longer than the file");
    const std::string_view out = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return out;
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    fail("a number is too long");
  }

  std::uint64_t fixed(std::size_t count) {
    std::uint64_t value = 0;
    std::memcpy(&value, take(count).data(), count);
    return value;
  }

  std::string_view rest_;
  std::string_view name_;
};

SentencePieceFile::Piece read_piece(std::string_view bytes, std::string_view name) {
  SentencePieceFile::Piece piece;
  Fields fields(bytes, name);
  while (const auto field = fields.next()) {
    if (field->number == 1) piece.name = field->bytes;
    if (field->number == 2) {
      const auto bits = static_cast<std::uint32_t>(field->value);
      std::memcpy(&piece.score, &bits, sizeof piece.score);
    }
    if (field->number != 3) continue;
    if (field->value < 1 || field->value > 6) throw Error(fmt::format("{}: a piece has the unknown type {}", name, field->value));
    piece.kind = static_cast<SentencePieceFile::Kind>(field->value);
  }
  if (piece.name.empty() || !is_utf8(piece.name)) throw Error(fmt::format("{}: a piece is empty or not valid UTF-8", name));
  return piece;
}

void read_trainer(std::string_view bytes, std::string_view name, SentencePieceFile& out) {
  Fields fields(bytes, name);
  while (const auto field = fields.next()) {
    if (field->number == 3) out.is_bpe = field->value == 2;
    if (field->number == 35) out.byte_fallback = field->value != 0;
  }
}

void read_normalizer(std::string_view bytes, std::string_view name, SentencePieceFile& out) {
  Fields fields(bytes, name);
  while (const auto field = fields.next()) {
    if (field->number == 2) out.has_charsmap = !field->bytes.empty();
    if (field->number == 3) out.add_dummy_prefix = field->value != 0;
    if (field->number == 4) out.remove_extra_whitespaces = field->value != 0;
    if (field->number == 5) out.escape_whitespaces = field->value != 0;
  }
}

}  // namespace

SentencePieceFile read_sentencepiece_file(std::string_view bytes, std::string_view name) {
  SentencePieceFile out;
  Fields fields(bytes, name);
  while (const auto field = fields.next()) {
    if (field->number == 1) out.pieces.push_back(read_piece(field->bytes, name));
    if (field->number == 2) read_trainer(field->bytes, name, out);
    if (field->number == 3) read_normalizer(field->bytes, name, out);
    if (out.pieces.size() > kMaxPieces) throw Error(fmt::format("{}: has over {} pieces", name, kMaxPieces));
  }
  if (out.pieces.empty()) throw Error(fmt::format("{}: has no pieces: not a sentencepiece model", name));
  return out;
}

}  // namespace fastgen
