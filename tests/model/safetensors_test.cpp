#include "model/safetensors.h"

#include <cstring>
#include <fstream>
#include <random>
#include <string>

#include <fmt/format.h>

#include "fastgen/error.h"
#include "model/tiny_model.h"
#include "support/support.h"

namespace fastgen {
namespace {

using test::safetensors_bytes;

std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::vector<StoredTensor> parse(const std::string& file) { return parse_safetensors_header(as_bytes(file), file.size(), "f"); }

std::string error_of(const std::string& file) {
  try {
    parse(file);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"("{}": {{"dtype": "{}", "shape": {}, "data_offsets": {}}})", name, dtype, shape, offsets);
}

TEST_CASE("a header becomes tensors in the order of their data") {
  const std::string header = "{" + entry("b", "F32", "[2, 3]", "[12, 36]") + R"(, "__metadata__": {"format": "pt"}, )" +
                             entry("a", "BF16", "[6]", "[0, 12]") + ", " + entry("none", "F16", "[0, 4]", "[12, 12]") + ", " +
                             entry("one", "I64", "[]", "[36, 44]") + "}   ";
  const auto tensors = parse(safetensors_bytes(header, std::string(44, 'x')));
  REQUIRE(tensors.size() == 4);
  const std::uint64_t start = 8 + header.size();
  CHECK(tensors[0].name == "a");
  CHECK(tensors[0].dtype == DType::kBF16);
  CHECK(tensors[0].offset == start);
  CHECK(tensors[1].name == "none");
  CHECK(tensors[1].bytes == 0);
  CHECK(tensors[2].name == "b");
  CHECK(tensors[2].shape == std::vector<std::int64_t>{2, 3});
  CHECK(tensors[2].offset == start + 12);
  CHECK(tensors[2].bytes == 24);
  CHECK(tensors[3].dtype_text == "I64");
  CHECK_FALSE(tensors[3].dtype.has_value());
}

struct Bad {
  std::string header;
  const char* message;
};

TEST_CASE("hostile headers are refused by name") {
  const std::string data(16, 'x');
  const auto one = [](const char* dtype, const char* shape, const char* offsets) { return "{" + entry("t", dtype, shape, offsets) + "}"; };
  const Bad table[] = {
      {"", "f: not valid JSON"},
      {"[]", "f: not a JSON object"},
      {"{\"t\": 1}", "f: tensor t is not an object"},
      {"{\"t\": {}}", "f: tensor t: dtype is missing"},
      {one("F32", "[4]", "[0, 16]") + "x", "f: not valid JSON"},
      {one("Q4", "[4]", "[0, 16]"), R"(f: tensor t: dtype "Q4" is unknown)"},
      {one("F32", "4", "[0, 16]"), "tensor t: shape is not a list"},
      {one("F32", "[-4]", "[0, 16]"), "tensor t: shape holds something other than a size"},
      {one("F32", "[4.0]", "[0, 16]"), "tensor t: shape holds something other than a size"},
      {one("F32", "[9223372036854775808]", "[0, 16]"), "tensor t: shape holds something other than a size"},
      {one("F32", "[4294967296, 4294967296]", "[0, 16]"), "tensor t: shape is too large"},
      // 2^62 * 4 bytes wraps to 0, and 2^62 + 4 elements to 16.
      {one("F32", "[4611686018427387904]", "[0, 0]"), "tensor t: shape is too large"},
      {one("F32", "[4611686018427387908]", "[0, 16]"), "tensor t: shape is too large"},
      {one("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,4]", "[0, 16]"), "tensor t: shape has too many dimensions"},
      {one("F32", "[4]", "[0]"), "tensor t: data_offsets is not a pair of offsets"},
      {one("F32", "[4]", "[0, 16, 16]"), "tensor t: data_offsets is not a pair of offsets"},
      {one("F32", "[4]", "[-16, 0]"), "tensor t: data_offsets is not a pair of offsets"},
      {one("F32", "[4]", "\"0\""), "tensor t: data_offsets is not a pair of offsets"},
      {one("F32", "[4]", "[16, 0]"), "tensor t: data_offsets end before they begin"},
      {one("F32", "[8]", "[0, 32]"), "tensor t: data_offsets end at 32, past the 16 bytes of data"},
      {one("F32", "[4]", "[18446744073709551600, 18446744073709551615]"), "tensor t: data_offsets end at 18446744073709551615, past"},
      {one("F32", "[3]", "[0, 16]"), "tensor t: data_offsets hold 16 bytes, dtype and shape ask for 12"},
      {one("BF16", "[4]", "[0, 16]"), "tensor t: data_offsets hold 16 bytes, dtype and shape ask for 8"},
      {one("F32", "[3]", "[4, 16]"), "f: tensor t leaves a gap before it"},
      {one("F32", "[3]", "[0, 12]"), "f: 4 bytes after the last tensor"},
      {"{}", "f: 16 bytes after the last tensor"},
      {"{" + entry("a", "F32", "[3]", "[0, 12]") + ", " + entry("b", "F32", "[2]", "[8, 16]") + "}", "f: tensor b overlaps another"},
      {"{" + entry("a", "F32", "[4]", "[0, 16]") + ", " + entry("b", "F32", "[4]", "[0, 16]") + "}", "overlaps another"},
      {"{" + entry("a", "F32", "[2]", "[0, 8]") + ", " + entry("a", "F32", "[2]", "[8, 16]") + "}", "f: tensor a appears twice"},
      {std::string(5000, '['), "f: not valid JSON"},
      {"{\"\xff\": {}}", "f: not valid JSON"},
  };
  for (const Bad& bad : table) {
    const std::string message = error_of(safetensors_bytes(bad.header, data));
    CHECK_MESSAGE(message.find(bad.message) != std::string::npos, message << " should contain: " << bad.message);
  }
}

TEST_CASE("the header's length is checked against the file") {
  const std::string good = safetensors_bytes("{" + entry("t", "F32", "[4]", "[0, 16]") + "}", std::string(16, 'x'));
  CHECK(parse(good).size() == 1);
  CHECK(error_of("") == "f: too short for a safetensors file");
  CHECK(error_of(good.substr(0, 7)) == "f: too short for a safetensors file");
  const auto with_length = [&](std::uint64_t length) {
    std::string file = good;
    std::memcpy(file.data(), &length, sizeof(length));
    return file;
  };
  CHECK(error_of(with_length(good.size() - 7)).find("is longer than the file") != std::string::npos);
  CHECK(error_of(with_length(100'000'001)) == "f: header of 100000001 bytes is over 100 MB");
  CHECK(error_of(with_length(~std::uint64_t{0})).find("is over 100 MB") != std::string::npos);
  for (std::size_t size = 0; size < good.size(); ++size) CHECK_MESSAGE(error_of(good.substr(0, size)) != "no error", size);
}

TEST_CASE("a damaged header is refused or still consistent, never anything else") {
  const std::string header = "{" + entry("a", "F32", "[2, 2]", "[0, 16]") + ", " + entry("b", "BF16", "[4]", "[16, 24]") + "}";
  const std::string good = safetensors_bytes(header, std::string(24, 'x'));
  std::mt19937_64 random(test::seed());
  for (int round = 0; round < 20000; ++round) {
    std::string file = good;
    for (std::uint64_t changes = 1 + random() % 3; changes > 0; --changes) {
      file[random() % (8 + header.size())] = round % 2 ? static_cast<char>(random()) : "0123456789[]{},\"-"[random() % 17];
    }
    try {
      std::uint64_t bytes = 0;
      for (const StoredTensor& tensor : parse(file)) {
        REQUIRE(tensor.offset + tensor.bytes <= file.size());
        bytes += tensor.bytes;
      }
      REQUIRE(bytes <= 24);
    } catch (const Error&) {
    }
  }
}

std::string open_error(const std::filesystem::path& folder) {
  try {
    Checkpoint::open(folder);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

void write(const std::filesystem::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

TEST_CASE("one file, or the files of an index") {
  test::TempDir dir;
  CHECK(open_error(dir.path()) == dir.path().string() + ": neither model.safetensors nor model.safetensors.index.json");
  const auto file = [](const std::string& name, char fill) {
    return safetensors_bytes("{" + entry(name, "F32", "[1]", "[0, 4]") + "}", std::string(4, fill));
  };
  const auto index = [&](const std::string& map) { write(dir.path() / "model.safetensors.index.json", R"({"weight_map": )" + map + "}"); };
  write(dir.path() / "x.safetensors", file("a", 'p'));
  write(dir.path() / "y.safetensors", file("b", 'q'));
  index(R"({"a": "x.safetensors", "b": "y.safetensors"})");
  const Checkpoint sharded = Checkpoint::open(dir.path());
  REQUIRE(sharded.entries().size() == 2);
  CHECK(sharded.total_bytes() == 8);
  CHECK(sharded.bytes(sharded.entries().at("b"))[3] == std::byte{'q'});
  CHECK(sharded.file(sharded.entries().at("b")).path() == dir.path() / "y.safetensors");

  const auto says = [&](const std::string& map, const std::string& part) {
    index(map);
    const std::string message = open_error(dir.path());
    CHECK_MESSAGE(message.find(part) != std::string::npos, message << " should contain: " << part);
  };
  says("7", "model.safetensors.index.json: weight_map is not an object");
  says(R"({"a": 7})", "weight_map has no file name for a");
  says(R"({"a": "../x.safetensors"})", "weight_map has no file name for a");
  says(R"({"a": "x.safetensors", "a": "y.safetensors"})", "weight_map names a twice");
  says(R"({"a": "z.safetensors"})", "z.safetensors: cannot open");
  says(R"({"a": "x.safetensors", "c": "y.safetensors"})", "y.safetensors: tensor c is missing");
  says(R"({"a": "y.safetensors", "b": "x.safetensors"})", "y.safetensors: tensor a is missing");
  write(dir.path() / "y.safetensors", file("a", 'q'));
  says(R"({"a": "x.safetensors", "b": "y.safetensors"})", "y.safetensors: tensor a is in " + (dir.path() / "x.safetensors").string() + " too");
  write(dir.path() / "y.safetensors", safetensors_bytes("{" + entry("b", "F32", "[1]", "[0, 4]") + ", " + entry("c", "F32", "[1]", "[4, 8]") + "}", "12345678"));
  says(R"({"a": "x.safetensors", "b": "y.safetensors"})", "y.safetensors: tensor c is not in model.safetensors.index.json");

  write(dir.path() / "model.safetensors", file("only", 'r'));
  const Checkpoint single = Checkpoint::open(dir.path());  // goes before an index
  CHECK(single.entries().size() == 1);
  CHECK(single.entries().contains("only"));
}

}  // namespace
}  // namespace fastgen
