// A connected stream socket, TCP or Unix, with or without TLS. Belongs to its io thread.
//
// Reads and writes are coroutines; try_write writes what fits at once without one (nothing under TLS, whose records are made by
// the coroutine). One read and one write may be in progress at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>

namespace fastgen::server {

// Certificate and key in PEM files; TLS 1.2 and 1.3. Throws Error naming --tls-cert or --tls-key.
boost::asio::ssl::context load_tls(const std::string& cert_file, const std::string& key_file);

class Transport {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  using error_code = boost::system::error_code;
  struct Result {
    error_code error;
    std::size_t num_bytes = 0;
  };

  // Takes over the non-blocking descriptor. `tls` null: plain.
  Transport(boost::asio::io_context& context, int fd, boost::asio::ssl::context* tls);

  bool is_tls() const { return tls_ != nullptr; }
  boost::asio::awaitable<error_code> handshake();
  // Appends at most `most` bytes once some are there. Without TLS no buffer is held while waiting: idle connections are many.
  boost::asio::awaitable<Result> read_some(std::string& to, std::size_t most);
  boost::asio::awaitable<Result> write_some(std::string_view bytes);
  // What of the parts, in their order, went out at once. An error other than "would block" is set.
  std::size_t try_write(std::span<const std::string_view> parts, error_code& error);
  // Until the peer has reset the connection, or cancel.
  boost::asio::awaitable<error_code> wait_reset();
  void cancel_read();  // also ends what else waits on the socket
  void shutdown_send();
  void close();

 private:
  using TlsStream = boost::asio::ssl::stream<Socket&>;
  Socket socket_;
  std::unique_ptr<TlsStream> tls_;
};

}  // namespace fastgen::server
