// Server-sent events (WHATWG HTML, 9.2) and the chunks of HTTP/1.1 that carry them (RFC 9112, 7.1).
#pragma once

#include <string>
#include <string_view>

namespace fastgen::server {

// data: JSON, blank line. `json` holds no newline: JsonWriter escapes them.
void append_frame(std::string& out, std::string_view json);
inline constexpr std::string_view kDoneFrame = "data: [DONE]\n\n";
// A comment, which clients skip: it shows whether the peer still listens.
inline constexpr std::string_view kCommentFrame = ":\n\n";

// One chunk holding `bytes`, which is not empty: an empty chunk would end the answer.
std::string make_chunk(std::string_view bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace fastgen::server
