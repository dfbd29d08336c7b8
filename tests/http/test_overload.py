"""Too many requests, too little time: refusals that clients obey, deadlines, priorities."""

import threading
import time

import httpx
import pytest
from conftest import Server, wait_until
from openai import OpenAI

SMALL = ("--kv-gb", "0.05", "--backend", "slow:20:echo")


def post(server, **fields):
    headers = fields.pop("headers", {})
    body = {"prompt": [5, 6], "ignore_eos": True, "max_tokens": 1, **fields}
    return httpx.post(server.url + "/v1/completions", json=body, headers=headers, timeout=60)


def wait_for(server, **counts):
    """Until so many requests, or more, are running or waiting."""
    wait_until(lambda: all(server.health()[name] >= count for name, count in counts.items()))


def in_threads(jobs):
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    return threads


@pytest.fixture(scope="module")
def slow(tiny_model):
    with Server(tiny_model, *SMALL, "--max-batch", "2", "--max-queue", "64") as server:
        yield server
        server.check_end()


def test_the_official_client_comes_again_and_is_served(tiny_model):
    """Two places, sixteen clients: each is refused for a while, obeys retry-after-ms, and gets its answer."""
    with Server(tiny_model, *SMALL, "--max-queue", "2") as server:
        client = OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=200, timeout=60)
        done, refused = [], []
        client_transport = httpx.Client(event_hooks={"response": [lambda r: refused.append(r.headers) if r.status_code == 429 else None]})
        client = client.with_options(http_client=client_transport)

        def ask():
            answer = client.completions.create(model="m", prompt=[5, 6], max_tokens=4, extra_body={"ignore_eos": True})
            done.append(answer.usage.completion_tokens)

        for thread in in_threads([ask] * 16):
            thread.join(60)
        assert done == [4] * 16
        assert refused
        for headers in refused:
            assert headers["x-should-retry"] == "true"
            assert 0 < int(headers["retry-after-ms"]) <= 60000
            assert 0 <= int(headers["retry-after"]) * 1000 - int(headers["retry-after-ms"]) < 1000
        server.check_end()


def test_refused_before_any_work_when_the_wait_is_too_long(slow):
    for thread in in_threads([lambda: post(slow, max_tokens=10)] * 8):  # so that the rate is known
        thread.join()
    threads = in_threads([lambda: post(slow, max_tokens=40)] * 20)
    wait_for(slow, running=2, waiting=10)
    started = time.monotonic()
    answer = post(slow, ttft_timeout_ms=100, max_tokens=1)
    assert answer.status_code == 429 and time.monotonic() - started < 3, answer.text
    assert answer.json()["error"]["code"] == "queue_too_long"
    assert int(answer.headers["retry-after-ms"]) > 100
    assert slow.health()["expected_wait_s"] > 0.1
    for thread in threads:
        thread.join()


def test_time_over_while_waiting_costs_no_step(slow):
    slow.wait_idle()
    threads = in_threads([lambda: post(slow, max_tokens=250)] * 2)  # the whole batch, five seconds long
    wait_for(slow, running=2)
    started = time.monotonic()
    answer = post(slow, timeout_ms=200, max_tokens=5, prompt=[9] * 50)
    assert 0.15 < time.monotonic() - started < 4  # before the batch has a place
    assert answer.status_code == 504 and answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["param"] == "timeout_ms" and answer.json()["error"]["code"] == "deadline_exceeded"
    for thread in threads:
        thread.join()
    health = slow.wait_idle()
    assert health["free_blocks"] == health["blocks"]


@pytest.mark.parametrize("how", ["body", "header"])
@pytest.mark.parametrize("stream", [False, True])
def test_time_over_while_running_keeps_what_there_is(slow, how, stream):
    slow.wait_idle()
    fields = {"timeout_ms": 1000} if how == "body" else {"headers": {"x-fastgen-timeout-ms": "1000"}}
    started = time.monotonic()
    answer = post(slow, max_tokens=1000, stream=stream, **fields)
    assert 0.9 < time.monotonic() - started < 15  # to its own end it takes twenty seconds
    assert answer.status_code == 200
    if stream:
        frames = [line for line in answer.text.splitlines() if line]
        assert frames[-1] == "data: [DONE]" and '"finish_reason":"length","stop_reason":"timeout"' in frames[-2]
        assert len(frames) > 2
    else:
        choice = answer.json()["choices"][0]
        assert choice["finish_reason"] == "length" and choice["stop_reason"] == "timeout"
        assert 0 < answer.json()["usage"]["completion_tokens"] < 60
    assert slow.wait_idle()["running"] == 0


def test_a_first_token_in_time_is_no_timeout(slow):
    slow.wait_idle()
    answer = post(slow, max_tokens=75, ttft_timeout_ms=1200, timeout_ms=50000)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 75


def test_a_first_token_too_late(slow):
    slow.wait_idle()
    threads = in_threads([lambda: post(slow, max_tokens=150)] * 2)
    wait_for(slow, running=2)
    answer = post(slow, headers={"x-fastgen-ttft-timeout-ms": "100"}, stream=True)
    assert answer.status_code == 504 and answer.json()["error"]["param"] == "ttft_timeout_ms"
    for thread in threads:
        thread.join()


def test_priority(slow):
    slow.wait_idle()
    order = []
    threads = in_threads([lambda: post(slow, max_tokens=150)] * 2)
    wait_for(slow, running=2)
    for name, fields in [("low", {"priority": 3}), ("none", {}), ("high", {"headers": {"x-fastgen-priority": "-3"}})]:
        job = lambda name=name, fields=fields: (post(slow, max_tokens=40, **fields), order.append(name))  # noqa: E731
        threads += in_threads([job])
        wait_for(slow, waiting=len(threads) - 2)
    for thread in threads:
        thread.join()
    assert order.index("high") < order.index("low") and order[-1] == "low", order


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": "1"}, "timeout_ms"),
        ({"ttft_timeout_ms": -5}, "ttft_timeout_ms"),
        ({"priority": 1001}, "priority"),
        ({"priority": 0.5}, "priority"),
        ({"headers": {"x-fastgen-timeout-ms": "soon"}}, "x-fastgen-timeout-ms"),
        ({"headers": {"x-fastgen-ttft-timeout-ms": "nan"}}, "x-fastgen-ttft-timeout-ms"),
        ({"headers": {"x-fastgen-priority": "1e9"}}, "x-fastgen-priority"),
        ({"headers": {"x-fastgen-priority": "1.5"}}, "x-fastgen-priority"),
    ],
)
def test_bad_values_are_named(slow, fields, param):
    answer = post(slow, **fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_a_silent_stream_is_pinged(tiny_model):
    with Server(tiny_model, "--kv-gb", "0.05", "--backend", "slow:1500:echo", "--sse-ping-s", "0.5") as server:
        text = post(server, stream=True, max_tokens=2).text
        assert text.count(":\n\n") >= 2 and text.endswith("data: [DONE]\n\n")
        server.check_end()
