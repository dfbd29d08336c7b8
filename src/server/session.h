// One client's connection: requests in, answers out, one coroutine (rows 1-4 and 11-12).
//
// Row by row: read a request, route it; a generating one takes its tickets, is parsed, rendered and tokenized, and submitted.
// From then on events do not wake the coroutine: on_events writes their frames at once, as far as the socket takes them, and the
// coroutine is woken only for what is left, for the end, the peer's end or a shutdown.
//
// A peer that shuts down its sending half (nc, some proxies) still wants its answer, but a FIN alone does not tell
// this from a closed socket. So on a FIN we send something harmless, an interim response or an SSE comment: a closed
// socket answers it with a reset, which ends the generation.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "server/generation.h"
#include "server/io_thread.h"
#include "server/routes.h"
#include "server/transport.h"

namespace fastgen::server {

class HttpReader;

// An accepted socket and who is at its other end.
struct Accepted {
  int fd = -1;
  std::string address;                         // "127.0.0.1", "unix"
  boost::asio::ssl::context* tls = nullptr;    // null: plain
};

class Session final : public Connection, public std::enable_shared_from_this<Session> {
 public:
  Session(ServerState& state, IoThread& thread, const Accepted& accepted);
  ~Session() override;
  boost::asio::awaitable<void> run(std::shared_ptr<Session> self);

  void drain() override;
  void abort() override;
  void tick(std::uint64_t now_us) override;

 private:
  template <typename T>
  using Awaitable = boost::asio::awaitable<T>;

  // What the connection is doing; tick() looks at how long.
  enum class Phase : std::uint8_t { kIdle, kHeader, kBody, kAnswer, kLinger };

  // Owns the answer's tags and its place in the counts; whatever ends the coroutine, the engine hears of it.
  class Answer {
   public:
    Answer(Session& session, std::unique_ptr<Generation> generation);
    ~Answer();
    Answer(const Answer&) = delete;
    Answer& operator=(const Answer&) = delete;
    void submit(std::vector<Request> requests, std::vector<Ticket> tickets);

   private:
    Session& session_;
    std::unique_ptr<Generation> generation_;
    std::vector<std::uint64_t> tags_;
  };

  // ---- session.cpp: requests and ready answers
  Awaitable<bool> read_request(HttpRequest& request);
  Awaitable<bool> read_more();
  std::optional<ApiError> take_bytes(HttpReader& reader);
  Awaitable<void> answer(HttpRequest& request);
  Awaitable<void> carry_out(Work work, HttpRequest& request);
  Awaitable<void> respond(const HttpRequest& request, HttpAnswer answer);
  Awaitable<void> refuse(const HttpRequest& request, const ApiError& error);
  Awaitable<void> tokenize(HttpRequest& request);
  Awaitable<void> detokenize(HttpRequest& request);
  Awaitable<void> on_text_pool(std::size_t num_bytes, std::function<void()> job);
  Awaitable<void> send(std::string bytes);
  Awaitable<void> linger();
  Awaitable<void> watch(std::shared_ptr<Session> self);
  Awaitable<void> sleep();
  void start_watch();
  Awaitable<void> stop_watch();
  void set_phase(Phase phase);
  void close_socket();
  std::string common_headers(const HttpRequest& request) const;
  bool keep_alive(const HttpRequest& request) const { return request.keep_alive && !peer_ended_ && !state_.draining; }

  // ---- session_generate.cpp: generated answers
  Awaitable<void> generate(Endpoint endpoint, HttpRequest& request);
  Awaitable<void> send_stream(const HttpRequest& request);
  Awaitable<void> send_body(const HttpRequest& request);
  Awaitable<void> send_probe(const HttpRequest& request);
  Awaitable<void> send_rest();
  void admit(const ApiRequest& api, std::vector<Ticket>& tickets);
  void take_ticket(std::vector<Ticket>& tickets);
  std::vector<Request> make_requests(const ApiRequest& api, const std::vector<Prompt>& prompts);
  std::unique_ptr<Generation> make_generation(const ApiRequest& api, const HttpRequest& request, std::vector<Prompt> prompts);
  void refuse_late(const ApiRequest& api, const HttpRequest& request);
  void arm_deadline(const ApiRequest& api, const HttpRequest& request);
  void on_deadline(const ApiRequest& api, const HttpRequest& request);
  void on_events();
  void flush();
  void drop_slow_reader();

  ServerState& state_;
  IoThread& thread_;
  ThreadMetrics& metrics_;
  const std::string address_;
  Transport transport_;
  std::string in_;                    // read and not yet parsed
  boost::asio::steady_timer wake_;    // never expires; cancel() wakes sleep()
  boost::asio::cancellation_signal stop_watch_;
  bool watching_ = false;

  Phase phase_ = Phase::kIdle;
  std::uint64_t phase_us_ = 0, read_us_ = 0, write_us_ = 0;  // when it began, when bytes last came and went
  bool is_first_ = true;        // no request yet
  bool read_timed_out_ = false;
  bool closing_ = false;      // no further request
  bool gone_ = false;         // the peer is gone, or the socket was closed by us
  bool peer_ended_ = false;   // it sent a FIN
  bool probe_wanted_ = false;
  bool writing_ = false;      // a coroutine is, so that nothing else may

  // ---- the current answer's
  Generation* generation_ = nullptr;
  std::vector<RequestId> request_ids_;  // of its prompts, in order
  std::string headers_;                 // x-request-id and the like
  std::string rest_;                    // of a stream: what the socket did not take at once
  Route route_ = Route::kOther;
  bool streaming_ = false, header_sent_ = false, end_sent_ = false, http11_ = true, keeps_ = true;
  std::unique_ptr<boost::asio::steady_timer> deadline_;  // only for requests that have one
  std::uint64_t deadline_serial_ = 0;                    // a handler of an earlier one does nothing
  std::unique_ptr<RequestRecord> record_;                // of a request that is logged or counted
};

// Takes over the connected socket. On the io thread of `thread`, which the session never leaves.
void serve_connection(ServerState& state, IoThread& thread, const Accepted& accepted);

}  // namespace fastgen::server
