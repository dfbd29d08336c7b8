#include "server/transport.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "fastgen/error.h"

namespace fastgen::server {

namespace asio = boost::asio;

namespace {

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

// A peer that has vanished without a word (a cable, a sleeping laptop) is given up after about a minute and a half.
constexpr int kKeepIdleS = 30, kKeepIntervalS = 10, kKeepCount = 6, kUserTimeoutMs = 90'000;

// What the kernel keeps unsent for a slow reader; it would grow to megabytes each. The rest stays ours, where tokens are merged.
constexpr int kMaxUnsentBytes = 64 << 10;

void set_options(int fd) {
  const auto set = [&](int level, int name, int value) { ::setsockopt(fd, level, name, &value, sizeof(value)); };
  // On a Unix socket these fail, and are not needed.
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, kKeepIdleS);
  set(IPPROTO_TCP, TCP_KEEPINTVL, kKeepIntervalS);
  set(IPPROTO_TCP, TCP_KEEPCNT, kKeepCount);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
  set(IPPROTO_TCP, TCP_NOTSENT_LOWAT, kMaxUnsentBytes);
}

constexpr std::size_t kTlsPiece = 16 << 10;  // a TLS record holds no more

// None: nothing is there after all.
std::optional<Transport::Result> read_now(int fd, std::string& to, std::size_t most) {
  thread_local std::array<char, 64 << 10> scratch;
  const ssize_t count = ::recv(fd, scratch.data(), std::min(most, scratch.size()), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return std::nullopt;
  if (count < 0) return Transport::Result{Transport::error_code(errno, boost::system::system_category()), 0};
  if (count == 0) return Transport::Result{asio::error::eof, 0};
  to.append(scratch.data(), static_cast<std::size_t>(count));
  return Transport::Result{{}, static_cast<std::size_t>(count)};
}

constexpr int kSendFlags = MSG_NOSIGNAL | MSG_DONTWAIT;

// Up to here a copy costs less than it saves: the kernel takes one piece of a token's size 0.15 us sooner than three, of 3.8 (EPYC, loopback).
constexpr std::size_t kJoinedBytesMax = 2048;

std::size_t size_of(std::span<const std::string_view> parts) {
  std::size_t size = 0;
  for (std::string_view part : parts) size += part.size();
  return size;
}

ssize_t send_joined(int fd, std::span<const std::string_view> parts) {
  std::array<char, kJoinedBytesMax> bytes;
  auto end = bytes.begin();
  for (std::string_view part : parts) end = std::copy(part.begin(), part.end(), end);
  return ::send(fd, bytes.data(), static_cast<std::size_t>(end - bytes.begin()), kSendFlags);
}

ssize_t send_parts(int fd, std::span<const std::string_view> parts) {
  std::array<iovec, 8> vectors;
  std::size_t count = 0;
  for (std::string_view part : parts)
    if (!part.empty() && count < vectors.size()) vectors[count++] = {const_cast<char*>(part.data()), part.size()};
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = count;
  return ::sendmsg(fd, &message, kSendFlags);
}

}  // namespace

asio::ssl::context load_tls(const std::string& cert_file, const std::string& key_file) {
  if (cert_file.empty()) throw Error("--tls-key needs --tls-cert");
  if (key_file.empty()) throw Error("--tls-cert needs --tls-key");
  asio::ssl::context context(asio::ssl::context::tls_server);
  context.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1 |
                      asio::ssl::context::no_compression);
  boost::system::error_code error;
  context.use_certificate_chain_file(cert_file, error);
  if (error) throw Error(fmt::format("--tls-cert {}: {}", cert_file, error.message()));
  context.use_private_key_file(key_file, asio::ssl::context::pem, error);
  if (error) throw Error(fmt::format("--tls-key {}: {}", key_file, error.message()));
  return context;
}

Transport::Transport(asio::io_context& context, int fd, asio::ssl::context* tls) : socket_(context) {
  set_options(fd);
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  error_code ignored;
  socket_.assign(asio::generic::stream_protocol(address.ss_family, 0), fd, ignored);
  if (tls != nullptr) tls_ = std::make_unique<TlsStream>(socket_, *tls);
}

asio::awaitable<Transport::error_code> Transport::handshake() {
  if (!tls_) co_return error_code();
  auto [error] = co_await tls_->async_handshake(asio::ssl::stream_base::server, kAwait);
  co_return error;
}

asio::awaitable<Transport::Result> Transport::read_some(std::string& to, std::size_t most) {
  if (tls_) {
    std::string piece(std::min(most, kTlsPiece), '\0');
    auto [error, num_bytes] = co_await tls_->async_read_some(asio::buffer(piece), kAwait);
    // Many clients just close; without lengths of our own that would matter, with HTTP's it does not.
    if (error == asio::ssl::error::stream_truncated) error = asio::error::eof;
    to.append(piece, 0, num_bytes);
    co_return Result{error, num_bytes};
  }
  while (true) {
    auto [error] = co_await socket_.async_wait(asio::socket_base::wait_read, kAwait);
    if (error) co_return Result{error, 0};
    if (const std::optional<Result> result = read_now(socket_.native_handle(), to, most)) co_return *result;
  }
}

asio::awaitable<Transport::Result> Transport::write_some(std::string_view bytes) {
  const auto buffer = asio::buffer(bytes.data(), bytes.size());
  if (tls_) {
    auto [error, num_bytes] = co_await tls_->async_write_some(buffer, kAwait);
    co_return Result{error, num_bytes};
  }
  auto [error, num_bytes] = co_await socket_.async_write_some(buffer, kAwait);
  co_return Result{error, num_bytes};
}

std::size_t Transport::try_write(std::span<const std::string_view> parts, error_code& error) {
  if (tls_ || !socket_.is_open()) return 0;
  const int fd = socket_.native_handle();
  const ssize_t num_bytes = size_of(parts) <= kJoinedBytesMax ? send_joined(fd, parts) : send_parts(fd, parts);
  if (num_bytes >= 0) return static_cast<std::size_t>(num_bytes);
  if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) error = error_code(errno, boost::system::system_category());
  return 0;
}

asio::awaitable<Transport::error_code> Transport::wait_reset() {
  auto [error] = co_await socket_.async_wait(asio::socket_base::wait_error, kAwait);
  co_return error;
}

void Transport::cancel_read() {
  error_code ignored;
  socket_.cancel(ignored);
}

void Transport::shutdown_send() {
  error_code ignored;
  socket_.shutdown(asio::socket_base::shutdown_send, ignored);
}

void Transport::close() {
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace fastgen::server
