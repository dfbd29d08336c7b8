#include "server/server.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/log.h"
#include "server/io_thread.h"
#include "server/session.h"

namespace fastgen::server {

namespace asio = boost::asio;
using asio::ip::tcp;

struct Server::Impl {
  Impl(ServerConfig config, Engine& engine, TextTools tools) : state(std::move(config), engine, std::move(tools)) {}

  asio::awaitable<void> accept();
  void hand_over(int fd);
  void listen();
  bool wait_closed(double seconds);
  void stop();

  ServerState state;
  std::vector<std::unique_ptr<IoThread>> threads;
  std::unique_ptr<tcp::acceptor> acceptor;  // belongs to thread 0 while that runs
  std::string address;
  std::uint16_t port = 0;
  bool stopped = false;
};

namespace {

tcp::endpoint find_endpoint(asio::io_context& context, const std::string& host, std::uint16_t port) {
  boost::system::error_code error;
  const asio::ip::address address = asio::ip::make_address(host, error);
  if (!error) return {address, port};
  tcp::resolver resolver(context);
  const auto found = resolver.resolve(host, fmt::format("{}", port), tcp::resolver::passive, error);
  if (error || found.empty()) throw Error(fmt::format("--host {}: {}", host, error.message()));
  return found.begin()->endpoint();
}

}  // namespace

// ---- listening

void Server::Impl::listen() {
  asio::io_context& context = threads.front()->context();
  const tcp::endpoint endpoint = find_endpoint(context, state.config.host, state.config.port);
  address = endpoint.address().to_string();
  if (endpoint.address().is_v6()) address = "[" + address + "]";
  acceptor = std::make_unique<tcp::acceptor>(context);
  boost::system::error_code error;
  acceptor->open(endpoint.protocol(), error);
  if (!error) acceptor->set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor->bind(endpoint, error);
  if (!error) acceptor->listen(asio::socket_base::max_listen_connections, error);
  if (!error) acceptor->native_non_blocking(true, error);
  if (error) {
    const char* hint = error == asio::error::address_in_use ? "; another server runs there, choose another --port" : "";
    throw Error(fmt::format("cannot listen on {}:{}: {}{}", address, state.config.port, error.message(), hint));
  }
  port = acceptor->local_endpoint().port();
}

// Sockets come by accept4 rather than async_accept: which thread gets one is decided when it is there.
asio::awaitable<void> Server::Impl::accept() {
  asio::steady_timer pause(threads.front()->context());
  while (true) {
    co_await acceptor->async_wait(tcp::acceptor::wait_read, asio::use_awaitable);
    while (true) {
      const int fd = ::accept4(acceptor->native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd >= 0) {
        hand_over(fd);
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        log_warn("cannot accept a connection: {}", std::generic_category().message(errno));
        pause.expires_after(std::chrono::milliseconds(100));
        co_await pause.async_wait(asio::use_awaitable);
      } else if (errno != EINTR && errno != ECONNABORTED) {
        break;
      }
    }
  }
}

void Server::Impl::hand_over(int fd) {
  auto load = [](const std::unique_ptr<IoThread>& thread) {
    return std::pair(thread->num_answers.load(std::memory_order_relaxed), thread->num_connections.load(std::memory_order_relaxed));
  };
  auto least = std::min_element(threads.begin(), threads.end(), [&](auto& a, auto& b) { return load(a) < load(b); });
  IoThread& thread = **least;
  state.num_connections.fetch_add(1, std::memory_order_relaxed);
  if (least == threads.begin()) return serve_connection(state, thread, fd);
  thread.post([this, &thread, fd] { serve_connection(state, thread, fd); });
}

// ---- shutdown

bool Server::Impl::wait_closed(double seconds) {
  std::unique_lock lock(state.closed_mutex);
  return state.closed.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return state.num_connections == 0; });
}

void Server::Impl::stop() {
  if (std::exchange(stopped, true)) return;
  for (auto& thread : threads) thread->stop();
  state.text_pool.stop();  // its jobs refer to coroutines that the io threads hold
  acceptor.reset();
  threads.clear();
}

// ---- the public face

Server::Server(ServerConfig config, Engine& engine, std::shared_ptr<const Tokenizer> tokenizer,
               std::shared_ptr<const ChatTemplate> chat_template) {
  FG_CHECK(!config.model_names.empty() && config.num_io_threads >= 1);
  TextTools tools{std::move(tokenizer), std::move(chat_template), config.trust_content};
  impl_ = std::make_unique<Impl>(std::move(config), engine, std::move(tools));
}

Server::~Server() { drain(0); }

void Server::start() {
  for (int i = 0; i < impl_->state.config.num_io_threads; ++i)
    impl_->threads.push_back(std::make_unique<IoThread>(impl_->state, i));
  impl_->listen();
  asio::co_spawn(impl_->threads.front()->context(), impl_->accept(), asio::detached);
  for (auto& thread : impl_->threads) thread->start();
}

std::uint16_t Server::port() const { return impl_->port; }

std::string Server::url() const { return fmt::format("http://{}:{}", impl_->address, impl_->port); }

bool Server::drain(double seconds) {
  Impl& impl = *impl_;
  if (impl.stopped || impl.threads.empty() || !impl.acceptor) {
    impl.stop();
    return true;
  }
  auto on_each_connection = [&](void (Connection::*action)()) {
    for (auto& thread : impl.threads)
      thread->post([&thread = *thread, action] {
        const std::vector<Connection*> open(thread.connections().begin(), thread.connections().end());
        for (Connection* connection : open) (connection->*action)();
      });
  };
  impl.state.draining = true;
  impl.threads.front()->post([&impl] { impl.acceptor->close(); });
  on_each_connection(&Connection::drain);
  const bool ended = impl.wait_closed(seconds);
  if (!ended) {
    on_each_connection(&Connection::abort);
    impl.wait_closed(1);
  }
  impl.stop();
  return ended;
}

}  // namespace fastgen::server
