#include "bench/chunk_reader.h"

namespace fastgen::bench {
namespace {

// A chunk that names the role or the reason alone carries none.
bool is_token(const simdjson::dom::element& choice) {
  std::string_view text, role, reason;
  const bool is_chat = !choice["delta"].error();
  const bool has_text = (is_chat ? !choice["delta"]["content"].get(text) : !choice["text"].get(text)) && !text.empty();
  if (has_text) return true;
  const bool names_role = is_chat && !choice["delta"]["role"].get(role);
  const bool ends = !choice["finish_reason"].get(reason);
  return !names_role && !ends;
}

}  // namespace

ChunkFacts ChunkReader::read(std::string_view data) {
  ChunkFacts facts;
  simdjson::dom::element event, choice;
  if (parser_.parse(data.data(), data.size()).get(event)) {
    facts.failed = true;
    return facts;
  }
  if (simdjson::dom::element error; !event["error"].get(error) && !error.is_null()) facts.failed = true;
  if (!event["choices"].at(0).get(choice)) facts.has_token = is_token(choice);
  if (simdjson::dom::element usage; !event["usage"].get(usage) && usage.is_object()) {
    if (usage["prompt_tokens"].get(facts.prompt_tokens)) facts.prompt_tokens = -1;
    if (usage["completion_tokens"].get(facts.completion_tokens)) facts.completion_tokens = -1;
  }
  return facts;
}

}  // namespace fastgen::bench
