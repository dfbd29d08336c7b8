#include "server/io_thread.h"

#include <string>
#include <thread>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <pthread.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/spans.h"

namespace fastgen::server {

namespace asio = boost::asio;

namespace {

// So many events before sockets get their turn again.
constexpr std::size_t kEventsPerTurn = 4096;
constexpr std::chrono::milliseconds kTick{250};

bool write_some(EventRing& ring, StreamTable& streams) {
  const SpanScope span(SpanKind::kWrite);
  return streams.drain(ring, kEventsPerTurn);
}

asio::awaitable<void> drain_ring(EventRing& ring, StreamTable& streams) {
  auto executor = co_await asio::this_coro::executor;
  // A duplicate: the descriptor closes what it holds, and the ring's own fd is the engine's.
  const int fd = ::dup(ring.fd());
  FG_CHECK(fd >= 0, ring.fd());
  asio::posix::stream_descriptor readable(executor, fd);
  while (true) {
    co_await readable.async_wait(asio::posix::stream_descriptor::wait_read, asio::use_awaitable);
    ring.acknowledge();
    while (write_some(ring, streams)) co_await asio::post(executor, asio::use_awaitable);
  }
}

// One timer for all connections: one each would cost more than the walk.
asio::awaitable<void> tick(const std::unordered_set<Connection*>& connections) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  while (true) {
    timer.expires_after(kTick);
    co_await timer.async_wait(asio::use_awaitable);
    const std::vector<Connection*> open(connections.begin(), connections.end());
    const std::uint64_t now = now_us();
    for (Connection* connection : open) connection->tick(now);
  }
}

}  // namespace

struct IoThread::Loop {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  std::thread thread;
};

IoThread::IoThread(ServerState& state, std::int32_t ring_idx)
    : state_(state),
      ring_idx_(ring_idx),
      metrics_(*state.metrics[static_cast<std::size_t>(ring_idx)]),
      loop_(std::make_unique<Loop>()) {}

IoThread::~IoThread() { stop(); }

void IoThread::start() {
  asio::co_spawn(loop_->context, tick(connections_), asio::detached);
  loop_->thread = std::thread([this] {
    name_thread("io " + std::to_string(ring_idx_));
    loop_->context.run();
  });
  clockid_t clock{};
  if (pthread_getcpuclockid(loop_->thread.native_handle(), &clock) == 0) metrics_.cpu_clock = clock;
}

void IoThread::attach() {
  asio::co_spawn(loop_->context, drain_ring(state_.engine().ring(ring_idx_), streams_), asio::detached);
}

void IoThread::stop() {
  metrics_.cpu_clock = 0;
  loop_->context.stop();
  if (loop_->thread.joinable()) loop_->thread.join();
}

void IoThread::post(std::function<void()> job) { asio::post(loop_->context, std::move(job)); }

boost::asio::io_context& IoThread::context() { return loop_->context; }

}  // namespace fastgen::server
