#include "bench/sse_reader.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

namespace fastgen::bench {

namespace {

constexpr std::size_t kMaxHeadLineBytes = 16 << 10, kMaxEventBytes = 16 << 20, kMaxBodyBytes = 64 << 10;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return out;
}

std::string_view without_end(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

template <typename Number>
bool parse(std::string_view text, Number& value, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

bool SseReader::fail(std::string why) {
  state_ = State::kFailed;
  error_ = std::move(why);
  return false;
}

// The next line without its end, if all of it is there; else keeps what there is. An empty `line` with false: wait for more.
bool SseReader::take_line(std::string_view& bytes, std::string_view& line) {
  const std::size_t end = bytes.find('\n');
  if (end == std::string_view::npos) {
    line_ += bytes;
    bytes = {};
    return false;
  }
  line = bytes.substr(0, end);
  bytes.remove_prefix(end + 1);
  if (!line_.empty()) {
    line_ += line;
    line = line_;
  }
  line = without_end(line);
  return true;
}

bool SseReader::feed(std::string_view bytes, const OnEvent& on_event) {
  while (!bytes.empty() && state_ != State::kDone) {
    if (state_ == State::kFailed) return false;
    if (state_ == State::kChunk || state_ == State::kLength) {
      const std::size_t count = std::min<std::uint64_t>(left_, bytes.size());
      on_body(bytes.substr(0, count), on_event);
      bytes.remove_prefix(count);
      left_ -= count;
      if (left_ == 0) state_ = state_ == State::kChunk ? State::kChunkEnd : State::kDone;
      continue;
    }
    if (state_ == State::kUntilEnd) {
      on_body(bytes, on_event);
      return true;
    }
    std::string_view line;
    const bool whole = take_line(bytes, line);
    if (line_.size() > kMaxHeadLineBytes) return fail("a line of the head is too long");
    if (!whole) break;
    if (!on_head_line(line)) return false;
    line_.clear();
  }
  return state_ != State::kFailed;
}

bool SseReader::on_head_line(std::string_view line) {
  switch (state_) {
    case State::kStatus: {
      if (!line.starts_with("HTTP/1.") || line.size() < 12 || !parse(line.substr(9, 3), status_))
        return fail(fmt::format("not an HTTP/1 status line: \"{}\"", line.substr(0, 40)));
      keeps_alive_ = line[7] == '1';
      state_ = State::kHeader;
      return true;
    }
    case State::kHeader:
      if (!line.empty()) return on_header(line);
      on_head_end();
      return true;
    case State::kChunkSize: return on_chunk_size(line);
    case State::kChunkEnd:
      if (!line.empty()) return fail("a chunk does not end where it said");
      state_ = State::kChunkSize;
      return true;
    case State::kTrailer:
      if (line.empty()) state_ = State::kDone;
      return true;
    default: return fail("bytes behind the end");
  }
}

bool SseReader::on_header(std::string_view line) {
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos) return fail("a header without a colon");
  const std::string name = lower(line.substr(0, colon));
  std::string value = lower(line.substr(colon + 1));
  value.erase(0, value.find_first_not_of(" \t") == std::string::npos ? value.size() : value.find_first_not_of(" \t"));
  if (name == "content-type") is_stream_ = value.starts_with("text/event-stream");
  if (name == "transfer-encoding") is_chunked_ = value.find("chunked") != std::string::npos;
  if (name == "connection") keeps_alive_ = value != "close";
  if (name == "content-length") {
    has_length_ = parse(value, left_);
    if (!has_length_) return fail("content-length is not a number");
  }
  return true;
}

void SseReader::on_head_end() {
  if (status_ >= 100 && status_ < 200) {  // the real answer follows
    status_ = 0;
    state_ = State::kStatus;
  } else if (is_chunked_) {
    state_ = State::kChunkSize;
  } else if (has_length_) {
    state_ = left_ > 0 ? State::kLength : State::kDone;
  } else {
    state_ = State::kUntilEnd;
    keeps_alive_ = false;
  }
}

bool SseReader::on_chunk_size(std::string_view line) {
  line = line.substr(0, line.find(';'));
  while (line.ends_with(' ')) line.remove_suffix(1);
  if (line.empty() || !parse(line, left_, 16)) return fail("a chunk's size is not a number");
  state_ = left_ > 0 ? State::kChunk : State::kTrailer;
  return true;
}

void SseReader::on_body(std::string_view bytes, const OnEvent& on_event) {
  if (!is_stream_ || status_ != 200) {
    body_ += bytes.substr(0, kMaxBodyBytes - std::min(kMaxBodyBytes, body_.size()));
    return;
  }
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      event_line_ += bytes;
      if (event_line_.size() > kMaxEventBytes) fail("an event is too long");
      return;
    }
    if (event_line_.empty()) {
      on_event_line(without_end(bytes.substr(0, end)), on_event);
    } else {
      event_line_ += bytes.substr(0, end);
      on_event_line(without_end(event_line_), on_event);
      event_line_.clear();
    }
    bytes.remove_prefix(end + 1);
  }
}

// Every event of the servers that we measure is one data line; comments keep the connection alive.
void SseReader::on_event_line(std::string_view line, const OnEvent& on_event) {
  if (!line.starts_with("data:")) return;
  line.remove_prefix(5);
  if (line.starts_with(' ')) line.remove_prefix(1);
  on_event(line);
}

bool SseReader::finish() {
  if (state_ == State::kUntilEnd) state_ = State::kDone;
  return state_ == State::kDone;
}

}  // namespace fastgen::bench
