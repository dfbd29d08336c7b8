// The engine that a program embeds: token requests in, events out. Strings are text.h's affair.
//
//   auto engine = Engine::create({.model = "folder"});
//   EventRing& ring = engine->ring(0);
//   if (auto ticket = engine->try_admit()) engine->submit(std::move(*ticket), request);
//   while (ring.wait(100)) for (Event event; ring.pop(event);) ...;
//
// Back-pressure: try_admit says when the engine has enough, and a thread that takes events from its ring in between always gets a
// ticket again. What a ring has no room for is not computed yet: an event is never lost, and a slow consumer slows its own
// requests alone.
//
// Errors: create throws; a request is checked by validate, before submit; what goes wrong later is an event (FinishReason::kError).
//
// Threads: create, stop and the destructor belong to one thread. try_admit, validate, submit, cancel, stats and info may be called
// from any thread at any time between create's return and the call of stop (or of the destructor), not beside or after it. Each
// EventRing belongs to one thread. Life: rings are the engine's; a Ticket must not outlive it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fastgen/error.h"
#include "fastgen/types.h"

namespace fastgen {

struct EngineConfig {
  std::string model{};              // a folder, or a name in the local Hugging Face cache; empty: the default model
  std::string revision = "main";    // of a name in the cache
  std::string backend = "cpu";      // "cpu", "cuda", "check" (the two compared after each op), "echo", "late"; backend.h has more, for tests
  std::string dtype = "auto";       // "auto", "bfloat16", "float32"
  bool dummy_weights = false;       // random weights from the config alone
  std::int32_t num_layers = 0;      // with dummy weights: only the first ones; 0: all
  std::uint64_t seed = 0;           // of dummy weights
  std::vector<std::string> ignore_config_keys{};  // keys of config.json and generation_config.json that are not known and may stand there

  std::int32_t max_model_len = 0;   // tokens of prompt and output; 0: the model's own, lowered to what the KV arena holds
  double kv_gb = 0;                 // size of the KV arena, 1e9 bytes, at most 1e6; 0: on the CPU a quarter of free memory, on a GPU what is left
  double host_kv_gb = 0;            // pinned host memory for K and V of preempted sequences, 1e9 bytes; 0: none, they are recomputed
  double gpu_gb = 0;                // CUDA: all that the process may take, 1e9 bytes; an Error with any other backend, as the next
  double gpu_fraction = 0;          // CUDA: the same as a share of the card, up to 1; 0: 0.9
  double tune_s = 0;                // CUDA: seconds that a start may time products for, up to 3,600; 0: 1; an Error with any other backend
  std::int32_t block_size = 64;     // tokens, 1..1024
  std::int32_t max_batch = 0;       // decode rows of a step, up to 4096; 0: 256
  std::int32_t max_prefill = 0;     // prefill tokens of a step; 0: the backend's two defaults (design: busy and idle)
  std::int32_t max_queue = 1024;    // tickets: requests submitted and not finished, 1..2^20
  std::int32_t num_threads = 0;     // CPU: compute threads; 0: all cores
  std::int32_t num_graphs = 16;     // batch sizes whose decode steps are captured and replayed, where the backend can; 0: none

  std::int32_t num_event_rings = 1;      // one for each thread that takes events, 1..1024
  std::int32_t event_ring_size = 16384;  // records of some 250 bytes, 4..2^24; a full ring pauses the sequences that write to it

  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> on_load{};  // progress, from the loading thread
};

// What came of the configuration.
struct EngineInfo {
  std::string model_folder;
  std::string architecture;
  std::string backend;
  std::string device;
  std::string dtype;
  std::int32_t vocab = 0;
  std::int32_t max_model_len = 0;
  bool max_model_len_lowered = false;  // below the model's own because the arena holds no more
  std::int32_t max_batch = 0;
  std::int32_t max_queue = 0;
  std::int32_t block_size = 0;
  std::int64_t kv_tokens = 0;  // how many tokens of K and V fit
  std::int64_t kv_bytes = 0;
  std::int64_t host_kv_tokens = 0;  // the same of the host tier
  std::int64_t host_kv_bytes = 0;
  std::int64_t weight_bytes = 0;
  std::int64_t num_parameters = 0;
  std::vector<TokenId> eos_ids;
  SamplingParams sampling;  // what generation_config.json asks for, else the defaults; the engine itself draws as each request says
  double load_seconds = 0;
};

// Steps counted by size: bucket i holds those of at most first << i, the last one all that are larger.
struct StepHistogram {
  static constexpr std::size_t kNumBuckets = 18;
  std::uint64_t first = 1;
  std::array<std::uint64_t, kNumBuckets> counts{};
  std::uint64_t sum = 0;
  void add(std::uint64_t value) {
    std::size_t idx = 0;
    while (idx + 1 < kNumBuckets && value > first << idx) ++idx;
    ++counts[idx];
    sum += value;
  }
};

// A snapshot; counters only grow.
struct EngineStats {
  std::uint64_t num_steps = 0;
  std::uint64_t num_graph_steps = 0;
  std::uint64_t prefill_tokens = 0;
  std::uint64_t decode_tokens = 0;
  std::uint64_t num_finished = 0;     // choices
  std::uint64_t num_preemptions = 0;
  std::uint64_t num_page_outs = 0;    // of these, to the host tier
  std::uint64_t num_page_ins = 0;     // that came back from there; the others wait or were cancelled
  std::uint64_t num_ring_waits = 0;   // times that a sequence was left out of a step because its ring was full
  std::uint64_t last_step_us = 0;     // steady clock
  // How long ago the engine thread last got on (a turn begun, a layer computed) while it has work; 0: it has none.
  std::uint64_t silent_us = 0;
  std::uint64_t num_mixed_steps = 0;    // of num_steps: prefill and decode rows together
  std::uint64_t num_prefill_steps = 0;  // prefill alone; the others only decode
  StepHistogram step_us{.first = 128};  // from a step's collect to the next one's, or from its launch after a rest
  StepHistogram step_tokens;            // rows that a step computed
  std::int32_t tickets_in_use = 0;
  std::int32_t num_waiting = 0;       // sequences not yet in the batch
  std::int32_t num_running = 0;
  std::int64_t num_blocks = 0;
  std::int64_t num_free_blocks = 0;
  std::int64_t num_host_blocks = 0;  // of the host tier
  std::int64_t num_free_host_blocks = 0;
  bool failed = false;  // the backend failed: every open choice got kError, submit still answers with kError
};

// One consumer's events. Single consumer; the engine is the single producer.
class EventRing {
 public:
  virtual ~EventRing() = default;
  // The next event; false if there is none.
  virtual bool pop(Event& event) = 0;
  // The alternatives of the event popped last; valid until the next pop.
  virtual std::span<const TopLogprob> top(const Event& event) const = 0;
  // Readable (poll, epoll, Asio) when events may be there; acknowledge() before draining with pop.
  virtual int fd() const = 0;
  virtual void acknowledge() = 0;
  // Blocks until an event may be there or the time is over; < 0: no limit. True if one may be. False also once the engine has
  // stopped and everything was taken, so that a loop over wait(-1) ends. Needs no acknowledge().
  virtual bool wait(int timeout_ms) = 0;
};

class Engine;

// The right to have one request in the engine. Taken before any work is spent on the request; goes back
// with the request's last finish event, or when the ticket is dropped without a submit. One that was moved from is none.
class Ticket {
 public:
  Ticket(Ticket&& other) noexcept;
  Ticket& operator=(Ticket&& other) noexcept;
  ~Ticket();

 private:
  friend class Engine;
  Ticket(Engine* engine, std::uint32_t slot) : engine_(engine), slot_(slot) {}
  Engine* engine_ = nullptr;
  std::uint32_t slot_ = 0;
};

class Engine {
 public:
  // Loads the model and starts the engine thread. Throws Error naming the file or flag.
  static std::unique_ptr<Engine> create(const EngineConfig& config);
  virtual ~Engine() = default;  // stops

  virtual const EngineInfo& info() const = 0;
  virtual EngineStats stats() const = 0;
  virtual EventRing& ring(std::int32_t ring_idx) = 0;

  // None: EngineConfig::max_queue requests are in. Never waits.
  virtual std::optional<Ticket> try_admit() = 0;
  // What is wrong with a request; empty: nothing. `field` (if given) receives the name of the field, as in SamplingParams.
  virtual std::string validate(const Request& request, std::string* field = nullptr) const = 0;
  // Never fails and never waits for a request that validate accepts; aborts on another, and on a ticket that is none or of another
  // engine. Every choice ends with one kFinish.
  virtual RequestId submit(Ticket ticket, Request request) = 0;
  // Ends one choice, or all with choice_idx -1, with kCancelled within two steps; tokens already in the
  // ring stay there. Does nothing for a request that is over.
  virtual void cancel(RequestId request, std::int32_t choice_idx = -1) = 0;

  // Cancels everything, waits for the engine thread. Rings can still be drained; nothing is to be submitted any more.
  virtual void stop() = 0;

 protected:
  friend class Ticket;
  virtual void return_ticket(std::uint32_t slot) = 0;
  static Ticket make_ticket(Engine* engine, std::uint32_t slot) { return Ticket(engine, slot); }
  std::uint32_t take_slot(Ticket& ticket);
};

}  // namespace fastgen
