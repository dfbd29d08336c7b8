// One io thread: its io_context, its event ring, its connections. Boost stays in the .cpp.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <unordered_set>

#include "server/metrics.h"
#include "server/server_state.h"
#include "server/stream_table.h"

namespace boost::asio {
class io_context;
}

namespace fastgen::server {

// What the thread and a shutdown ask of a connection; on its own io thread.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual void drain() = 0;  // close if idle
  virtual void abort() = 0;  // end the answer with an error, then close
  virtual void tick(std::uint64_t now_us) = 0;  // a few times a second: time-outs and pings
};

// Thread-safe: post, attach, num_connections, stop. The rest belongs to the thread itself.
class IoThread {
 public:
  IoThread(ServerState& state, std::int32_t ring_idx);
  ~IoThread();
  void start();
  void attach();  // the state has its engine: events come from now on
  void stop();    // joins; connections still open are dropped with the object

  void post(std::function<void()> job);
  boost::asio::io_context& context();
  std::int32_t ring_idx() const { return ring_idx_; }
  StreamTable& streams() { return streams_; }
  ThreadMetrics& metrics() { return metrics_; }
  std::unordered_set<Connection*>& connections() { return connections_; }

  std::atomic<int> num_answers{0};      // in progress here; the acceptor reads them
  std::atomic<int> num_connections{0};

 private:
  struct Loop;
  ServerState& state_;
  std::int32_t ring_idx_;
  ThreadMetrics& metrics_;
  StreamTable streams_;
  std::unordered_set<Connection*> connections_;
  std::unique_ptr<Loop> loop_;  // last: what it destroys refers to the members above
};

}  // namespace fastgen::server
