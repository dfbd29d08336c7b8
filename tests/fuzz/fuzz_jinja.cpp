// Any bytes as a chat template, rendered with a fixed conversation; after a NUL byte, any bytes as messages.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "fastgen/error.h"
#include "fastgen/text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  std::size_t nul = bytes.find('\0');
  fastgen::RenderInput input;
  input.messages_json =
      R"([{"role":"system","content":" a\nb "},{"role":"user","content":[{"type":"text","text":"x"}]},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":{"a":1.5}}}]}])";
  input.tools_json = R"([{"type":"function","function":{"name":"f","parameters":{}}}])";
  input.bos_token = "<s>";
  input.now = "2024-07-26 12:00:00";
  if (nul != bytes.npos) input.messages_json = bytes.substr(nul + 1);
  try {
    fastgen::ChatTemplate::parse(bytes.substr(0, nul), "fuzz")->render(input);
  } catch (const fastgen::Error&) {
  }
  return 0;
}
