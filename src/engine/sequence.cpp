#include "engine/sequence.h"

#include "base/clock.h"
#include "base/spans.h"

namespace fastgen {

Event event_of(const Sequence& sequence, EventKind kind, std::uint64_t now_us) {
  const RequestState& request = *sequence.request;
  Event event;
  event.request = request.id;
  event.user_tag = request.request.user_tag;
  event.choice_idx = sequence.choice_idx;
  event.kind = kind;
  event.step_us = now_us;
  event.start_us = request.start_us;
  return event;
}

void end_phase(Sequence& sequence) {
  if constexpr (kHasProfiler) {
    const std::uint64_t now = now_ns();
    const SpanKind first = sequence.has_started ? SpanKind::kPrefill : SpanKind::kQueued;
    record_span({sequence.has_drawn ? SpanKind::kDecode : first, sequence.phase_ns, now, sequence.request->id,
                 {sequence.choice_idx, sequence.prompt_len(), static_cast<std::int32_t>(sequence.output.size())}});
    sequence.phase_ns = now;
  }
  sequence.has_drawn = !sequence.output.empty();
}

}  // namespace fastgen
