#include "algorithm_cache.h"

#include <unistd.h>

#include <fstream>
#include <sstream>

#include <fmt/format.h>

namespace fastgen {

namespace {

// FNV-1a: finds damage, guards against nobody.
std::uint64_t hash_of(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::optional<DType> dtype_of(const std::string& name) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    if (name == dtype_name(dtype)) return dtype;
  return std::nullopt;
}

std::string line_of(const ProductShape& shape, std::int64_t rows, const AlgorithmWords& words) {
  std::string line = fmt::format("{} {} {} {} {} {}", dtype_name(shape.dtype), dtype_name(shape.out_dtype), shape.out_dim,
                                 shape.in_dim, shape.add ? 1 : 0, rows);
  for (std::uint64_t word : words) line += fmt::format(" {:016x}", word);
  return line + '\n';
}

bool parse_line(const std::string& line, AlgorithmTable& table) {
  std::istringstream in(line);
  std::string dtype, out_dtype, rest;
  ProductShape shape;
  std::int64_t rows = 0;
  AlgorithmWords words{};
  in >> dtype >> out_dtype >> shape.out_dim >> shape.in_dim >> shape.add >> rows >> std::hex;
  for (std::uint64_t& word : words) in >> word;
  if (!in || in >> rest || !dtype_of(dtype) || !dtype_of(out_dtype)) return false;
  if (shape.out_dim <= 0 || shape.in_dim <= 0 || rows <= 0) return false;
  shape.dtype = *dtype_of(dtype);
  shape.out_dtype = *dtype_of(out_dtype);
  return table.emplace(std::pair(shape, rows), words).second;
}

}  // namespace

std::string algorithm_text(const std::string& key, const AlgorithmTable& table) {
  std::string text = key + '\n';
  for (const auto& [at, words] : table) text += line_of(at.first, at.second, words);
  return text + fmt::format("end {} {:016x}\n", table.size(), hash_of(text));
}

std::optional<AlgorithmTable> parse_algorithms(const std::string& text, const std::string& key) {
  const std::size_t end = text.rfind("end ");
  if (end == std::string::npos || end == 0 || text[end - 1] != '\n') return std::nullopt;
  const std::string body = text.substr(0, end);
  std::istringstream lines(body);
  std::string line;
  if (!std::getline(lines, line) || line != key) return std::nullopt;
  AlgorithmTable table;
  while (std::getline(lines, line))
    if (!parse_line(line, table)) return std::nullopt;
  if (text.substr(end) != fmt::format("end {} {:016x}\n", table.size(), hash_of(body))) return std::nullopt;
  return table;
}

std::filesystem::path algorithm_file(const std::filesystem::path& folder, const std::string& key) {
  return folder / fmt::format("products-{:016x}.txt", hash_of(key));
}

AlgorithmTable load_algorithms(const std::filesystem::path& file, const std::string& key) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) return {};
  return parse_algorithms(text.str(), key).value_or(AlgorithmTable{});
}

bool save_algorithms(const std::filesystem::path& file, const std::string& key, const AlgorithmTable& table) {
  std::error_code failed;
  std::filesystem::create_directories(file.parent_path(), failed);
  const std::filesystem::path beside = file.string() + fmt::format(".{}", getpid());
  {
    std::ofstream out(beside, std::ios::binary | std::ios::trunc);
    out << algorithm_text(key, table);
    if (!out.flush()) failed = std::make_error_code(std::errc::io_error);
  }
  if (!failed) std::filesystem::rename(beside, file, failed);
  std::error_code ignored;
  if (failed) std::filesystem::remove(beside, ignored);
  return !failed;
}

}  // namespace fastgen
