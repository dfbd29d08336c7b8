"""/metrics is read by Prometheus' own parser, and what it says is what happened."""

import json
import pathlib
import re

import httpx
import pytest
from conftest import ROOT, Server, wait_until
from prometheus_client.parser import text_string_to_metric_families

SMALL = ("--backend", "echo", "--kv-gb", "0.05")


def scrape(server):
    answer = httpx.get(server.url + "/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(families, name, **labels):
    """The sum of the samples of that name that carry the labels."""
    found = [s.value for f in families.values() for s in f.samples if s.name == name and labels.items() <= s.labels.items()]
    assert found, (name, labels)
    return sum(found)


def check_histograms(families):
    """Buckets only grow, the last is the count, and a sum is there."""
    num = 0
    for family in families.values():
        if family.type != "histogram":
            continue
        num += 1
        buckets = [s for s in family.samples if s.name.endswith("_bucket")]
        bounds, counts = [float(s.labels["le"]) for s in buckets], [s.value for s in buckets]
        assert bounds == sorted(set(bounds)) and bounds[-1] == float("inf"), family.name
        assert counts == sorted(counts)
        assert counts[-1] == next(s.value for s in family.samples if s.name.endswith("_count"))
        assert any(s.name.endswith("_sum") for s in family.samples)
    return num


def test_counts_are_what_happened(tiny_model):
    with Server(tiny_model, *SMALL, "--served-model-name", 'a "b"\\c') as server:
        before = scrape(server)
        assert value(before, "fastgen:health", state="ready") == 1 and value(before, "fastgen:health", state="loading") == 0
        body = {"prompt": [5, 6, 7], "max_tokens": 10, "ignore_eos": True}
        for _ in range(3):
            assert httpx.post(server.url + "/v1/completions", json=body).status_code == 200
        stream = httpx.post(server.url + "/v1/completions", json={**body, "stream": True, "n": 2, "return_token_ids": True})
        num_frames = stream.text.count("data: {")
        assert httpx.post(server.url + "/v1/completions", json={"prompt": 5}).status_code == 400
        assert httpx.get(server.url + "/nothing").status_code == 404
        server.wait_idle()
        after = scrape(server)
        assert value(after, "fastgen:prompt_tokens_total", model_name='a "b"\\c') == 12
        assert value(after, "fastgen:generation_tokens_total") == 50
        assert value(after, "fastgen:request_success_total", finished_reason="length") == 5
        assert value(after, "fastgen:request_success_total", finished_reason="error") == 0
        assert value(after, "fastgen:time_to_first_token_seconds_count") == 4
        assert value(after, "fastgen:inter_token_latency_seconds_count") == 5 * 9
        assert value(after, "fastgen:request_time_per_output_token_seconds_count") == 5
        for name in ("e2e_request_latency", "request_queue_time", "request_prefill_time", "request_decode_time", "request_inference_time"):
            assert value(after, f"fastgen:{name}_seconds_count") == 4
        assert value(after, "fastgen:request_prompt_tokens_sum") == 12 and value(after, "fastgen:request_generation_tokens_sum") == 50
        assert value(after, "fastgen:request_max_num_generation_tokens_sum") == 40
        assert value(after, "fastgen:request_params_n_sum") == 5 and value(after, "fastgen:request_params_max_tokens_sum") == 40
        assert value(after, "fastgen:http_requests_total", route="/v1/completions", code="200") == 4
        assert value(after, "fastgen:http_requests_total", route="/v1/completions", code="400") == 1
        assert value(after, "fastgen:http_requests_total", route="other", code="404") == 1
        assert value(after, "fastgen:refusals_total", reason="bad_request") == 2
        assert value(after, "fastgen:sse_events_total") == num_frames
        assert value(after, "fastgen:event_write_seconds_count") > 0
        steps = value(after, "fastgen:steps_total")
        assert steps == value(after, "fastgen:step_seconds_count") == value(after, "fastgen:iteration_tokens_total_count") > 10
        assert value(after, "fastgen:step_prefill_tokens_total") + value(after, "fastgen:step_decode_tokens_total") == value(
            after, "fastgen:iteration_tokens_total_sum"
        )
        assert value(after, "fastgen:kv_cache_usage_perc") == 0 and value(after, "fastgen:num_requests_running") == 0
        assert value(after, "fastgen:io_thread_cpu_seconds_total", thread="0") > 0
        assert check_histograms(after) >= 14
        server.check_end()


def test_vllm_names(tiny_model):
    """vLLM's dashboards look for these."""
    with Server(tiny_model, *SMALL, "--metrics-compat", "vllm") as server:
        families = scrape(server)
        for name in """num_requests_running num_requests_waiting kv_cache_usage_perc cpu_cache_usage_perc num_preemptions prompt_tokens generation_tokens
            request_success iteration_tokens_total time_to_first_token_seconds inter_token_latency_seconds e2e_request_latency_seconds
            request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens
            request_inference_time_seconds request_max_num_generation_tokens request_generation_tokens request_params_max_tokens request_params_n request_time_per_output_token_seconds""".split():
            assert "vllm:" + name in families, name
            assert "fastgen:" + name not in families
        (config,) = families["vllm:cache_config_info"].samples
        blocks = int(config.labels["num_gpu_blocks"])
        assert (config.value, config.labels["block_size"], config.labels["enable_prefix_caching"]) == (1, "64", "False")
        assert config.labels["num_cpu_blocks"] == "0" and blocks == value(families, "fastgen:kv_blocks") == server.health()["blocks"] > 0
        assert not any("prefix_cache" in name for name in families)  # there is none, and zeros would look like one that never hits
        assert "fastgen:http_requests" in families and families["vllm:iteration_tokens_total"].type == "histogram"
        server.check_end()


def test_the_host_tier_is_told(tiny_model):
    """Blocks of 64 tokens of echo are 1,280 bytes; the start-up line, the metrics and /health say what there is of them."""
    with Server(tiny_model, *SMALL, "--host-kv-gb", "0.0128") as server:
        families = scrape(server)
        assert value(families, "fastgen:host_kv_blocks") == value(families, "fastgen:host_kv_blocks_free") == 10000
        assert value(families, "fastgen:cpu_cache_usage_perc") == value(families, "fastgen:page_outs_total") == 0
        assert server.health()["host_blocks"] == 10000
        server.check_end()
    assert any("host tier 0.01 GB: 640000 tokens" in line for line in server.log)


def test_the_dashboard_asks_for_metrics_that_exist(echo):
    path = ROOT / "scripts" / "deploy" / "grafana-dashboard.json"
    dashboard = json.loads(pathlib.Path(path).read_text())
    httpx.get(echo.url + "/health")  # so that some route has been counted
    names = {s.name for f in scrape(echo).values() for s in f.samples}
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) >= 12
    for expression in expressions:
        asked = re.findall(r"fastgen:[a-z0-9_]+", expression)
        assert asked and set(asked) <= names, expression


def test_refusals_by_reason(tiny_model):
    with Server(tiny_model, "--kv-gb", "0.05", "--backend", "slow:100:echo", "--max-queue", "1", "--api-key", "k") as server:
        ask = lambda **fields: httpx.post(server.url + "/v1/completions", json={"prompt": [5], **fields}, headers={"authorization": "Bearer k"})  # noqa: E731
        import threading

        thread = threading.Thread(target=lambda: ask(max_tokens=20, ignore_eos=True))
        thread.start()
        wait_until(lambda: server.health()["running"])
        assert ask().status_code == 429
        assert httpx.get(server.url + "/metrics").status_code == 401
        thread.join()
        assert ask(timeout_ms=20).status_code == 504
        text = httpx.get(server.url + "/metrics", headers={"x-api-key": "k"}).text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        for reason in ("queue_full", "api_key", "deadline"):
            assert value(families, "fastgen:refusals_total", reason=reason) == 1
        server.check_end()


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json", "/health"])
def test_head(echo, path):
    answer = httpx.head(echo.url + path)
    assert answer.status_code == 200 and answer.text == "" and int(answer.headers["content-length"]) > 10


def test_trace(echo):
    """The flight recorder: what was asked just now is in it, on the threads that did it."""
    httpx.post(echo.url + "/v1/completions", json={"prompt": "x", "max_tokens": 20, "ignore_eos": True})
    answer = httpx.get(echo.url + "/debug/trace?ms=60000")
    assert answer.status_code == 200
    events = answer.json()["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert "io 0" in names and len(names) >= 2, names
    spans = [event for event in events if event.get("ph") == "X"]
    assert len(spans) > 20 and all(event["dur"] >= 0 for event in spans)
    for bad in ("0", "x", "-5", "1e9", ""):
        assert httpx.get(echo.url + "/debug/trace?ms=" + bad).status_code == (200 if bad == "" else 400)
