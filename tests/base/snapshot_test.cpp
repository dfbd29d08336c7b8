#include "base/snapshot.h"

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "support/support.h"

using fastgen::Snapshot;

namespace {

// Every member follows from the first, so that a mixture of two values shows.
struct Sample {
  std::uint64_t number = 0;
  std::array<std::uint64_t, 30> squares{};
  std::int32_t low = 0;
  bool odd = false;
};

Sample sample_of(std::uint64_t number) {
  Sample sample{.number = number, .squares = {}, .low = static_cast<std::int32_t>(number & 0xFFFF), .odd = number % 2 == 1};
  for (std::size_t i = 0; i < sample.squares.size(); ++i) sample.squares[i] = number * number + i;
  return sample;
}

bool is_whole(const Sample& sample) {
  const Sample same = sample_of(sample.number);
  return sample.number == 0 || (sample.squares == same.squares && sample.low == same.low && sample.odd == same.odd);
}

}  // namespace

TEST_CASE("snapshot: the last value published, or the default one") {
  Snapshot<Sample> snapshot;
  CHECK(snapshot.read().number == 0);
  CHECK(snapshot.read().squares[5] == 0);
  for (std::uint64_t number = 1; number < 5; ++number) {
    snapshot.publish(sample_of(number));
    CHECK(snapshot.read().number == number);
    CHECK(is_whole(snapshot.read()));
  }
  Snapshot<char> small;
  small.publish('x');
  CHECK(small.read() == 'x');
}

TEST_CASE("snapshot: readers see whole values, never an older one after a newer, and the last one in the end") {
  constexpr std::uint64_t kLast = 100'000;
  Snapshot<Sample> snapshot;
  std::atomic<int> num_mixed{0}, num_backwards{0};
  std::atomic<std::uint64_t> num_reads{0};
  const auto read = [&] {
    std::uint64_t last = 0;
    while (last < kLast) {
      const Sample sample = snapshot.read();
      num_mixed += !is_whole(sample);
      num_backwards += sample.number < last;
      last = sample.number;
      ++num_reads;
    }
  };
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) readers.emplace_back(read);
  while (num_reads == 0) std::this_thread::yield();  // so that the two really run side by side
  for (std::uint64_t number = 1; number <= kLast; ++number) snapshot.publish(sample_of(number));
  for (std::thread& reader : readers) reader.join();
  CHECK(num_mixed == 0);
  CHECK(num_backwards == 0);
}
