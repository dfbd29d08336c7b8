#include "server/server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "server/io_thread.h"
#include "server/session.h"

namespace fastgen::server {

namespace asio = boost::asio;
using asio::ip::tcp;
using Acceptor = asio::basic_socket_acceptor<asio::generic::stream_protocol>;

// Which file it is: the number alone is soon another's. Rights may change without a change of this.
using FileMark = std::tuple<dev_t, ino_t, std::int64_t, std::int64_t>;

struct Server::Impl {
  explicit Impl(ServerConfig config) : state(std::move(config)) {}

  asio::awaitable<void> accept(Acceptor& acceptor);
  void hand_over(int fd, bool is_unix);
  void accept_last(std::unique_ptr<Acceptor>& from);
  void close_to_new();
  void listen();
  void listen_on_path();
  void open(Acceptor& acceptor, const asio::generic::stream_protocol::endpoint& endpoint, boost::system::error_code& error);
  bool wait_closed(double seconds);
  void stop();

  ServerState state;
  std::vector<std::unique_ptr<IoThread>> threads;
  std::optional<asio::ssl::context> tls;
  std::unique_ptr<Acceptor> acceptor, path_acceptor;  // belong to thread 0 while that runs; the second listens on a Unix socket
  FileMark path_file;  // of our Unix socket
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

void Server::Impl::open(Acceptor& to, const asio::generic::stream_protocol::endpoint& endpoint, boost::system::error_code& error) {
  to.open(endpoint.protocol(), error);
  if (!error) to.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) to.bind(endpoint, error);
  if (!error) to.listen(asio::socket_base::max_listen_connections, error);
  if (!error) to.native_non_blocking(true, error);
}

void Server::Impl::listen() {
  asio::io_context& context = threads.front()->context();
  const tcp::endpoint endpoint = find_endpoint(context, state.config.host, state.config.port);
  address = endpoint.address().to_string();
  if (endpoint.address().is_v6()) address = "[" + address + "]";
  acceptor = std::make_unique<Acceptor>(context);
  boost::system::error_code error;
  open(*acceptor, endpoint, error);
  if (error) {
    const char* hint = error == asio::error::address_in_use ? "; another server runs there, choose another --port" : "";
    throw Error(fmt::format("cannot listen on {}:{}: {}{}", address, state.config.port, error.message(), hint));
  }
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  ::getsockname(acceptor->native_handle(), reinterpret_cast<sockaddr*>(&bound), &size);
  // The port lies at the same place for both families.
  port = ntohs(reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
  if (!state.config.unix_socket.empty()) listen_on_path();
}

namespace {

FileMark file_of(const std::string& path) {
  struct stat found{};
  if (::lstat(path.c_str(), &found) != 0) return {};
  return {found.st_dev, found.st_ino, found.st_mtim.tv_sec, found.st_mtim.tv_nsec};
}

// A server that was killed leaves its socket behind, and nobody takes what is sent to it.
bool is_left_over(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const bool refused = fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 && errno == ECONNREFUSED;
  if (fd >= 0) ::close(fd);
  return refused;
}

}  // namespace

void Server::Impl::listen_on_path() {
  const std::string& path = state.config.unix_socket;
  if (path.size() >= sizeof(sockaddr_un::sun_path)) throw Error(fmt::format("--unix-socket {}: the path is too long for a socket", path));
  struct stat found{};
  if (::lstat(path.c_str(), &found) == 0) {
    if (!S_ISSOCK(found.st_mode)) throw Error(fmt::format("--unix-socket {}: there is something that is no socket", path));
    if (!is_left_over(path)) throw Error(fmt::format("--unix-socket {}: another server listens there", path));
    ::unlink(path.c_str());
  }
  path_acceptor = std::make_unique<Acceptor>(threads.front()->context());
  boost::system::error_code error;
  open(*path_acceptor, asio::local::stream_protocol::endpoint(path), error);
  if (error) throw Error(fmt::format("--unix-socket {}: {}", path, error.message()));
  path_file = file_of(path);
}

// Sockets come by accept4 rather than async_accept: which thread gets one is decided when it is there.
asio::awaitable<void> Server::Impl::accept(Acceptor& from) {
  asio::steady_timer pause(threads.front()->context());
  const bool is_unix = &from == path_acceptor.get();
  while (true) {
    co_await from.async_wait(asio::socket_base::wait_read, asio::use_awaitable);
    while (true) {
      const int fd = ::accept4(from.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd >= 0) {
        hand_over(fd, is_unix);
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

namespace {

std::string peer_address(int fd) {
  sockaddr_storage peer{};
  socklen_t size = sizeof(peer);
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return "unknown";
  const void* place = peer.ss_family == AF_INET6 ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6*>(&peer)->sin6_addr)
                                                 : static_cast<const void*>(&reinterpret_cast<const sockaddr_in*>(&peer)->sin_addr);
  return ::inet_ntop(peer.ss_family, place, text.data(), text.size()) != nullptr ? std::string(text.data()) : "unknown";
}

// Says so without reading anything; under TLS nothing can be said without a handshake.
void turn_away(int fd, bool is_tls) {
  if (!is_tls) {
    ApiError error(429, "too many connections from this address (--max-connections-per-address)", "", "too_many_connections");
    error.retry_after_s = 1;
    const std::string text = format_answer(answer_of(error), false);
    [[maybe_unused]] const auto sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  ::close(fd);
}

}  // namespace

void Server::Impl::hand_over(int fd, bool is_unix) {
  Accepted accepted{fd, is_unix ? "unix" : peer_address(fd), tls && !is_unix ? &*tls : nullptr};
  if (!state.addresses.enter(accepted.address)) return turn_away(fd, accepted.tls != nullptr);
  auto load = [](const std::unique_ptr<IoThread>& thread) {
    return std::pair(thread->num_answers.load(std::memory_order_relaxed), thread->num_connections.load(std::memory_order_relaxed));
  };
  auto least = std::min_element(threads.begin(), threads.end(), [&](auto& a, auto& b) { return load(a) < load(b); });
  IoThread& thread = **least;
  state.num_connections.fetch_add(1, std::memory_order_relaxed);
  if (least == threads.begin()) return serve_connection(state, thread, accepted);
  thread.post([this, &thread, accepted] { serve_connection(state, thread, accepted); });
}

// ---- shutdown

// The kernel has connected some peers already that nobody has accepted: closing now would reset them in the middle of their request.
void Server::Impl::accept_last(std::unique_ptr<Acceptor>& from) {
  if (!from) return;
  for (int fd = 0; (fd = ::accept4(from->native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;)
    hand_over(fd, &from == &path_acceptor);
  from->close();
}

// Returns when all who have connected are counted; after a second in any case, should the io thread be held up.
void Server::Impl::close_to_new() {
  auto done = std::make_shared<std::promise<void>>();
  threads.front()->post([this, done] {
    accept_last(acceptor);
    accept_last(path_acceptor);
    done->set_value();
  });
  done->get_future().wait_for(std::chrono::seconds(1));
}

bool Server::Impl::wait_closed(double seconds) {
  std::unique_lock lock(state.closed_mutex);
  return state.closed.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return state.num_connections == 0; });
}

void Server::Impl::stop() {
  if (std::exchange(stopped, true)) return;
  for (auto& thread : threads) thread->stop();
  state.text_pool.stop();  // its jobs refer to coroutines that the io threads hold
  // While this one drained, its successor may have put a socket of its own there.
  if (path_acceptor && path_file == file_of(state.config.unix_socket)) ::unlink(state.config.unix_socket.c_str());
  acceptor.reset();
  path_acceptor.reset();
  threads.clear();
}

// ---- the public face

Server::Server(ServerConfig config) {
  FG_CHECK(!config.model_names.empty() && config.num_io_threads >= 1);
  impl_ = std::make_unique<Impl>(std::move(config));
}

Server::~Server() { drain(0); }

void Server::start() {
  for (int i = 0; i < impl_->state.config.num_io_threads; ++i)
    impl_->threads.push_back(std::make_unique<IoThread>(impl_->state, i));
  const ServerConfig& config = impl_->state.config;
  if (!config.tls_cert.empty() || !config.tls_key.empty()) impl_->tls = load_tls(config.tls_cert, config.tls_key);
  impl_->listen();
  for (Acceptor* acceptor : {impl_->acceptor.get(), impl_->path_acceptor.get()})
    if (acceptor != nullptr) asio::co_spawn(impl_->threads.front()->context(), impl_->accept(*acceptor), asio::detached);
  for (auto& thread : impl_->threads) thread->start();
}

std::uint16_t Server::port() const { return impl_->port; }

std::string Server::url() const { return fmt::format("{}://{}:{}", impl_->tls ? "https" : "http", impl_->address, impl_->port); }

void Server::set_loaded(std::uint64_t done_bytes, std::uint64_t total_bytes) {
  const std::uint64_t percent = total_bytes > 0 ? done_bytes * 100 / total_bytes : 0;
  impl_->state.loaded_percent = static_cast<int>(std::min<std::uint64_t>(percent, 100));
}

void Server::attach(Engine& engine, ServedText text) {
  impl_->state.attach(engine, {std::move(text.tokenizer), std::move(text.chat_template), impl_->state.config.trust_content, text.split_reasoning,
                            impl_->state.config.trust_request_template});
  for (auto& thread : impl_->threads) thread->attach();
}

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
  impl.close_to_new();
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
