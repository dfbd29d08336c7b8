#include "base/spans.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>

#include <fmt/format.h>
#include <pthread.h>

#include "base/check.h"

namespace fastgen {

namespace {

constexpr std::array<SpanInfo, static_cast<std::size_t>(SpanKind::kCount)> kInfo = {{
    {"plan", "host", {}},
    {"pack", "host", {}},
    {"launch", "host", {}},
    {"wait", "host", {}},
    {"collect", "host", {}},
    {"emit", "host", {}},
    {"parse", "host", {}},
    {"tokenize", "host", {}},
    {"write", "host", {}},
    {"step", "step", {"decode_rows", "prefill_tokens", "graph"}},
    {"queued", "request", {"choice", "prompt_tokens", "output_tokens"}},
    {"prefill", "request", {"choice", "prompt_tokens", "output_tokens"}},
    {"decode", "request", {"choice", "prompt_tokens", "output_tokens"}},
}};

// A record is five words, each atomic, so that a reader may look while the owner writes:
//   start_ns | end_ns | id | kind, numbers[0] | numbers[1], numbers[2]
constexpr std::size_t kWords = 5;
constexpr std::size_t kThreadNameBytesMax = 15;  // the kernel's
using Words = std::array<std::uint64_t, kWords>;

std::uint64_t pair(std::uint32_t low, std::int32_t high) {
  return low | std::uint64_t{static_cast<std::uint32_t>(high)} << 32;
}
std::int32_t high_half(std::uint64_t word) { return static_cast<std::int32_t>(word >> 32); }

Words words_of(const Span& span) {
  return {span.start_ns, span.end_ns, span.id, pair(static_cast<std::uint32_t>(span.kind), span.numbers[0]),
          pair(static_cast<std::uint32_t>(span.numbers[1]), span.numbers[2])};
}

Span span_of(const Words& words) {
  return {static_cast<SpanKind>(words[3] & 0xFF), words[0], words[1], words[2],
          {high_half(words[3]), static_cast<std::int32_t>(words[4]), high_half(words[4])}};
}

// One writer, its owner. Invariant: a reader that sees head_ == h after reading record i has read it whole if i + size > h: the
// owner writes record i + size, over i, only after it published head_ == i + size.
class SpanRing {
 public:
  void push(const Span& span) {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);  // our own
    // Orders the last store of head_ before the words; pairs with the acquire fence in read().
    std::atomic_thread_fence(std::memory_order_release);
    std::atomic<std::uint64_t>* place = &words_[head % kSpansPerThread * kWords];
    const Words words = words_of(span);
    for (std::size_t i = 0; i < kWords; ++i) place[i].store(words[i], std::memory_order_relaxed);
    // Publishes the words; pairs with the acquire load in read().
    head_.store(head + 1, std::memory_order_release);
  }

  // Spans that overlap [from_ns, to_ns], none older than `first`.
  std::vector<Span> read(std::uint64_t first, std::uint64_t from_ns, std::uint64_t to_ns) const {
    const std::uint64_t head = head_.load(std::memory_order_acquire);
    std::vector<std::pair<std::uint64_t, Span>> seen;
    for (std::uint64_t i = std::max(first, head - std::min<std::uint64_t>(head, kSpansPerThread)); i < head; ++i) {
      Words words{};
      const std::atomic<std::uint64_t>* place = &words_[i % kSpansPerThread * kWords];
      for (std::size_t word = 0; word < kWords; ++word) words[word] = place[word].load(std::memory_order_relaxed);
      seen.emplace_back(i, span_of(words));
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    const std::uint64_t head_after = head_.load(std::memory_order_relaxed);
    std::vector<Span> spans;
    for (const auto& [i, span] : seen)
      if (i + kSpansPerThread > head_after && span.end_ns >= from_ns && span.start_ns <= to_ns) spans.push_back(span);
    return spans;
  }

  std::uint64_t head() const { return head_.load(std::memory_order_acquire); }

  // The innermost open span: its start and kind in one word, 0 for none. Only the owner sets it; a reader needs nothing but the word.
  std::uint64_t open() const { return open_.load(std::memory_order_relaxed); }
  void set_open(std::uint64_t word) { open_.store(word, std::memory_order_relaxed); }

 private:
  std::unique_ptr<std::atomic<std::uint64_t>[]> words_{new std::atomic<std::uint64_t>[kSpansPerThread * kWords]()};
  std::atomic<std::uint64_t> head_{0};
  std::atomic<std::uint64_t> open_{0};
};

std::uint64_t open_word(SpanKind kind, std::uint64_t start_ns) { return start_ns << 8 | static_cast<std::uint64_t>(kind); }

// What hangs shows by its open span, which no record tells of yet.
void add_open(std::uint64_t word, std::uint64_t to_ns, std::vector<Span>& spans) {
  const std::uint64_t start_ns = word >> 8, now = now_ns();
  if (word != 0 && start_ns <= to_ns && start_ns <= now) spans.push_back({static_cast<SpanKind>(word & 0xFF), start_ns, now, 0, {}});
}

struct Entry {
  SpanRing ring;
  std::string name;           // guarded by the recorder's mutex, as the next two
  std::uint64_t first = 0;    // older records are an earlier owner's
  bool is_owned = true;
};

// All rings there ever were; one whose thread has ended keeps its records until another thread takes it over.
class Recorder {
 public:
  Entry& adopt() {
    const std::lock_guard lock(mutex_);
    Entry* free = nullptr;
    for (const auto& entry : entries_)
      if (!entry->is_owned) free = entry.get();
    // A few ended threads stay readable: the newest stretch of a trace often has them.
    if (free == nullptr || entries_.size() < kRingsKept) free = entries_.emplace_back(std::make_unique<Entry>()).get();
    free->is_owned = true;
    free->first = free->ring.head();
    free->name.clear();
    return *free;
  }
  void release(Entry& entry) {
    const std::lock_guard lock(mutex_);
    entry.is_owned = false;
  }
  void name(Entry& entry, const std::string& name) {
    const std::lock_guard lock(mutex_);
    entry.name = name;
  }
  std::vector<ThreadSpans> read(std::uint64_t from_ns, std::uint64_t to_ns) {
    const std::lock_guard lock(mutex_);
    std::vector<ThreadSpans> threads;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const Entry& entry = *entries_[i];
      ThreadSpans thread{entry.name.empty() ? fmt::format("thread {}", i + 1) : entry.name, static_cast<std::int32_t>(i + 1),
                         entry.ring.read(entry.first, from_ns, to_ns)};
      add_open(entry.ring.open(), to_ns, thread.spans);
      if (!thread.spans.empty()) threads.push_back(std::move(thread));
    }
    return threads;
  }

 private:
  static constexpr std::size_t kRingsKept = 16;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Entry>> entries_;
};

Recorder& recorder() {
  static Recorder& instance = *new Recorder;  // never destroyed: threads may end while the program exits
  return instance;
}

// The thread's ring, taken at its first span.
class ThreadRing {
 public:
  ThreadRing() : entry_(recorder().adopt()) {}
  ~ThreadRing() { recorder().release(entry_); }
  Entry& entry() { return entry_; }

 private:
  Entry& entry_;
};

Entry& thread_entry() {
  thread_local ThreadRing ring;
  return ring.entry();
}

// Set once, before it is used; what it points to never changes.
std::atomic<const RangeHooks*> range_hooks{nullptr};

}  // namespace

const SpanInfo& span_info(SpanKind kind) {
  FG_CHECK(kind < SpanKind::kCount, static_cast<int>(kind));
  return kInfo[static_cast<std::size_t>(kind)];
}

void push_span(const Span& span) { thread_entry().ring.push(span); }

void name_thread(const std::string& name) {
  recorder().name(thread_entry(), name);
  pthread_setname_np(pthread_self(), name.substr(0, kThreadNameBytesMax).c_str());
}

std::vector<ThreadSpans> recorded_spans(std::uint64_t from_ns, std::uint64_t to_ns) { return recorder().read(from_ns, to_ns); }

void set_range_hooks(const RangeHooks* hooks) { range_hooks.store(hooks, std::memory_order_release); }

void SpanScope::open(SpanKind kind, std::uint64_t now) {
  span_.kind = kind;
  span_.start_ns = now;
  is_open_ = true;
  SpanRing& ring = thread_entry().ring;
  around_ = ring.open();
  ring.set_open(open_word(kind, now));
  if (const RangeHooks* hooks = range_hooks.load(std::memory_order_acquire)) hooks->begin(span_info(kind).name);
}

void SpanScope::close(std::uint64_t now) {
  span_.end_ns = now;
  is_open_ = false;
  SpanRing& ring = thread_entry().ring;
  ring.push(span_);
  ring.set_open(around_);
  if (const RangeHooks* hooks = range_hooks.load(std::memory_order_acquire)) hooks->end();
}

}  // namespace fastgen
