#include "bench/load_client.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <deque>
#include <list>

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <fmt/format.h>

#include "base/clock.h"
#include "bench/chunk_reader.h"
#include "bench/sse_reader.h"
#include "fastgen/error.h"

namespace fastgen::bench {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Stream = asio::generic::stream_protocol;  // TCP, or a Unix socket
using boost::system::error_code;

constexpr std::size_t kReadBytes = 64 << 10;
constexpr std::size_t kErrorBytesMax = 300;

Stream::endpoint endpoint_of(const LoadTarget& target, asio::io_context& context) {
  if (!target.unix_path.empty()) return asio::local::stream_protocol::endpoint(target.unix_path);
  error_code error;
  tcp::resolver resolver(context);
  const auto found = resolver.resolve(target.host, target.port, error);
  if (error || found.empty()) throw Error(fmt::format("--url: {}:{}: {}", target.host, target.port, error.message()));
  return found.begin()->endpoint();
}

class LoadRun;

// One connection, one request at a time.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(LoadRun& run, asio::io_context& context) : run_(run), socket_(context) {}

  void start(std::size_t job_idx);
  void close() {
    error_code ignored;
    socket_.close(ignored);
  }
  std::uint64_t deadline_ns() const { return deadline_ns_; }
  void time_out() { end("took longer than --timeout-s"); }

 private:
  void send();
  void wait_readable();
  void read();
  void on_event(std::string_view data);
  void on_end_of_stream(int error_number);
  void end(const std::string& error);
  bool is_over() const { return job_idx_ == kNone; }
  LoadRecord& record();

  static constexpr std::size_t kNone = ~std::size_t{0};
  LoadRun& run_;
  Stream::socket socket_;
  SseReader reader_;
  std::string head_;
  std::size_t job_idx_ = kNone;
  std::uint64_t deadline_ns_ = 0, now_ns_ = 0;
  bool is_fresh_ = true;     // no request has been answered on it yet
  bool saw_done_ = false;    // the [DONE] event
  std::int64_t usage_tokens_ = -1;  // the answer's tokens as the server counts them; -1: it does not say
  std::string event_error_;
};

// All of a run: who is due, who is open, who has ended.
class LoadRun {
 public:
  LoadRun(const std::vector<LoadJob>& jobs, const LoadOptions& options)
      : jobs_(jobs), options_(options), arrivals_(context_), ticks_(context_) {
    result_.records.resize(jobs.size());
    endpoint_ = endpoint_of(options.target, context_);
  }

  LoadResult run() {
    timespec before{}, after{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    start_ns_ = now_ns();
    arrive();
    tick();
    context_.run();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    result_.cpu_s = double(after.tv_sec - before.tv_sec) + double(after.tv_nsec - before.tv_nsec) * 1e-9;
    result_.duration_s = double(last_end_ns_ - start_ns_) * 1e-9;
    result_.num_chunks = progress_.num_chunks;
    return std::move(result_);
  }

  // ---- for the connections
  const LoadJob& job(std::size_t idx) const { return jobs_[idx]; }
  LoadRecord& record(std::size_t idx) { return result_.records[idx]; }
  const LoadTarget& target() const { return options_.target; }
  const Stream::endpoint& endpoint() const { return endpoint_; }
  std::uint64_t timeout_ns() const { return std::uint64_t(options_.timeout_s * 1e9); }
  ChunkReader& chunks() { return chunks_; }
  std::array<char, kReadBytes>& buffer() { return buffer_; }
  void count_chunk() { ++progress_.num_chunks; }

  void ended(const std::shared_ptr<Connection>& connection, bool ok, bool reusable) {
    ++progress_.num_done;
    progress_.num_failed += !ok;
    --progress_.num_open;
    last_end_ns_ = now_ns();
    open_.remove(connection);
    if (reusable) {
      idle_.push_back(connection);
    } else {
      connection->close();
    }
    if (progress_.num_done == jobs_.size()) return stop();
    fill();
  }

 private:
  // Moves what is due into the queue and waits for the next arrival.
  void arrive() {
    const std::uint64_t since = now_ns() - start_ns_;
    while (num_due_ < jobs_.size() && jobs_[num_due_].due_ns <= since) ++num_due_;
    fill();
    if (num_due_ == jobs_.size()) return;
    arrivals_.expires_after(std::chrono::nanoseconds(jobs_[num_due_].due_ns - since));
    arrivals_.async_wait([this](error_code error) {
      if (!error) arrive();
    });
  }

  void fill() {
    if (is_filling_) return;  // a request that fails at once comes back here
    is_filling_ = true;
    while (progress_.num_sent < num_due_ && has_room()) {
      std::shared_ptr<Connection> connection;
      if (idle_.empty()) {
        connection = std::make_shared<Connection>(*this, context_);
      } else {
        connection = idle_.back();
        idle_.pop_back();
      }
      open_.push_back(connection);
      ++progress_.num_open;
      connection->start(progress_.num_sent++);
    }
    is_filling_ = false;
  }
  bool has_room() const { return options_.max_concurrency == 0 || progress_.num_open < std::size_t(options_.max_concurrency); }

  void tick() {
    if (options_.on_progress) options_.on_progress(progress_);
    const std::uint64_t now = now_ns();
    std::vector<std::shared_ptr<Connection>> late;
    for (const auto& connection : open_)
      if (connection->deadline_ns() <= now) late.push_back(connection);
    for (const auto& connection : late) connection->time_out();
    if (progress_.num_done == jobs_.size()) return;
    ticks_.expires_after(std::chrono::milliseconds(500));
    ticks_.async_wait([this](error_code error) {
      if (!error) tick();
    });
  }

  void stop() {
    ticks_.cancel();
    arrivals_.cancel();
    for (const auto& connection : idle_) connection->close();
    if (options_.on_progress) options_.on_progress(progress_);
  }

  const std::vector<LoadJob>& jobs_;
  const LoadOptions& options_;
  asio::io_context context_{1};
  asio::steady_timer arrivals_, ticks_;
  Stream::endpoint endpoint_;
  ChunkReader chunks_;
  std::array<char, kReadBytes> buffer_{};
  std::list<std::shared_ptr<Connection>> open_;
  std::vector<std::shared_ptr<Connection>> idle_;
  LoadProgress progress_;
  LoadResult result_;
  std::size_t num_due_ = 0;
  bool is_filling_ = false;
  std::uint64_t start_ns_ = 0, last_end_ns_ = 0;
};

// ---- a connection

LoadRecord& Connection::record() { return run_.record(job_idx_); }

void Connection::start(std::size_t job_idx) {
  job_idx_ = job_idx;
  reader_ = SseReader();
  saw_done_ = false;
  usage_tokens_ = -1;
  event_error_.clear();
  record() = LoadRecord{};
  record().input_tokens = run_.job(job_idx).input_tokens;
  record().send_ns = now_ns();
  deadline_ns_ = record().send_ns + run_.timeout_ns();
  if (socket_.is_open()) return send();
  is_fresh_ = true;
  socket_.async_connect(run_.endpoint(), [self = shared_from_this()](error_code error) {
    if (self->is_over()) return;
    if (error) return self->end(fmt::format("connect: {}", error.message()));
    error_code ignored;
    self->socket_.set_option(tcp::no_delay(true), ignored);  // fails on a Unix socket, which needs none
    self->socket_.non_blocking(true, ignored);
    self->send();
  });
}

void Connection::send() {
  const LoadTarget& target = run_.target();
  const std::string& body = run_.job(job_idx_).body;
  head_ = request_head(target, "POST", target.path, body.size());
  const std::array<asio::const_buffer, 2> buffers = {asio::buffer(head_), asio::buffer(body)};
  asio::async_write(socket_, buffers, [self = shared_from_this()](error_code error, std::size_t) {
    if (self->is_over()) return;
    if (error) return self->on_end_of_stream(error.value());
    self->wait_readable();
  });
}

void Connection::wait_readable() {
  socket_.async_wait(Stream::socket::wait_read, [self = shared_from_this()](error_code error) {
    if (self->is_over()) return;
    if (error) return self->end(error.message());
    self->read();
  });
}

// One read for each time that the socket is readable: streams take turns.
void Connection::read() {
  auto& buffer = run_.buffer();
  const ssize_t count = ::recv(socket_.native_handle(), buffer.data(), buffer.size(), 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return wait_readable();
  if (count <= 0) return on_end_of_stream(count < 0 ? errno : 0);
  now_ns_ = now_ns();
  const bool fine = reader_.feed({buffer.data(), std::size_t(count)}, [this](std::string_view data) { on_event(data); });
  if (!fine) return end(reader_.error());
  if (!reader_.is_done()) return wait_readable();
  end("");
}

void Connection::on_event(std::string_view data) {
  if (data == "[DONE]") {
    saw_done_ = true;
    return;
  }
  const ChunkFacts facts = run_.chunks().read(data);
  if (facts.failed && event_error_.empty()) event_error_ = std::string(data.substr(0, kErrorBytesMax));
  LoadRecord& seen = record();
  if (facts.prompt_tokens >= 0) seen.input_tokens = facts.prompt_tokens;
  if (facts.completion_tokens >= 0) usage_tokens_ = facts.completion_tokens;
  if (!facts.has_token) return;
  run_.count_chunk();
  if (seen.first_ns == 0) {
    seen.first_ns = now_ns_;
  } else {
    seen.itl_ms.push_back(float(double(now_ns_ - seen.last_ns) * 1e-6));
  }
  seen.last_ns = now_ns_;
}

void Connection::on_end_of_stream(int error_number) {
  // A server may close an idle connection just as the next request is sent on it: that request has not been seen, so it goes again.
  if (!is_fresh_ && !reader_.has_status() && error_number != ECANCELED) {
    close();
    return start(job_idx_);
  }
  if (reader_.finish()) return end("");
  end(error_number ? std::strerror(error_number) : "the connection was closed in the middle of an answer");
}

void Connection::end(const std::string& error) {
  if (is_over()) return;
  LoadRecord& seen = record();
  std::string why = error;
  if (why.empty() && reader_.status() != 200) why = fmt::format("HTTP {}: {}", reader_.status(), reader_.body().substr(0, kErrorBytesMax));
  if (why.empty() && !event_error_.empty()) why = event_error_;
  if (why.empty() && !saw_done_) why = "the stream ended without [DONE]";
  if (why.empty() && seen.first_ns == 0) why = "no token came";
  const std::int64_t num_chunks = seen.first_ns == 0 ? 0 : std::int64_t(seen.itl_ms.size()) + 1;
  seen.output_tokens = usage_tokens_ >= 0 ? usage_tokens_ : num_chunks;
  seen.ok = why.empty();
  seen.error = why;
  const bool reusable = error.empty() && reader_.is_done() && reader_.keeps_alive();
  is_fresh_ = false;
  job_idx_ = kNone;
  run_.ended(shared_from_this(), seen.ok, reusable);
}

}  // namespace

LoadResult run_load(const std::vector<LoadJob>& jobs, const LoadOptions& options) {
  if (jobs.empty()) return {};
  LoadRun run(jobs, options);
  return run.run();
}

std::string http_get(const LoadTarget& target, const std::string& path) {
  asio::io_context context;
  Stream::socket socket(context);
  error_code error;
  socket.connect(endpoint_of(target, context), error);
  if (error)
    throw Error(fmt::format("--url: {}: {}", target.unix_path.empty() ? target.host + ":" + target.port : target.unix_path, error.message()));
  asio::write(socket, asio::buffer(request_head(target, "GET", path, 0)), error);
  SseReader reader;
  std::array<char, 16384> buffer{};
  while (!error && !reader.is_done()) {
    const std::size_t count = socket.read_some(asio::buffer(buffer), error);
    if (!reader.feed({buffer.data(), count}, [](std::string_view) {})) break;
  }
  reader.finish();
  if (reader.status() != 200 || !reader.is_done())
    throw Error(fmt::format("--url: GET {}: {}", path, reader.status() ? fmt::format("HTTP {}", reader.status()) : "no HTTP answer"));
  return reader.body();
}

}  // namespace fastgen::bench
