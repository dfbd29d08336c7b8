#include "server/session.h"

#include <tuple>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/http_reader.h"
#include "server/sse.h"
#include "server/text_api.h"

namespace fastgen::server {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kReadBytes = 64 << 10;          // at a time
constexpr std::size_t kMaxPipelinedBytes = 64 << 10;  // read ahead while an answer is on its way
constexpr std::size_t kKeptBytes = 4 << 10;           // of a buffer, between requests
constexpr std::chrono::seconds kLinger{2};
constexpr double kFirstWhileDrainingS = 0.5;  // for the request of a connection that was made just before the drain

std::uint64_t to_us(double seconds) { return static_cast<std::uint64_t>(seconds * 1e6); }

Endpoint endpoint_of(Work work) { return work == Work::kChat ? Endpoint::kChat : Endpoint::kCompletions; }

}  // namespace

// ---- the connection

Session::Session(ServerState& state, IoThread& thread, const Accepted& accepted)
    : state_(state),
      thread_(thread),
      metrics_(thread.metrics()),
      address_(accepted.address),
      transport_(thread.context(), accepted.fd, accepted.tls),
      wake_(thread.context()) {
  thread_.connections().insert(this);
  thread_.num_connections.fetch_add(1, std::memory_order_relaxed);
  wake_.expires_at(asio::steady_timer::time_point::max());
  set_phase(Phase::kIdle);
}

Session::~Session() {
  thread_.connections().erase(this);
  thread_.num_connections.fetch_sub(1, std::memory_order_relaxed);
  transport_.close();  // before the count says that it is closed
  state_.addresses.leave(address_);
  state_.connection_closed();
}

asio::awaitable<void> Session::run(std::shared_ptr<Session> self) {
  if (co_await transport_.handshake()) gone_ = true;
  while (!closing_ && !gone_) {
    HttpRequest request;
    const bool complete = co_await read_request(request);
    if (!complete) break;
    co_await answer(request);
    if (!keep_alive(request)) break;
  }
  if (!gone_) co_await linger();
}

void Session::set_phase(Phase phase) {
  phase_ = phase;
  phase_us_ = read_us_ = write_us_ = now_us();
}

void Session::close_socket() {
  transport_.close();
  gone_ = true;
  wake_.cancel();
}

// A peer that has just connected may have sent its request, and would not know that nothing was done with it: it gets an answer.
void Session::drain() {
  if ((phase_ == Phase::kIdle && !is_first_) || phase_ == Phase::kLinger) close_socket();
}

void Session::abort() {
  if (generation_ == nullptr || generation_->done()) return close_socket();
  generation_->fail(shutting_down());
  wake_.cancel();
}

void Session::tick(std::uint64_t now) {
  const ServerConfig& config = state_.config;
  const auto is_over = [now](std::uint64_t since_us, double seconds) { return now > since_us + to_us(seconds); };
  bool read_is_late = false;
  switch (phase_) {
    case Phase::kIdle:
      if (is_over(phase_us_, !is_first_ ? config.keep_alive_s : state_.draining ? kFirstWhileDrainingS : config.header_timeout_s)) close_socket();
      return;
    case Phase::kHeader: read_is_late = is_over(phase_us_, config.header_timeout_s); break;
    // Bytes that drip just often enough must not hold the connection for ever either.
    case Phase::kBody: read_is_late = is_over(read_us_, config.read_timeout_s) || is_over(phase_us_, 10 * config.read_timeout_s); break;
    case Phase::kAnswer:
      if (writing_ && is_over(write_us_, config.write_timeout_s)) return drop_slow_reader();
      if (streaming_ && !writing_ && config.sse_ping_s > 0 && is_over(write_us_, config.sse_ping_s) && generation_->frames().empty()) {
        generation_->frames() += kCommentFrame;
        on_events();
      }
      return;
    case Phase::kLinger: return;
  }
  if (!read_is_late || read_timed_out_) return;
  read_timed_out_ = true;
  transport_.cancel_read();
}

// ---- a request

asio::awaitable<bool> Session::read_more() {
  const Transport::Result result = co_await transport_.read_some(in_, kReadBytes);
  read_us_ = now_us();
  if (result.error) gone_ = result.error != asio::error::eof && !read_timed_out_;
  co_return !result.error;
}

// Hands what was read to the parser; an answer where that is the end of it.
std::optional<ApiError> Session::take_bytes(HttpReader& reader) {
  if (phase_ == Phase::kIdle) set_phase(Phase::kHeader);
  try {
    in_.erase(0, reader.put(in_));
  } catch (const ApiError& error) {
    return error;
  }
  if (phase_ != Phase::kHeader || !reader.header_done()) return std::nullopt;
  set_phase(Phase::kBody);
  if (state_.access.preflight(reader.request())) return std::nullopt;
  return state_.access.refusal(reader.request());  // before the body is taken in
}

asio::awaitable<bool> Session::read_request(HttpRequest& request) {
  HttpReader reader({state_.config.max_header_bytes, state_.config.max_body_bytes});
  set_phase(Phase::kIdle);
  if (in_.empty() && in_.capacity() > kKeptBytes) in_ = std::string();
  if (state_.draining && !is_first_) co_return false;
  std::optional<ApiError> refusal;
  std::uint64_t start_us = 0;
  bool said_continue = false;
  while (!refusal && !reader.done()) {
    if (in_.empty() || start_us > 0) {
      const bool has_more = co_await read_more();
      if (read_timed_out_) refusal = ApiError(408, "the request did not come in time (--header-timeout-s, --read-timeout-s)", "", "request_timeout");
      // One that says no more may still listen, so it hears why it gets no answer.
      if (!has_more && !refusal && start_us > 0 && !gone_) refusal = ApiError(400, "the request ended before it was whole", "", "invalid_http");
      if (!has_more && !refusal) co_return false;
    }
    if (refusal) break;
    if (start_us == 0) start_us = now_us();
    refusal = take_bytes(reader);
    if (!refusal && !said_continue && reader.wants_continue()) {
      said_continue = true;
      co_await send(std::string(kContinueAnswer));
    }
  }
  is_first_ = false;
  request = reader.take();
  request.start_us = start_us;
  const std::string_view id = request.header("x-request-id");
  request.id = is_request_id(id) ? std::string(id) : make_id("req-");
  headers_ = common_headers(request);
  if (refusal && !gone_) {
    closing_ = true;
    co_await refuse(request, *refusal);
  }
  co_return !refusal && !gone_;
}

std::string Session::common_headers(const HttpRequest& request) const {
  std::string lines;
  append_header(lines, "x-request-id", request.id);
  return lines + state_.access.cors_headers(request);
}

asio::awaitable<void> Session::answer(HttpRequest& request) {
  set_phase(Phase::kAnswer);
  std::optional<ApiError> refusal;
  try {
    if (std::optional<HttpAnswer> preflight = state_.access.preflight(request)) {
      co_await respond(request, std::move(*preflight));
    } else {
      std::variant<HttpAnswer, Work> routed = route(state_, request);
      if (auto* ready = std::get_if<HttpAnswer>(&routed)) {
        co_await respond(request, std::move(*ready));
      } else {
        co_await carry_out(std::get<Work>(routed), request);
      }
    }
  } catch (const ApiError& error) {
    refusal = error;
  } catch (const std::exception& error) {
    refusal = ApiError(500, fmt::format("internal error: {}", error.what()), "", "internal_error");
  }
  co_await stop_watch();
  deadline_.reset();
  ++deadline_serial_;
  if (refusal && !gone_) co_await refuse(request, *refusal);
  if (record_) {
    record_->end_us = now_us();
    if (gone_) record_->status = 499;
    state_.request_log.write(*record_, state_.config.log_contents);
    record_.reset();
  }
}

asio::awaitable<void> Session::carry_out(Work work, HttpRequest& request) {
  if (state_.draining) throw shutting_down();
  switch (work) {
    case Work::kTokenize: return tokenize(request);
    case Work::kDetokenize: return detokenize(request);
    default: return generate(endpoint_of(work), request);
  }
}

asio::awaitable<void> Session::respond(const HttpRequest& request, HttpAnswer answer) {
  metrics_.count_http(route_of(request.path()), answer.status);
  if (record_) record_->status = answer.status;
  answer.headers += headers_;
  std::string text = format_answer(answer, keep_alive(request) && !closing_, request.method == "HEAD");
  co_await send(std::move(text));
}

asio::awaitable<void> Session::refuse(const HttpRequest& request, const ApiError& error) {
  metrics_.count_refusal(refusal_of(error));
  if (record_) record_->error = error.code.empty() ? error.what() : error.code;
  return respond(request, answer_of(error));
}

asio::awaitable<void> Session::send(std::string bytes) {
  writing_ = true;
  for (std::size_t sent = 0; sent < bytes.size() && !gone_;) {
    write_us_ = now_us();
    const Transport::Result result = co_await transport_.write_some(std::string_view(bytes).substr(sent));
    if (result.error) gone_ = true;
    sent += result.num_bytes;
  }
  writing_ = false;
  write_us_ = now_us();
}

// Lets the peer read our last answer: closing with its bytes unread would reset the connection.
asio::awaitable<void> Session::linger() {
  transport_.shutdown_send();
  asio::steady_timer deadline(thread_.context(), state_.draining ? std::chrono::milliseconds(200) : kLinger);
  std::weak_ptr<Session> weak = weak_from_this();
  deadline.async_wait([weak](error_code error) {
    if (auto session = weak.lock(); session && !error) session->close_socket();
  });
  set_phase(Phase::kLinger);
  while (true) {
    in_.clear();
    const Transport::Result result = co_await transport_.read_some(in_, kReadBytes);
    if (result.error) break;
  }
}

// ---- tokens without an engine

// Runs `job` on a text thread where the text is long; the coroutine waits for it, so that what it refers to stays.
asio::awaitable<void> Session::on_text_pool(std::size_t num_bytes, std::function<void()> job) {
  if (num_bytes <= state_.config.long_prompt_bytes) {
    job();
    co_return;
  }
  std::exception_ptr error;
  bool done = false;
  state_.text_pool.post([&] {
    try {
      job();
    } catch (...) {
      error = std::current_exception();
    }
    thread_.post([this, &done] {
      done = true;
      wake_.cancel();
    });
  });
  while (!done) co_await sleep();
  if (error) std::rethrow_exception(error);
}

asio::awaitable<void> Session::tokenize(HttpRequest& request) {
  const TokenizeRequest wanted = parse_tokenize(request.body);
  std::vector<TokenId> ids;
  co_await on_text_pool(text_bytes(wanted.api), [&] { ids = make_ids(wanted.api, state_.tools()); });
  HttpAnswer answer;
  answer.body = tokenize_body(wanted, ids, *state_.tools().tokenizer, state_.engine().info().max_model_len);
  co_await respond(request, std::move(answer));
}

asio::awaitable<void> Session::detokenize(HttpRequest& request) {
  const Tokenizer& tokenizer = *state_.tools().tokenizer;
  const std::vector<TokenId> ids = parse_detokenize(request.body, tokenizer.vocab_size());
  HttpAnswer answer;
  co_await on_text_pool(ids.size(), [&] { answer.body = detokenize_body(ids, tokenizer); });
  co_await respond(request, std::move(answer));
}

// ---- seeing the peer's end while an answer is on its way

asio::awaitable<void> Session::sleep() { std::ignore = co_await wake_.async_wait(kAwait); }

void Session::start_watch() {
  watching_ = true;
  std::shared_ptr<Session> self = shared_from_this();
  asio::co_spawn(thread_.context(), watch(self), asio::bind_cancellation_slot(stop_watch_.slot(), [self](std::exception_ptr) {
                   self->watching_ = false;
                   self->wake_.cancel();
                 }));
}

asio::awaitable<void> Session::stop_watch() {
  if (watching_) stop_watch_.emit(asio::cancellation_type::terminal);
  while (watching_) co_await sleep();
}

asio::awaitable<void> Session::watch(std::shared_ptr<Session> self) {
  while (in_.size() < kMaxPipelinedBytes) {
    const Transport::Result result = co_await transport_.read_some(in_, kMaxPipelinedBytes);
    if (result.error == asio::error::operation_aborted) co_return;
    if (!result.error) continue;
    peer_ended_ = true;
    (result.error == asio::error::eof ? probe_wanted_ : gone_) = true;
    wake_.cancel();
    break;
  }
  if (gone_) co_return;
  const error_code error = co_await transport_.wait_reset();
  if (error == asio::error::operation_aborted) co_return;
  gone_ = true;
  wake_.cancel();
}

void serve_connection(ServerState& state, IoThread& thread, const Accepted& accepted) {
  auto session = std::make_shared<Session>(state, thread, accepted);
  asio::co_spawn(thread.context(), session->run(session), [session](std::exception_ptr error) {
    if (error) log_error("a connection ended with an exception");
  });
}

}  // namespace fastgen::server
