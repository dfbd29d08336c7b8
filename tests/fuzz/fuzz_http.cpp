// Any bytes as what comes on a connection: whole and cut into pieces they must be the same request, end at the same place, or be
// refused alike. The first byte is the size of the pieces.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "server/http_reader.h"

namespace {

using namespace fastgen::server;

struct Outcome {
  int status = 0;  // of the refusal; 0: none
  bool done = false;
  std::size_t taken = 0;
  std::string method, target, body;
  bool operator==(const Outcome&) const = default;
};

Outcome read(std::string_view bytes, std::size_t piece) {
  Outcome outcome;
  HttpReader reader({.header_bytes = 400, .body_bytes = 300});
  std::string in;
  try {
    for (std::size_t pos = 0; pos < bytes.size() && !reader.done(); pos += piece) {
      in += bytes.substr(pos, piece);
      const std::size_t count = reader.put(in);
      if (count > in.size()) std::abort();
      in.erase(0, count);
      outcome.taken += count;
    }
  } catch (const ApiError& error) {
    return {.status = error.status, .done = false, .taken = 0, .method = {}, .target = {}, .body = {}};
  }
  outcome.done = reader.done();
  if (!outcome.done) return {};  // how much of an unfinished request is taken is the parser's affair
  HttpRequest request = reader.take();
  outcome.method = request.method;
  outcome.target = request.target;
  outcome.body = request.body;
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Outcome whole = read(bytes, bytes.size() + 1), cut = read(bytes, data[0] % 61 + 1u);
  // What is no request may be seen sooner or later, and so may a limit; but what is one for either is the same one for both.
  const auto is_limit = [](const Outcome& outcome) { return outcome.status == 413 || outcome.status == 431; };
  if ((whole.done || cut.done) && !(whole == cut) && !is_limit(whole) && !is_limit(cut)) std::abort();
  if (whole.body.size() > 300) std::abort();
  return 0;
}
