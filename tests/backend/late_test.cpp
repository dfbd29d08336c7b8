#include <random>
#include <vector>

#include "backend/echo/echo_backend.h"
#include "backend/echo/echo_function.h"
#include "backend/echo_machine.h"
#include "backend/late/late_backend.h"
#include "backend/late/late_queue.h"
#include "support/support.h"

using namespace fastgen;
using fastgen::test::EchoDrawn;
using fastgen::test::EchoFaults;
using fastgen::test::EchoMachine;
using fastgen::test::EchoSeq;

namespace {

constexpr std::int32_t kVocab = 49152;
constexpr std::uint64_t kSeeds[] = {0, 1, 2, 3, 4, 5};

SampleRow sampled_row(std::int32_t state_slot, std::uint64_t seed) {
  SampleRow row;
  row.state_slot = state_slot;
  row.num_top = 2;
  row.seed = seed;
  return row;
}

// Prefill in two chunks, then decode steps through a graph: everything that a machine draws. The faults hold in steps
// of the same shape as the one before, whose inputs are then wrong but not absurd: absurd ones would abort.
std::vector<EchoDrawn> generate(Backend& backend, const EchoFaults& faults) {
  EchoMachine machine(backend, kVocab);
  std::vector<EchoDrawn> all;
  std::vector<EchoSeq> seqs;
  for (std::int32_t s = 0; s < 3; ++s) {
    seqs.push_back({.tokens = {300 + s, 310 + s, 320 + s, 330 + s, 340 + s},
                    .start = 0,
                    .table = {s, 10 + s, 20 + s},
                    .sample = sampled_row(s, 7)});
  }
  const auto keep = [&](const std::vector<EchoDrawn>& drawn) {
    all.insert(all.end(), drawn.begin(), drawn.end());
  };
  keep(machine.step(seqs));
  for (EchoSeq& seq : seqs) {
    seq.start = 5;
    seq.tokens = {901, 902, 903, 904, 905};
  }
  machine.faults = faults;
  keep(machine.step(seqs));
  GraphId graph = -1;
  for (std::int32_t position = 10; position < 20; ++position) {
    for (std::int32_t s = 0; s < 3; ++s) {
      seqs[static_cast<std::size_t>(s)].start = position;
      seqs[static_cast<std::size_t>(s)].tokens = {-1 - s};
    }
    if (graph < 0) graph = machine.capture(seqs, 3);
    machine.faults = position == 10 ? EchoFaults{} : faults;
    keep(machine.replay(graph, seqs, 3));
  }
  return all;
}

std::vector<EchoDrawn> late_generate(std::uint64_t seed, const EchoFaults& faults) {
  auto backend = make_late_backend(make_echo_backend(), seed);
  return generate(*backend, faults);
}

// In how many of the legal orders the fault shows.
int num_orders_that_show(const EchoFaults& faults) {
  auto plain = make_echo_backend();
  const std::vector<EchoDrawn> right = generate(*plain, {});
  int count = 0;
  for (std::uint64_t seed : kSeeds) count += late_generate(seed, faults) != right;
  return count;
}

}  // namespace

TEST_CASE("late: right code draws the same in every legal order, graphs included") {
  auto plain = make_echo_backend();
  const std::vector<EchoDrawn> right = generate(*plain, {});
  REQUIRE(right.size() == 36);
  for (std::uint64_t seed : kSeeds) {
    CAPTURE(seed);
    CHECK(late_generate(seed, {}) == right);
  }
  const std::uint64_t seed = test::seed();
  CHECK(late_generate(seed, {}) == right);
}

TEST_CASE("late: every missing wait shows in the orders that can show it, while plain echo hides it") {
  const EchoFaults compute_skips_upload{.compute_skips_upload = true};
  const EchoFaults download_skips_compute{.download_skips_compute = true};
  const EchoFaults host_skips_download{.host_skips_download = true};
  auto plain = make_echo_backend();
  const std::vector<EchoDrawn> right = generate(*plain, {});
  for (const EchoFaults& faults : {compute_skips_upload, download_skips_compute, host_skips_download}) {
    auto hidden = make_echo_backend();
    CHECK(generate(*hidden, faults) == right);
  }
  CHECK(late_generate(0, compute_skips_upload) != right);
  CHECK(late_generate(0, download_skips_compute) != right);
  CHECK(late_generate(0, host_skips_download) != right);
  // The result is not even queued behind a forced fence: no order can hide it.
  CHECK(num_orders_that_show(host_skips_download) == static_cast<int>(std::size(kSeeds)));
}

TEST_CASE("late: a staging buffer used again before its upload has run shows in every order") {
  const EchoFaults faults{.staging_cleared_early = true};
  CHECK(num_orders_that_show(faults) == static_cast<int>(std::size(kSeeds)));
  auto hidden = make_echo_backend();
  auto plain = make_echo_backend();
  CHECK(generate(*hidden, faults) == generate(*plain, {}));
}

TEST_CASE("late: passed is false until host_wait or enough polls; nothing runs before") {
  auto backend = make_late_backend(make_echo_backend(), 0, 2);
  std::uint64_t from = 1, to = 0;
  CHECK(backend->passed(0));
  backend->upload(Stream::kCopyIn, &to, &from, sizeof(to));
  const FenceId first = backend->record(Stream::kCopyIn);
  CHECK_FALSE(backend->passed(first));
  CHECK_FALSE(backend->passed(first));
  CHECK(to == 0);
  from = 2;
  CHECK(backend->passed(first));
  CHECK(to == 2);  // the upload read its source only now

  from = 3;
  backend->upload(Stream::kCopyIn, &to, &from, sizeof(to));
  const FenceId second = backend->record(Stream::kCopyIn);
  CHECK(backend->passed(first));
  CHECK_FALSE(backend->passed(second));
  backend->host_wait(second);
  CHECK(to == 3);
  CHECK(backend->passed(second));
}

TEST_CASE("late: seed 0 runs only what a fence needs, seed 1 runs all else first") {
  for (std::uint64_t seed : {0, 1}) {
    LateQueue queue(seed);
    std::vector<int> order;
    const auto call = [&](int which) { return [&order, which] { order.push_back(which); }; };
    const FenceId never_recorded = 999;
    CHECK_FALSE(queue.reached(never_recorded));
    queue.push(Stream::kCopyIn, call(1));
    const FenceId uploaded = queue.record(Stream::kCopyIn, call(2));
    queue.push(Stream::kCopyIn, call(3));
    queue.push(Stream::kCompute, call(4));
    queue.wait(Stream::kCompute, uploaded, call(5));
    queue.push(Stream::kCompute, call(6));
    const FenceId computed = queue.record(Stream::kCompute, call(7));
    queue.push(Stream::kCopyOut, call(8));
    CHECK(order.empty());
    queue.force(computed);
    CHECK(queue.reached(computed));
    CHECK(order ==
          (seed == 0 ? std::vector<int>{4, 1, 2, 5, 6, 7} : std::vector<int>{1, 2, 3, 8, 4, 5, 6, 7}));
  }
}

TEST_CASE("late: random programs keep to the contract in every order") {
  std::mt19937_64 random(test::seed());
  for (int round = 0; round < 200; ++round) {
    LateQueue queue(random() % 8);
    struct Ran {
      int stream, number;
    };
    std::vector<Ran> ran;
    int num_calls[kNumStreams] = {};
    struct Fence {
      FenceId id;
      int stream, number;  // reached when call `number` of the stream has run
    };
    std::vector<Fence> fences;
    struct Edge {
      int stream, number, before_stream, before_number;  // call `number` runs after the other
    };
    std::vector<Edge> edges;
    const auto call = [&](int stream) {
      const int number = num_calls[stream]++;
      return [&ran, stream, number] { ran.push_back({stream, number}); };
    };
    for (int i = 0; i < 60; ++i) {
      const int s = static_cast<int>(random() % kNumStreams);
      const auto stream = static_cast<Stream>(s);
      switch (random() % 4) {
        case 0: {
          auto made = call(s);
          fences.push_back({queue.record(stream, made), s, num_calls[s] - 1});
          break;
        }
        case 1:
          if (!fences.empty()) {
            const Fence& fence = fences[random() % fences.size()];
            queue.wait(stream, fence.id, call(s));
            edges.push_back({s, num_calls[s] - 1, fence.stream, fence.number});
          }
          break;
        case 2:
          if (!fences.empty() && random() % 4 == 0) queue.force(fences[random() % fences.size()].id);
          break;
        default:
          queue.push(stream, call(s));
      }
    }
    for (const Fence& fence : fences) queue.force(fence.id);
    int next[kNumStreams] = {};
    for (const Ran& one : ran) {
      REQUIRE(one.number == next[one.stream]++);
      for (const Edge& edge : edges) {
        if (edge.stream == one.stream && edge.number == one.number)
          REQUIRE(next[edge.before_stream] > edge.before_number);
      }
    }
    for (const Fence& fence : fences) {
      REQUIRE(queue.reached(fence.id));
      REQUIRE(next[fence.stream] > fence.number);
    }
  }
}
