"""Health tells progress: while the model loads, in a long prefill, when the engine hangs, when everything is taken."""

import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request

import httpx
import pytest
from conftest import TINY_CONFIG, Server, binary, free_port, wait_until

SMALL = ("--kv-gb", "0.05")


def ask(server, path="/health"):
    """(status, body, seconds)"""
    started = time.monotonic()
    try:
        with urllib.request.urlopen(server.url + path, timeout=10) as answer:
            return answer.status, json.load(answer), time.monotonic() - started
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), time.monotonic() - started


def wait_for(server, status, seconds=20):
    deadline = time.monotonic() + seconds
    while (body := ask(server)[1])["status"] != status:
        assert time.monotonic() < deadline, body
        time.sleep(0.02)


def post_later(server, **fields):
    """Sends a completion from a thread of its own; returns the thread and where its answer will be."""
    answers = []

    def post():
        try:
            answers.append(httpx.post(server.url + "/v1/completions", json={"prompt": [5, 6], "ignore_eos": True, **fields}, timeout=60))
        except httpx.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    return thread, answers


def codes(server):
    return [ask(server, path)[0] for path in ("/health", "/health/live", "/health/ready")]


def test_ready_and_fast(echo):
    assert codes(echo) == [200, 200, 200]
    status, body, _ = ask(echo)
    assert body["status"] == "ready" and body["loaded_percent"] == 100 and body["silent_s"] == 0
    assert ask(echo, "/health/live")[1] == ask(echo, "/health/ready")[1] == {"status": "ready"}


def test_a_prefill_of_many_steps_is_no_stall(tiny_model):
    """Each step takes 0.2 s and the whole prompt 6 s, twice as long as what would count as a stall."""
    with Server(tiny_model, *SMALL, "--backend", "slow:200:echo", "--max-prefill", "16", "--stall-s", "3") as server:
        thread, answers = post_later(server, prompt=[7] * 480, max_tokens=1)
        time.sleep(0.3)
        seen = set()
        while thread.is_alive():
            status, body, seconds = ask(server)
            seen.add(body["status"])
            assert status == 200 and seconds < 3, body
            time.sleep(0.05)
        assert seen == {"ready"} and answers[0].status_code == 200
        server.check_end()


def test_a_stall_is_told_and_so_is_its_end(tiny_model):
    with Server(tiny_model, *SMALL, "--backend", "slow:2500:echo", "--stall-s", "1") as server:
        thread, answers = post_later(server, max_tokens=1)
        wait_for(server, "stalled")
        assert codes(server) == [503, 503, 503]
        thread.join(20)
        assert answers[0].status_code == 200
        wait_for(server, "ready")
        server.check_end()


def test_an_engine_that_hangs(tiny_model):
    """Three steps are taken, the fourth never ends. Time-outs still hold, and the process can be ended."""
    with Server(tiny_model, *SMALL, "--backend", "stall-after:3:echo", "--stall-s", "0.5", "--drain-s", "0.1") as server:
        assert codes(server) == [200, 200, 200]
        thread, answers = post_later(server, max_tokens=10, timeout_ms=1500)
        wait_for(server, "stalled")
        assert codes(server) == [503, 503, 503]
        assert ask(server)[2] < 3
        thread.join(20)
        choice = answers[0].json()["choices"][0]  # what there was when its time was over
        assert choice["finish_reason"] == "length" and choice["stop_reason"] == "timeout"
        assert answers[0].json()["usage"]["completion_tokens"] == 3
        assert server.stop(seconds=30) == 1
        assert any("does not stop" in line for line in server.log)


def test_busy_when_every_place_is_taken(tiny_model):
    with Server(tiny_model, *SMALL, "--backend", "slow:50:echo", "--max-queue", "2") as server:
        posts = [post_later(server, max_tokens=60) for _ in range(2)]
        wait_for(server, "busy")
        assert codes(server) == [200, 200, 200]  # some are refused, but the next may not be
        refused = httpx.post(server.url + "/v1/completions", json={"prompt": [5]})
        assert refused.status_code == 429
        for thread, answers in posts:
            thread.join(20)
            assert answers[0].status_code == 200
        wait_for(server, "ready")
        server.check_end()


def test_draining(tiny_model):
    with Server(tiny_model, *SMALL, "--backend", "slow:50:echo") as server:
        thread, answers = post_later(server, max_tokens=40)
        wait_for(server, "ready")
        while not ask(server)[1]["running"]:
            time.sleep(0.01)
        with httpx.Client(base_url=server.url) as client:  # connected before, so that it is still heard
            client.get("/health")
            connection = server.connect()
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")  # half a request: not idle, so not closed
            time.sleep(0.1)
            server.process.terminate()
            wait_until(server.refuses_connections)
            connection.sendall(b"\r\n")
            answer = connection.recv(65536)
            assert b" 503 " in answer and b'"draining"' in answer, answer
            connection.close()
        thread.join(20)
        assert answers[0].status_code == 200 and len(answers[0].json()["choices"]) == 1
        assert server.process.wait(20) == 0


def test_listens_while_the_model_loads(tmp_path_factory, tiny_model):
    """A pipe as config.json holds the loading up for as long as the test wants."""
    folder = tmp_path_factory.mktemp("loading")
    for path in tiny_model.iterdir():
        if path.name != "tokenizer.json":
            (folder / path.name).write_bytes(path.read_bytes())
    os.mkfifo(folder / "tokenizer.json")
    port = free_port()
    process = subprocess.Popen([str(binary()), str(folder), "--backend", "echo", *SMALL, "--port", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        class Loading:
            url = f"http://127.0.0.1:{port}"

        deadline = time.monotonic() + 20
        while True:
            try:
                status, body, _ = ask(Loading)
                break
            except urllib.error.URLError:
                assert time.monotonic() < deadline and process.poll() is None, process.stderr
                time.sleep(0.05)
        assert status == 503 and body["status"] == "loading" and 0 <= body["loaded_percent"] <= 100
        assert codes(Loading) == [503, 200, 503]
        refused = httpx.post(Loading.url + "/v1/completions", json={"prompt": "x"})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "loading"
        assert refused.headers["retry-after"] and refused.headers["x-should-retry"] == "true"
        assert httpx.get(Loading.url + "/v1/models").status_code == 503
        assert 'health{model_name="' in httpx.get(Loading.url + "/metrics").text
        with open(folder / "tokenizer.json", "wb") as pipe:
            pipe.write((tiny_model / "tokenizer.json").read_bytes())
        for line in process.stderr:
            if "ready" in line:
                break
        assert codes(Loading) == [200, 200, 200]
        assert httpx.post(Loading.url + "/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200
    finally:
        process.kill()
        process.wait()
