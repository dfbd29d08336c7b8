// Any bytes as the body of a request: a parsed request within its ranges or an ApiError, whose own body is JSON.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <simdjson.h>

#include "base/check.h"
#include "base/utf8.h"
#include "server/api_request.h"

using namespace fastgen;
using namespace fastgen::server;

namespace {

void check_json(const std::string& text) {
  simdjson::dom::parser parser;
  FG_CHECK(parser.parse(text).error() == simdjson::SUCCESS, text);
}

void check_request(const ApiRequest& request) {
  const SamplingParams& params = request.sampling;
  FG_CHECK(params.temperature >= 0 && params.temperature <= 2, params.temperature);
  FG_CHECK(params.top_p > 0 && params.top_p <= 1, params.top_p);
  FG_CHECK(params.top_k >= 0 && params.num_logprobs <= kMaxTopLogprobs, params.top_k, params.num_logprobs);
  FG_CHECK(request.n >= 1 && request.n <= kMaxChoices && request.num_prompts() >= 1, request.n);
  for (const std::string& stop : request.stop) FG_CHECK(!stop.empty() && is_utf8(stop));
  if (request.endpoint == Endpoint::kChat) check_json(request.messages_json);
  for (const std::string* json : {&request.documents_json, &request.kwargs_json})
    if (!json->empty()) check_json(*json);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (Endpoint endpoint : {Endpoint::kChat, Endpoint::kCompletions}) {
    try {
      check_request(parse_api_request(endpoint, body));
    } catch (const ApiError& error) {
      FG_CHECK(error.status == 400, error.status);
      check_json(error.body());
    }
  }
  return 0;
}
