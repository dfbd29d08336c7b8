// Row by row: read a request, route it; a generating one takes its tickets, is parsed, rendered and tokenized,
// submitted, and then this coroutine sleeps on `wake_` until events, the peer's end or a shutdown come.
//
// A peer that shuts down its sending half (nc, some proxies) still wants its answer, but a FIN alone does not tell
// this from a closed socket. So on a FIN we send something harmless, an interim response or an SSE comment: a closed
// socket answers it with a reset, which ends the generation.
#include "server/session.h"

#include <optional>
#include <tuple>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <fmt/format.h>

#include "base/check.h"
#include "base/log.h"
#include "server/generation.h"
#include "server/routes.h"
#include "server/sse.h"

namespace fastgen::server {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kMaxPipelinedBytes = 64 << 10;  // read ahead while an answer is on its way
constexpr std::string_view kInterim = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::chrono::seconds kLinger{2};

class Session final : public Connection, public std::enable_shared_from_this<Session> {
 public:
  Session(ServerState& state, IoThread& thread, int fd)
      : state_(state), thread_(thread), socket_(thread.context()), wake_(thread.context()) {
    thread_.connections().insert(this);
    thread_.num_connections.fetch_add(1, std::memory_order_relaxed);
    wake_.expires_at(asio::steady_timer::time_point::max());
    error_code ignored;
    socket_.assign(asio::ip::tcp::v4(), fd, ignored);  // Asio only keeps the family
    socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
    socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  }

  ~Session() override {
    thread_.connections().erase(this);
    thread_.num_connections.fetch_sub(1, std::memory_order_relaxed);
    error_code ignored;
    socket_.close(ignored);  // before the count says that it is closed
    state_.connection_closed();
  }

  asio::awaitable<void> run(std::shared_ptr<Session> self);

  void drain() override {
    if (idle_) close_socket();
  }

  void abort() override {
    if (generation_ == nullptr || generation_->done()) return close_socket();
    generation_->fail(shutting_down());
    wake_.cancel();
  }

 private:
  // Owns the answer's tags and its place in the counts; whatever ends the coroutine, the engine hears of it.
  class Answer {
   public:
    Answer(Session& session, std::unique_ptr<Generation> generation) : session_(session), generation_(std::move(generation)) {
      session_.generation_ = generation_.get();
    }
    ~Answer() {
      generation_->abandon();
      for (std::uint64_t tag : tags_) session_.thread_.streams().detach(tag);
      session_.generation_ = nullptr;
      session_.request_ids_.clear();
    }
    Answer(const Answer&) = delete;
    Answer& operator=(const Answer&) = delete;
    void submit(std::vector<Request> requests, std::vector<Ticket> tickets);

   private:
    Session& session_;
    std::unique_ptr<Generation> generation_;
    std::vector<std::uint64_t> tags_;
  };

  asio::awaitable<bool> read_request(HttpRequest& request);
  asio::awaitable<void> answer(HttpRequest& request);
  asio::awaitable<void> generate(Endpoint endpoint, HttpRequest& request);
  asio::awaitable<std::vector<Prompt>> tokenize(const ApiRequest& api);
  asio::awaitable<void> send_stream(const HttpRequest& request);
  asio::awaitable<void> send_body(const HttpRequest& request);
  asio::awaitable<void> send_probe(bool header_sent, bool http11);
  asio::awaitable<void> send(std::string bytes);
  asio::awaitable<void> linger();
  asio::awaitable<void> watch(std::shared_ptr<Session> self);
  asio::awaitable<void> sleep();

  void start_watch();
  asio::awaitable<void> stop_watch();
  std::vector<Ticket> take_tickets(std::size_t count, std::vector<Ticket> tickets);
  std::vector<Request> make_requests(const ApiRequest& api, const std::vector<Prompt>& prompts);
  std::unique_ptr<Generation> make_generation(const ApiRequest& api, std::vector<Prompt> prompts);
  void on_events();

  bool keep_alive(const HttpRequest& request) const { return request.keep_alive && !peer_ended_ && !state_.draining; }
  void close_socket() {
    error_code ignored;
    socket_.close(ignored);
    gone_ = true;
    wake_.cancel();
  }

  ServerState& state_;
  IoThread& thread_;
  asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_;  // read and not yet parsed
  asio::steady_timer wake_;           // never expires; cancel() wakes sleep()
  asio::cancellation_signal stop_watch_;
  bool watching_ = false;

  bool idle_ = false;         // between requests
  bool closing_ = false;      // no further request
  bool gone_ = false;         // the peer is gone, or the socket was closed by us
  bool peer_ended_ = false;   // it sent a FIN
  bool probe_wanted_ = false;
  bool writing_ = false;
  Generation* generation_ = nullptr;    // the current answer's
  std::vector<RequestId> request_ids_;  // of its prompts, in order
};

// ---- the connection

asio::awaitable<void> Session::run(std::shared_ptr<Session> self) {
  while (!closing_ && !gone_) {
    HttpRequest request;
    const bool complete = co_await read_request(request);
    if (!complete) break;
    co_await answer(request);
    if (!keep_alive(request)) break;
  }
  if (!gone_) co_await linger();
}

// Beast's complaint as a status; none: the peer just went away.
std::optional<ApiError> read_error(const ServerConfig& config, error_code error) {
  if (error == http::error::header_limit)
    return ApiError(431, fmt::format("the request's header is over {} bytes", config.max_header_bytes), "", "header_too_large");
  if (error == http::error::body_limit)
    return ApiError(413, fmt::format("the request's body is over {} bytes (--max-body-bytes)", config.max_body_bytes), "",
                    "body_too_large");
  if (error == http::error::end_of_stream || error == http::error::partial_message) return std::nullopt;
  if (error.category() == http::make_error_code(http::error::bad_method).category())
    return ApiError(400, fmt::format("not HTTP/1.1: {}", error.message()), "", "invalid_http");
  return std::nullopt;
}

asio::awaitable<bool> Session::read_request(HttpRequest& request) {
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(state_.config.max_header_bytes));
  parser.body_limit(state_.config.max_body_bytes);
  idle_ = true;
  if (state_.draining) co_return false;
  auto [header_error, header_bytes] = co_await http::async_read_header(socket_, buffer_, parser, kAwait);
  idle_ = false;
  error_code error = header_error;
  if (!error && parser.get()[http::field::expect] == "100-continue" && !parser.is_done()) {
    std::string go_on(kInterim);
    co_await send(std::move(go_on));
  }
  if (!error && !parser.is_done()) {
    auto [body_error, body_bytes] = co_await http::async_read(socket_, buffer_, parser, kAwait);
    error = body_error;
  }
  if (gone_) co_return false;
  if (error) {
    if (std::optional<ApiError> refusal = read_error(state_.config, error)) {
      std::string text = format_answer(answer_of(*refusal), false);
      co_await send(std::move(text));
    } else {
      gone_ = error != http::error::end_of_stream;
    }
    co_return false;
  }
  http::request<http::string_body> message = parser.release();
  request.method = std::string(message.method_string());
  request.target = std::string(message.target());
  request.content_type = std::string(message[http::field::content_type]);
  request.http11 = message.version() >= 11;
  request.keep_alive = message.keep_alive();
  request.body = std::move(message.body());
  co_return true;
}

asio::awaitable<void> Session::answer(HttpRequest& request) {
  std::optional<ApiError> refusal;
  try {
    std::variant<HttpAnswer, Endpoint> routed = route(state_, request);
    if (auto* ready = std::get_if<HttpAnswer>(&routed)) {
      std::string text = format_answer(*ready, keep_alive(request), request.method == "HEAD");
      co_await send(std::move(text));
    } else {
      co_await generate(std::get<Endpoint>(routed), request);
    }
  } catch (const ApiError& error) {
    refusal = error;
  } catch (const std::exception& error) {
    refusal = ApiError(500, fmt::format("internal error: {}", error.what()), "", "internal_error");
  }
  co_await stop_watch();
  if (refusal && !gone_) {
    std::string text = format_answer(answer_of(*refusal), keep_alive(request), request.method == "HEAD");
    co_await send(std::move(text));
  }
}

// Lets the peer read our last answer: closing with its bytes unread would reset the connection.
asio::awaitable<void> Session::linger() {
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  asio::steady_timer deadline(thread_.context(), state_.draining ? std::chrono::milliseconds(200) : kLinger);
  std::weak_ptr<Session> weak = weak_from_this();
  deadline.async_wait([weak](error_code error) {
    if (auto session = weak.lock(); session && !error) session->close_socket();
  });
  idle_ = true;
  char scrap[4096];
  while (true) {
    auto [error, num_bytes] = co_await socket_.async_read_some(asio::buffer(scrap), kAwait);
    if (error) break;
  }
}

// ---- one generated answer

asio::awaitable<void> Session::generate(Endpoint endpoint, HttpRequest& request) {
  struct Count {
    std::atomic<int>&total, &here;
    Count(std::atomic<int>& a, std::atomic<int>& b) : total(a), here(b) { ++total, ++here; }
    ~Count() { --total, --here; }
  } count(state_.num_answers, thread_.num_answers);
  if (state_.draining) throw shutting_down();
  std::vector<Ticket> tickets = take_tickets(1, {});
  const ApiRequest api = parse_api_request(endpoint, request.body, state_.engine.info().sampling);
  request.body = {};
  if (state_.config.strict_model && !state_.knows_model(api.model))
    throw ApiError(404, fmt::format("model: \"{}\" is not served here", api.model), "model", "model_not_found");
  tickets = take_tickets(api.num_prompts(), std::move(tickets));

  start_watch();
  std::vector<Prompt> prompts = co_await tokenize(api);
  if (gone_) co_return;
  std::vector<Request> requests = make_requests(api, prompts);
  Answer answer(*this, make_generation(api, std::move(prompts)));
  answer.submit(std::move(requests), std::move(tickets));
  if (api.stream) {
    co_await send_stream(request);
  } else {
    co_await send_body(request);
  }
}

std::vector<Ticket> Session::take_tickets(std::size_t count, std::vector<Ticket> tickets) {
  if (static_cast<std::int64_t>(count) > state_.engine.info().max_queue)
    throw bad_field("prompt", fmt::format("{} prompts in one request, but the queue has {} places (--max-queue)", count,
                                          state_.engine.info().max_queue));
  while (tickets.size() < count) {
    std::optional<Ticket> ticket = state_.engine.try_admit();
    if (!ticket) throw overloaded();
    tickets.push_back(std::move(*ticket));
  }
  return tickets;
}

asio::awaitable<std::vector<Prompt>> Session::tokenize(const ApiRequest& api) {
  if (text_bytes(api) <= state_.config.long_prompt_bytes) co_return make_prompts(api, state_.tools);
  std::vector<Prompt> prompts;
  std::exception_ptr error;
  bool done = false;
  // The coroutine waits below until `done`, so its variables and the session outlive the job.
  state_.text_pool.post([&] {
    try {
      prompts = make_prompts(api, state_.tools);
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
  co_return prompts;
}

std::vector<Request> Session::make_requests(const ApiRequest& api, const std::vector<Prompt>& prompts) {
  std::vector<Request> requests;
  for (const Prompt& prompt : prompts) {
    Request request = make_engine_request(api, prompt, state_.engine.info().max_model_len, state_.next_seed());
    request.ring_idx = thread_.ring_idx();
    std::string field;
    if (std::string why = state_.engine.validate(request, &field); !why.empty())
      throw ApiError(400, why, field);  // it begins with the field's name
    requests.push_back(std::move(request));
  }
  return requests;
}

std::unique_ptr<Generation> Session::make_generation(const ApiRequest& api, std::vector<Prompt> prompts) {
  const char* prefix = api.endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-";
  AnswerWriter writer(api, state_.tools.tokenizer, make_id(prefix), state_.model_name(), std::time(nullptr));
  Generation::Environment environment;
  environment.tokenizer = state_.tools.tokenizer;
  environment.eos_ids = state_.engine.info().eos_ids;
  environment.cancel = [this](std::size_t prompt_idx, std::int32_t choice_idx) {
    if (prompt_idx < request_ids_.size()) state_.engine.cancel(request_ids_[prompt_idx], choice_idx);
  };
  environment.wake = [this] { on_events(); };
  environment.split_reasoning = state_.config.split_reasoning;
  return std::make_unique<Generation>(api, std::move(prompts), std::move(writer), std::move(environment));
}

void Session::Answer::submit(std::vector<Request> requests, std::vector<Ticket> tickets) {
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].user_tag = session_.thread_.streams().open(generation_.get(), i);
    tags_.push_back(requests[i].user_tag);
    session_.request_ids_.push_back(session_.state_.engine.submit(std::move(tickets[i]), std::move(requests[i])));
  }
}

void Session::on_events() {
  // Only what piles up behind a write counts: one large frame is no sign of a slow reader.
  if (writing_ && generation_->frames().size() > state_.config.max_stream_bytes) {
    generation_->abandon();
    close_socket();
  }
  wake_.cancel();
}

asio::awaitable<void> Session::send_stream(const HttpRequest& request) {
  const bool keep = request.http11 && keep_alive(request);
  closing_ = !keep;
  bool header_sent = false;
  while (!gone_) {
    if (generation_->error() && !header_sent) throw ApiError(*generation_->error());
    const bool done = generation_->done();
    if (std::string frames = std::exchange(generation_->frames(), {}); !frames.empty()) {
      std::string out = header_sent ? "" : format_stream_header(request.http11, keep);
      header_sent = true;
      out += request.http11 ? make_chunk(frames) : frames;
      if (done && request.http11) out += kLastChunk;
      co_await send(std::move(out));
    } else if (done) {
      break;
    } else if (probe_wanted_) {
      co_await send_probe(header_sent, request.http11);
    } else {
      co_await sleep();
    }
  }
}

asio::awaitable<void> Session::send_body(const HttpRequest& request) {
  while (!generation_->done() && !gone_) {
    if (probe_wanted_) {
      co_await send_probe(false, request.http11);
    } else {
      co_await sleep();
    }
  }
  if (gone_) co_return;
  if (generation_->error()) throw ApiError(*generation_->error());
  HttpAnswer answer;
  answer.body = generation_->body();
  std::string text = format_answer(answer, keep_alive(request));
  co_await send(std::move(text));
}

asio::awaitable<void> Session::send_probe(bool header_sent, bool http11) {
  probe_wanted_ = false;
  std::string probe(kInterim);
  if (header_sent) probe = http11 ? make_chunk(kCommentFrame) : std::string(kCommentFrame);
  if (!header_sent && !http11) {
    // HTTP/1.0 knows no interim response: here a FIN has to count as the end.
    gone_ = true;
    co_return;
  }
  co_await send(std::move(probe));
}

asio::awaitable<void> Session::send(std::string bytes) {
  writing_ = true;
  auto [error, num_bytes] = co_await asio::async_write(socket_, asio::buffer(bytes), kAwait);
  writing_ = false;
  if (error) gone_ = true;
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
  while (buffer_.size() < kMaxPipelinedBytes) {
    auto [error, num_bytes] = co_await socket_.async_read_some(buffer_.prepare(4096), kAwait);
    if (error == asio::error::operation_aborted) co_return;
    buffer_.commit(num_bytes);
    if (!error) continue;
    peer_ended_ = true;
    (error == asio::error::eof ? probe_wanted_ : gone_) = true;
    wake_.cancel();
    break;
  }
  if (gone_) co_return;
  auto [error] = co_await socket_.async_wait(asio::socket_base::wait_error, kAwait);
  if (error == asio::error::operation_aborted) co_return;
  gone_ = true;
  wake_.cancel();
}

}  // namespace

void serve_connection(ServerState& state, IoThread& thread, int fd) {
  auto session = std::make_shared<Session>(state, thread, fd);
  asio::co_spawn(thread.context(), session->run(session), [session](std::exception_ptr error) {
    if (error) log_error("a connection ended with an exception");
  });
}

}  // namespace fastgen::server
