// The part of a session that generates: admission, prompts, the engine, and the answer on its way out.
#include "server/session.h"

#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "base/clock.h"
#include "server/sse.h"

namespace fastgen::server {

namespace asio = boost::asio;

namespace {

double header_number(const HttpRequest& request, std::string_view name, double low, double high) {
  const std::string_view text = request.header(name);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !(number >= low && number <= high))
    throw bad_field(std::string(name), fmt::format("expected a number between {:.10g} and {:.10g}", low, high));
  return number;
}

std::int32_t header_priority(const HttpRequest& request, std::string_view name) {
  const double number = header_number(request, name, -kMaxPriority, kMaxPriority);
  if (number != std::trunc(number)) throw bad_field(std::string(name), "expected an integer");
  return static_cast<std::int32_t>(number);
}

// What proxies and clients without access to the body may say of a request; the body's own fields go first.
void read_headers(const HttpRequest& request, ApiRequest& api) {
  constexpr std::string_view kTimeout = "x-fastgen-timeout-ms", kTtft = "x-fastgen-ttft-timeout-ms", kPriority = "x-fastgen-priority";
  if (request.num_headers(kTimeout) > 0 && !api.timeout_ms) api.timeout_ms = header_number(request, kTimeout, 1, kMaxTimeoutMs);
  if (request.num_headers(kTtft) > 0 && !api.ttft_timeout_ms) api.ttft_timeout_ms = header_number(request, kTtft, 1, kMaxTimeoutMs);
  if (request.num_headers(kPriority) > 0 && api.priority == 0)
    api.priority = header_priority(request, kPriority);
}

// Milliseconds after `start_us` as a time of the steady clock.
std::uint64_t deadline_us(std::uint64_t start_us, double ms) { return start_us + static_cast<std::uint64_t>(ms * 1000); }

std::chrono::steady_clock::time_point to_time(std::uint64_t us) { return std::chrono::steady_clock::time_point(std::chrono::microseconds(us)); }

}  // namespace

// ---- an answer and what it holds

Session::Answer::Answer(Session& session, std::unique_ptr<Generation> generation) : session_(session), generation_(std::move(generation)) {
  session_.generation_ = generation_.get();
}

Session::Answer::~Answer() {
  generation_->abandon();
  generation_->report(*session_.record_);
  session_.state_.admission.drain_rate().on_end(now_us());
  for (std::uint64_t tag : tags_) session_.thread_.streams().detach(tag);
  session_.generation_ = nullptr;
  session_.streaming_ = false;
  session_.request_ids_.clear();
}

void Session::Answer::submit(std::vector<Request> requests, std::vector<Ticket> tickets) {
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].user_tag = session_.thread_.streams().open(generation_.get(), i);
    tags_.push_back(requests[i].user_tag);
    session_.request_ids_.push_back(session_.state_.engine().submit(std::move(tickets[i]), std::move(requests[i])));
  }
}

// ---- before the engine

asio::awaitable<void> Session::generate(Endpoint endpoint, HttpRequest& request) {
  struct Count {
    std::atomic<int>&total, &here;
    Count(std::atomic<int>& a, std::atomic<int>& b) : total(a), here(b) { ++total, ++here; }
    ~Count() { --total, --here; }
  } count(state_.num_answers, thread_.num_answers);
  record_ = std::make_unique<RequestRecord>();
  record_->request_id = request.id;
  record_->address = address_;
  route_ = route_of(request.path());
  record_->route = kRouteNames[static_cast<std::size_t>(route_)];
  record_->start_us = request.start_us;
  if (state_.request_log.is_on() && state_.config.log_contents) record_->request_body = request.body;

  std::vector<Ticket> tickets;
  take_ticket(tickets);  // before a byte of the body is looked at
  ApiRequest api = parse_api_request(endpoint, request.body, state_.engine().info().sampling, state_.config.strict_params);
  read_headers(request, api);
  request.body = {};
  admit(api, tickets);

  start_watch();
  std::vector<Prompt> prompts;
  co_await on_text_pool(text_bytes(api), [&] { prompts = make_prompts(api, state_.tools()); });
  if (gone_) co_return;
  refuse_late(api, request);
  std::vector<Request> requests = make_requests(api, prompts);
  Answer answer(*this, make_generation(api, request, std::move(prompts)));
  arm_deadline(api, request);
  answer.submit(std::move(requests), std::move(tickets));
  if (api.stream) {
    co_await send_stream(request);
  } else {
    co_await send_body(request);
  }
}

void Session::take_ticket(std::vector<Ticket>& tickets) {
  std::optional<Ticket> ticket = state_.engine().try_admit();
  if (!ticket) throw state_.admission.full(now_us());
  tickets.push_back(std::move(*ticket));
}

// What can be refused before any work on its text.
void Session::admit(const ApiRequest& api, std::vector<Ticket>& tickets) {
  if (state_.config.strict_model && !state_.knows_model(api.model))
    throw ApiError(404, fmt::format("model: \"{}\" is not served here", api.model), "model", "model_not_found");
  if (std::string names = ignored_params(api); !names.empty()) append_header(headers_, "x-fastgen-ignored-params", names);
  const std::optional<double> most_s = api.ttft_timeout_ms ? std::optional(*api.ttft_timeout_ms * 1e-3) : std::nullopt;
  const std::int64_t num_before = state_.num_waiting(state_.engine().stats()) - static_cast<std::int64_t>(tickets.size());
  if (std::optional<ApiError> refusal = state_.admission.refusal(num_before, most_s, now_us())) throw *refusal;
  const std::int32_t max_queue = state_.engine().info().max_queue;
  if (static_cast<std::int64_t>(api.num_prompts()) > max_queue)
    throw bad_field("prompt", fmt::format("{} prompts in one request, but the queue has {} places (--max-queue)", api.num_prompts(), max_queue));
  while (tickets.size() < api.num_prompts()) take_ticket(tickets);
}

std::vector<Request> Session::make_requests(const ApiRequest& api, const std::vector<Prompt>& prompts) {
  std::vector<Request> requests;
  for (const Prompt& prompt : prompts) {
    Request request = make_engine_request(api, prompt, state_.engine().info().max_model_len, state_.next_seed());
    request.ring_idx = thread_.ring_idx();
    std::string field;
    if (std::string why = state_.engine().validate(request, &field); !why.empty())
      throw ApiError(400, why, field);  // it begins with the field's name
    requests.push_back(std::move(request));
  }
  return requests;
}

std::unique_ptr<Generation> Session::make_generation(const ApiRequest& api, const HttpRequest& request, std::vector<Prompt> prompts) {
  record_->answer_id = make_id(api.endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-");
  AnswerWriter writer(api, state_.tools().tokenizer, record_->answer_id, state_.model_name(), std::time(nullptr));
  Generation::Environment environment;
  environment.tokenizer = state_.tools().tokenizer;
  environment.eos_ids = state_.engine().info().eos_ids;
  environment.cancel = [this](std::size_t prompt_idx, std::int32_t choice_idx) {
    if (prompt_idx < request_ids_.size()) state_.engine().cancel(request_ids_[prompt_idx], choice_idx);
  };
  environment.wake = [this] { on_events(); };
  environment.split_reasoning = state_.tools().split_reasoning;
  environment.metrics = &metrics_;
  environment.start_us = request.start_us;
  environment.keep_text = state_.request_log.is_on() && state_.config.log_contents;
  streaming_ = api.stream;
  header_sent_ = end_sent_ = false;
  http11_ = request.http11;
  return std::make_unique<Generation>(api, std::move(prompts), std::move(writer), std::move(environment));
}

// ---- the request's own time

// What took too long to come in or to tokenize costs the engine nothing.
void Session::refuse_late(const ApiRequest& api, const HttpRequest& request) {
  const auto is_over = [&](const std::optional<double>& ms) { return ms && now_us() >= deadline_us(request.start_us, *ms); };
  if (is_over(api.timeout_ms)) throw deadline_exceeded("timeout_ms");
  if (is_over(api.ttft_timeout_ms)) throw deadline_exceeded("ttft_timeout_ms");
}

void Session::arm_deadline(const ApiRequest& api, const HttpRequest& request) {
  if (!api.timeout_ms && !api.ttft_timeout_ms) return;
  const bool waits_for_first = api.ttft_timeout_ms && !generation_->has_tokens();
  double ms = api.timeout_ms.value_or(kMaxTimeoutMs);
  if (waits_for_first) ms = std::min(ms, *api.ttft_timeout_ms);
  if (!waits_for_first && !api.timeout_ms) return;
  if (!deadline_) deadline_ = std::make_unique<asio::steady_timer>(thread_.context());
  deadline_->expires_at(to_time(deadline_us(request.start_us, ms)));
  // api and request live as long as the generation, and the serial changes before there is another.
  deadline_->async_wait([this, self = shared_from_this(), serial = deadline_serial_, &api, &request](boost::system::error_code error) {
    if (!error && generation_ != nullptr && serial == deadline_serial_) on_deadline(api, request);
  });
}

void Session::on_deadline(const ApiRequest& api, const HttpRequest& request) {
  const std::uint64_t now = now_us();
  if (api.timeout_ms && now >= deadline_us(request.start_us, *api.timeout_ms)) {
    generation_->expire("timeout_ms");
  } else if (api.ttft_timeout_ms && !generation_->has_tokens()) {
    generation_->expire("ttft_timeout_ms");
  } else {
    return arm_deadline(api, request);  // the first token came in time
  }
  wake_.cancel();
}

// ---- the answer on its way

void Session::on_events() {
  if (!streaming_) {
    if (generation_->done()) wake_.cancel();
    return;
  }
  if (gone_) return;
  if (writing_ && rest_.size() + generation_->backlog_bytes() > state_.config.max_stream_bytes) return drop_slow_reader();
  if (!writing_) flush();
  if (writing_ || gone_ || generation_->done()) wake_.cancel();
}

void Session::drop_slow_reader() {
  metrics_.count_refusal(Refusal::kSlowReader);
  if (generation_ != nullptr) generation_->abandon();
  close_socket();
}

// Writes the frames that are there, as one chunk, without waiting. What does not fit is the coroutine's, and until that has gone
// tokens are gathered.
void Session::flush() {
  std::string& frames = generation_->frames();
  const bool done = generation_->done(), ends = done && !end_sent_;
  if (generation_->error() && !header_sent_) return;  // it becomes a status
  if (frames.empty() && !ends) return;
  if (!header_sent_) {
    if (const std::string timing = generation_->server_timing(); !timing.empty()) append_header(headers_, "Server-Timing", timing);
    metrics_.count_http(route_, 200);
  }
  const std::string header = header_sent_ ? "" : format_stream_header(http11_, keeps_, headers_);
  std::array<char, 20> size_line;
  const auto size_end = fmt::format_to(size_line.begin(), "{:x}\r\n", frames.size());
  const bool is_chunk = http11_ && !frames.empty();
  const std::array<std::string_view, 5> parts = {
      header, is_chunk ? std::string_view(size_line.data(), static_cast<std::size_t>(size_end - size_line.begin())) : "",
      frames, is_chunk ? "\r\n" : "", ends && http11_ ? kLastChunk : ""};
  boost::system::error_code error;
  std::size_t sent = transport_.try_write(parts, error);
  for (std::string_view part : parts) {
    const std::size_t done_bytes = std::min(sent, part.size());
    rest_.append(part.substr(done_bytes));
    sent -= done_bytes;
  }
  frames.clear();
  header_sent_ = true;
  end_sent_ |= ends;
  write_us_ = now_us();
  metrics_.num_writes.add(1);
  if (const std::uint64_t step_us = generation_->take_oldest_step_us())
    metrics_.write_s.observe(static_cast<double>(write_us_ - std::min(step_us, write_us_)) * 1e-6);
  if (error) gone_ = true;
  if (rest_.empty() || gone_) return;
  metrics_.num_blocked_writes.add(1);
  writing_ = true;
  generation_->hold();
}

asio::awaitable<void> Session::send_rest() {
  co_await send(std::exchange(rest_, {}));
  generation_->release();
}

asio::awaitable<void> Session::send_stream(const HttpRequest& request) {
  keeps_ = request.http11 && keep_alive(request);
  closing_ = !keeps_;
  while (!gone_) {
    if (generation_->error() && !header_sent_) throw ApiError(*generation_->error());
    if (!rest_.empty()) {
      co_await send_rest();
    } else if (end_sent_) {
      break;
    } else if (!generation_->frames().empty() || generation_->done()) {
      flush();
    } else if (probe_wanted_) {
      co_await send_probe(request);
    } else {
      co_await sleep();
    }
  }
  if (record_ && header_sent_) record_->status = 200;
  if (record_ && generation_->error()) record_->error = generation_->error()->code;
}

asio::awaitable<void> Session::send_body(const HttpRequest& request) {
  while (!generation_->done() && !gone_) {
    if (probe_wanted_) {
      co_await send_probe(request);
    } else {
      co_await sleep();
    }
  }
  if (gone_) co_return;
  if (generation_->error()) throw ApiError(*generation_->error());
  HttpAnswer answer;
  answer.body = generation_->body();
  append_header(answer.headers, "Server-Timing", generation_->server_timing());
  co_await respond(request, std::move(answer));
}

asio::awaitable<void> Session::send_probe(const HttpRequest& request) {
  probe_wanted_ = false;
  if (header_sent_) {
    generation_->frames() += kCommentFrame;
    flush();
  } else if (request.http11) {
    co_await send(std::string(kContinueAnswer));
  } else {
    // HTTP/1.0 knows no interim response: here a FIN has to count as the end.
    gone_ = true;
  }
}

}  // namespace fastgen::server
