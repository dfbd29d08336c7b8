// One request inside the engine and its generations. Owned and touched by the engine thread alone.
//
//   kBlocked -> kWaiting -> kRunning -> kFinished      kBlocked: a choice n > 1 until the first one's prompt is computed
//                   ^----------'  preempted: its blocks are gone, its tokens stay and are computed again, or K and V come back from
//                                 the host tier
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/check.h"
#include "fastgen/types.h"
#include "kv/kv_cache.h"

namespace fastgen {

struct RequestState;

enum class SequenceStatus : std::uint8_t { kBlocked, kWaiting, kRunning, kFinished };

struct Sequence {
  RequestState* request = nullptr;
  std::int32_t id = 0;  // the handle that plans use; reused after the request has gone
  std::int32_t choice_idx = 0;
  std::uint64_t age = 0;
  SequenceStatus status = SequenceStatus::kBlocked;
  bool has_started = false;  // it has had a table: its request's prompt is no longer kept for it
  bool is_cancelled = false;  // ends when its step in flight is collected

  std::vector<TokenId> output;          // collected
  std::int32_t num_planned_output = 0;  // output and what steps in flight draw
  std::int32_t num_computed = 0;        // tokens whose K and V are stored, or will be by steps in flight
  std::int32_t num_in_flight = 0;       // steps not yet collected that have a row of it
  std::int32_t state_slot = -1;
  TableId table = kNoTable;
  TableId host_table = kNoTable;  // of the host tier, while it waits paged out
  // For the flight recorder: since when it queues (not started), prefills (started) or decodes (has drawn).
  std::uint64_t phase_ns = 0;
  bool has_drawn = false;

  inline std::int32_t prompt_len() const;
  inline std::int32_t num_tokens() const;     // those that steps in flight draw included
  inline TokenId token(std::int32_t position) const;  // of a collected one
  bool is_over() const { return status == SequenceStatus::kFinished; }
};

struct RequestState {
  RequestId id = 0;
  std::uint32_t slot = 0;  // in the ticket table
  Request request;
  std::vector<std::unique_ptr<Sequence>> choices;
  std::int32_t num_unfinished = 0;
  std::uint64_t start_us = 0;     // when its first row was planned; 0: not yet
  std::int32_t leader = 0;        // the choice that prefills while the others are blocked
  bool prompt_computed = false;   // and collected
  TableId prompt_table = kNoTable;  // K and V of the prompt, kept for choices that have not started
  std::int32_t next_target = 1;   // prompt logprobs: the first place in the prompt that no step reports yet
  std::vector<TokenId> banned_until_min;  // end-of-sequence and stop ids; empty without min_tokens

  std::int32_t num_in_flight() const {
    std::int32_t count = 0;
    for (const auto& choice : choices) count += choice->num_in_flight;
    return count;
  }
};

std::int32_t Sequence::prompt_len() const { return static_cast<std::int32_t>(request->request.prompt.size()); }
std::int32_t Sequence::num_tokens() const { return prompt_len() + num_planned_output; }
TokenId Sequence::token(std::int32_t position) const {
  const auto idx = static_cast<std::size_t>(position), prompt = request->request.prompt.size();
  FG_CHECK(idx < prompt + output.size(), position, prompt, output.size());
  return idx < prompt ? request->request.prompt[idx] : output[idx - prompt];
}

// What its consumer learns of a choice, without what the kind adds.
Event event_of(const Sequence& sequence, EventKind kind, std::uint64_t now_us);
// What the choice did until now, into the flight recorder; its next phase begins.
void end_phase(Sequence& sequence);

}  // namespace fastgen
