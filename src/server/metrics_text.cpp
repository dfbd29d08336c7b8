#include "server/metrics_text.h"

#include <ctime>
#include <functional>
#include <iterator>

#include <fmt/format.h>

#include "server/health.h"
#include "server/server_state.h"

namespace fastgen::server {

namespace {

constexpr const char* kOwn = "fastgen:";

std::string escape_label(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    c == '\n' ? out += "\\n" : out += c;
  }
  return out;
}

class MetricsText {
 public:
  explicit MetricsText(const ServerState& state)
      : state_(state), prefix_(state.config.metrics_prefix), labels_(fmt::format("model_name=\"{}\",engine=\"0\"", escape_label(state.model_name()))) {}

  std::string take() { return std::move(out_); }

  // ---- one metric, without or with a label beside the model's
  template <typename Number>
  void number(const std::string& prefix, const char* type, const char* name, const char* help, Number value) {
    head(prefix, type, name, help);
    sample(prefix, name, "", value);
  }
  template <typename Number>
  void counter(const char* name, const char* help, Number value) { number(prefix_, "counter", name, help, value); }
  template <typename Number>
  void gauge(const char* name, const char* help, Number value) { number(prefix_, "gauge", name, help, value); }
  template <typename Number>
  void own_counter(const char* name, const char* help, Number value) { number(kOwn, "counter", name, help, value); }
  template <typename Number>
  void own_gauge(const char* name, const char* help, Number value) { number(kOwn, "gauge", name, help, value); }

  void head(const std::string& prefix, const char* type, const char* name, const char* help) {
    fmt::format_to(std::back_inserter(out_), "# HELP {0}{1} {2}\n# TYPE {0}{1} {3}\n", prefix, name, help, type);
  }
  template <typename Number>
  void sample(const std::string& prefix, const std::string& name, const std::string& label, Number value) {
    fmt::format_to(std::back_inserter(out_), "{}{}{{{}{}{}}} {}\n", prefix, name, labels_, label.empty() ? "" : ",", label, value);
  }

  // ---- sums over the io threads
  std::uint64_t sum(const std::function<std::uint64_t(const ThreadMetrics&)>& of) const {
    std::uint64_t total = 0;
    for (const auto& metrics : state_.metrics) total += of(*metrics);
    return total;
  }
  void histogram(const std::string& prefix, const char* name, const char* help, Histogram ThreadMetrics::*member) {
    head(prefix, "histogram", name, help);
    const Histogram& shape = (*state_.metrics.front()).*member;
    std::uint64_t below = 0;
    double sum_value = 0;
    for (const auto& metrics : state_.metrics) sum_value += ((*metrics).*member).sum();
    for (std::size_t i = 0; i <= shape.num_bounds(); ++i) {
      below += sum([&](const ThreadMetrics& metrics) { return (metrics.*member).count(i); });
      bucket(prefix, name, i < shape.num_bounds() ? fmt::format("{}", shape.bound(i)) : "+Inf", below);
    }
    end_histogram(prefix, name, sum_value, below);
  }
  void steps(const std::string& prefix, const char* name, const char* help, const StepHistogram& steps, double unit) {
    head(prefix, "histogram", name, help);
    std::uint64_t below = 0;
    for (std::size_t i = 0; i < StepHistogram::kNumBuckets; ++i) {
      below += steps.counts[i];
      const bool is_last = i + 1 == StepHistogram::kNumBuckets;
      bucket(prefix, name, is_last ? "+Inf" : fmt::format("{}", static_cast<double>(steps.first << i) * unit), below);
    }
    end_histogram(prefix, name, static_cast<double>(steps.sum) * unit, below);
  }

 private:
  void bucket(const std::string& prefix, const std::string& name, const std::string& bound, std::uint64_t below) {
    sample(prefix, name + "_bucket", fmt::format("le=\"{}\"", bound), below);
  }
  void end_histogram(const std::string& prefix, const std::string& name, double sum_value, std::uint64_t count) {
    sample(prefix, name + "_sum", "", sum_value);
    sample(prefix, name + "_count", "", count);
  }

  const ServerState& state_;
  const std::string prefix_, labels_;
  std::string out_;
};

// ---- what vLLM counts too

void write_engine(MetricsText& text, const std::string& prefix, const EngineStats& stats) {
  text.gauge("num_requests_running", "Sequences in the batch.", stats.num_running);
  text.gauge("num_requests_waiting", "Sequences that wait for their first step, or for blocks that they lost.", stats.num_waiting);
  const auto used = [](std::int64_t num_free, std::int64_t num_blocks) {
    return num_blocks > 0 ? 1 - static_cast<double>(num_free) / static_cast<double>(num_blocks) : 0;
  };
  text.gauge("kv_cache_usage_perc", "Part of the KV cache that is in use, 0 to 1.", used(stats.num_free_blocks, stats.num_blocks));
  text.gauge("cpu_cache_usage_perc", "Part of the host tier that is in use, 0 to 1.", used(stats.num_free_host_blocks, stats.num_host_blocks));
  text.counter("num_preemptions_total", "Sequences that gave up their blocks, to be computed again or paged in.", stats.num_preemptions);
  text.steps(prefix, "iteration_tokens_total", "Tokens computed in a step.", stats.step_tokens, 1);
}

// Labels of a gauge that is 1, as vLLM has them: dashboards join on these.
void write_cache_config(MetricsText& text, const std::string& prefix, const EngineInfo& info, const EngineStats& stats) {
  text.head(prefix, "gauge", "cache_config_info", "The KV cache, in labels.");
  text.sample(prefix, "cache_config_info",
              fmt::format("block_size=\"{}\",cache_dtype=\"{}\",enable_prefix_caching=\"False\",num_gpu_blocks=\"{}\",num_cpu_blocks=\"{}\"",
                          info.block_size, info.dtype, stats.num_blocks, stats.num_host_blocks),
              1);
}

void write_requests(MetricsText& text, const std::string& prefix) {
  text.counter("prompt_tokens_total", "Prompt tokens of answered requests.",
               text.sum([](const ThreadMetrics& m) { return m.num_prompt_tokens.get(); }));
  text.counter("generation_tokens_total", "Generated tokens of answered requests.",
               text.sum([](const ThreadMetrics& m) { return m.num_generated_tokens.get(); }));
  text.head(prefix, "counter", "request_success_total", "Choices by how they ended.");
  for (std::size_t i = 0; i < kOutcomeNames.size(); ++i)
    text.sample(prefix, "request_success_total", fmt::format("finished_reason=\"{}\"", kOutcomeNames[i]),
                text.sum([i](const ThreadMetrics& m) { return m.outcomes[i].get(); }));
  const auto histogram = [&](const char* name, const char* help, Histogram ThreadMetrics::*member) { text.histogram(prefix, name, help, member); };
  histogram("time_to_first_token_seconds", "From a request's first byte to its first token.", &ThreadMetrics::ttft_s);
  histogram("inter_token_latency_seconds", "Between two tokens of a choice.", &ThreadMetrics::itl_s);
  histogram("request_time_per_output_token_seconds", "A choice's time after its first token, over its other tokens.", &ThreadMetrics::tpot_s);
  histogram("e2e_request_latency_seconds", "From a request's first byte to the end of its answer.", &ThreadMetrics::e2e_s);
  histogram("request_queue_time_seconds", "From submission to the first step.", &ThreadMetrics::queue_s);
  histogram("request_prefill_time_seconds", "From the first step to the first token.", &ThreadMetrics::prefill_s);
  histogram("request_decode_time_seconds", "From the first token to the last.", &ThreadMetrics::decode_s);
  histogram("request_inference_time_seconds", "From the first step to the last token.", &ThreadMetrics::inference_s);
  histogram("request_prompt_tokens", "Prompt tokens of a request.", &ThreadMetrics::prompt_tokens);
  histogram("request_generation_tokens", "Generated tokens of a choice.", &ThreadMetrics::generated_tokens);
  histogram("request_max_num_generation_tokens", "Generated tokens of a request's longest choice.", &ThreadMetrics::most_generated_tokens);
  histogram("request_params_max_tokens", "max_tokens, where a request has it.", &ThreadMetrics::max_tokens);
  histogram("request_params_n", "n of a request.", &ThreadMetrics::num_choices);
}

// ---- our own

void write_steps(MetricsText& text, const EngineStats& stats) {
  text.head(kOwn, "counter", "steps_total", "Steps by what was in them.");
  const std::uint64_t decode = stats.num_steps - stats.num_mixed_steps - stats.num_prefill_steps;
  text.sample(kOwn, "steps_total", "kind=\"decode\"", decode);
  text.sample(kOwn, "steps_total", "kind=\"prefill\"", stats.num_prefill_steps);
  text.sample(kOwn, "steps_total", "kind=\"mixed\"", stats.num_mixed_steps);
  text.own_counter("graph_steps_total", "Steps that replayed a captured graph.", stats.num_graph_steps);
  text.own_counter("step_prefill_tokens_total", "Prompt tokens computed.", stats.prefill_tokens);
  text.own_counter("step_decode_tokens_total", "Tokens generated.", stats.decode_tokens);
  text.steps(kOwn, "step_seconds", "From one step's result to the next one's.", stats.step_us, 1e-6);
  text.own_counter("ring_waits_total", "Times that a sequence was left out of a step because its consumer was behind.", stats.num_ring_waits);
  text.own_gauge("kv_blocks", "Blocks of the KV cache.", stats.num_blocks);
  text.own_gauge("kv_blocks_free", "Of these, free.", stats.num_free_blocks);
  text.own_gauge("host_kv_blocks", "Blocks of the host tier.", stats.num_host_blocks);
  text.own_gauge("host_kv_blocks_free", "Of these, free.", stats.num_free_host_blocks);
  text.own_counter("page_outs_total", "Preempted sequences whose K and V went to the host tier.", stats.num_page_outs);
  text.own_counter("page_ins_total", "Sequences that came back from there.", stats.num_page_ins);
  text.own_gauge("tickets_in_use", "Requests between admission and the end of their answer.", stats.tickets_in_use);
}

void write_health(MetricsText& text, const ServerState& state) {
  const Health health = health_of(state);
  text.head(kOwn, "gauge", "health", "1 for the state that the server is in.");
  for (auto status : {HealthStatus::kLoading, HealthStatus::kReady, HealthStatus::kBusy, HealthStatus::kStalled, HealthStatus::kDraining,
                      HealthStatus::kFailed})
    text.sample(kOwn, "health", fmt::format("state=\"{}\"", health_name(status)), static_cast<int>(health.status == status));
  text.own_gauge("engine_silent_seconds", "Since the engine's last sign of progress while it has work.", health.silent_s);
  text.own_gauge("expected_wait_seconds", "Until a request that comes now is begun.", health.expected_wait_s);
}

double thread_seconds(const ThreadMetrics& metrics) {
  timespec time{};
  const int clock = metrics.cpu_clock;
  if (clock == 0 || clock_gettime(static_cast<clockid_t>(clock), &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void write_http(MetricsText& text, const ServerState& state) {
  text.head(kOwn, "counter", "http_requests_total", "Answers by route and status.");
  for (std::size_t route = 0; route < kRouteNames.size(); ++route)
    for (std::size_t status = 0; status < kStatuses.size(); ++status)
      if (const std::uint64_t count = text.sum([&](const ThreadMetrics& m) { return m.http[route][status].get(); }))
        text.sample(kOwn, "http_requests_total",
                    fmt::format("route=\"{}\",code=\"{}\"", kRouteNames[route], kStatuses[status] > 0 ? fmt::format("{}", kStatuses[status]) : "other"), count);
  text.head(kOwn, "counter", "refusals_total", "Requests that were not served, by reason.");
  for (std::size_t i = 0; i < kRefusalNames.size(); ++i)
    text.sample(kOwn, "refusals_total", fmt::format("reason=\"{}\"", kRefusalNames[i]), text.sum([i](const ThreadMetrics& m) { return m.refusals[i].get(); }));
  text.own_counter("request_log_lost_total", "Lines that --log-requests could not write, or had no room for.", state.request_log.num_lost());
  text.own_gauge("connections", "Open connections.", state.num_connections.load());
  text.own_gauge("answers", "Answers on their way.", state.num_answers.load());
}

void write_streams(MetricsText& text, const ServerState& state) {
  const auto counter = [&](const char* name, const char* help, OneWriter<std::uint64_t> ThreadMetrics::*member) {
    text.own_counter(name, help, text.sum([member](const ThreadMetrics& m) { return (m.*member).get(); }));
  };
  counter("sse_events_total", "Server-sent events written.", &ThreadMetrics::num_frames);
  counter("sse_merged_tokens_total", "Tokens that went out in another's event, as their reader was slow.", &ThreadMetrics::num_merged);
  counter("socket_writes_total", "Writes of events that were tried at once.", &ThreadMetrics::num_writes);
  counter("socket_blocked_writes_total", "Of these, those that did not fit wholly.", &ThreadMetrics::num_blocked_writes);
  text.histogram(kOwn, "event_write_seconds", "From a step's result to the return of the write that carries its token.", &ThreadMetrics::write_s);
  text.head(kOwn, "counter", "io_thread_cpu_seconds_total", "Processor time of each io thread.");
  for (std::size_t i = 0; i < state.metrics.size(); ++i)
    text.sample(kOwn, "io_thread_cpu_seconds_total", fmt::format("thread=\"{}\"", i), thread_seconds(*state.metrics[i]));
}

}  // namespace

HttpAnswer show_metrics(const ServerState& state) {
  MetricsText text(state);
  const EngineStats stats = state.is_loaded() ? state.engine().stats() : EngineStats{};
  write_engine(text, state.config.metrics_prefix, stats);
  if (state.is_loaded()) write_cache_config(text, state.config.metrics_prefix, state.engine().info(), stats);
  write_requests(text, state.config.metrics_prefix);
  write_steps(text, stats);
  write_health(text, state);
  write_http(text, state);
  write_streams(text, state);
  HttpAnswer answer;
  answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
  answer.body = text.take();
  return answer;
}

}  // namespace fastgen::server
