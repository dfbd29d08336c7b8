// An HTTP/1.1 response as it comes in pieces: status, headers, body by chunks, by length or until the end; and the server-sent events
// in it. No sockets here, and no copies but of events that are cut by a piece's end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace fastgen::bench {

class SseReader {
 public:
  // Told of each event's data ("[DONE]" included), valid during the call.
  using OnEvent = std::function<void(std::string_view data)>;

  // Takes the next bytes. False if they are no HTTP response that this reader knows; error() says why.
  bool feed(std::string_view bytes, const OnEvent& on_event);
  // The connection has ended; true if the response is whole.
  bool finish();

  bool is_done() const { return state_ == State::kDone; }
  bool has_status() const { return status_ != 0; }
  int status() const { return status_; }
  bool keeps_alive() const { return keeps_alive_; }
  // The body of an answer that is not an event stream, its first 64 KB.
  const std::string& body() const { return body_; }
  const std::string& error() const { return error_; }

 private:
  enum class State : std::uint8_t { kStatus, kHeader, kLength, kChunkSize, kChunk, kChunkEnd, kTrailer, kUntilEnd, kDone, kFailed };

  bool fail(std::string why);
  bool take_line(std::string_view& bytes, std::string_view& line);
  bool on_head_line(std::string_view line);
  bool on_header(std::string_view line);
  void on_head_end();
  bool on_chunk_size(std::string_view line);
  void on_body(std::string_view bytes, const OnEvent& on_event);
  void on_event_line(std::string_view line, const OnEvent& on_event);

  State state_ = State::kStatus;
  int status_ = 0;
  bool is_stream_ = false, is_chunked_ = false, has_length_ = false, keeps_alive_ = true;
  std::uint64_t left_ = 0;  // of the chunk or the body
  std::string line_;        // the part of a head line before the next piece
  std::string event_line_;  // the same of a body line
  std::string body_, error_;
};

}  // namespace fastgen::bench
