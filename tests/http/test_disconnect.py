"""Clients that go away at every point of a request's life leave nothing behind."""

import json
import os
import random
import re
import socket
import struct
import time

import httpx
import pytest
from conftest import Server
from raw_http import exchange

NUM_CYCLES = int(os.environ.get("FG_TEST_CYCLES", 10000))


def request_bytes(**fields):
    body = json.dumps({"prompt": [5, 6, 7], "max_tokens": 150000, "ignore_eos": True, **fields}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


STREAM, WHOLE = request_bytes(stream=True), request_bytes()
MANY = request_bytes(prompt=[[5], [6], [7]], n=2, stream=True)
SHORT = request_bytes(max_tokens=2)


@pytest.fixture(scope="module")
def echo(long_model):
    """Answers that would take seconds, so that a sequence left behind is seen."""
    with Server(long_model, "--backend", "echo", "--kv-gb", "0.1") as server:
        yield server
        server.check_end()


def cycle(port, kind, rng):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        if kind == "connect":
            return
        request = rng.choice([STREAM, WHOLE, MANY, SHORT])
        if kind == "part":
            connection.sendall(request[: rng.randrange(1, len(request))])
            return
        connection.sendall(request)
        if kind == "first bytes":
            connection.sendall(b"")
            if request is not WHOLE:
                connection.recv(rng.randrange(1, 500))
        if kind == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_cycles_leave_nothing_behind(echo):
    seed = int(os.environ.get("FG_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"FG_TEST_SEED={seed}")
    rng = random.Random(seed)
    httpx.post(echo.url + "/v1/completions", json={"prompt": "warm", "max_tokens": 1})
    before = echo.wait_idle()
    descriptors = echo.descriptors()
    kinds = ["connect", "part", "sent", "first bytes", "reset"]
    for i in range(NUM_CYCLES):
        cycle(echo.port, kinds[i % len(kinds)], rng)
    after = echo.wait_idle(30, max_connections=before["connections"])
    assert after["tickets_in_use"] == after["running"] == after["waiting"] == after["answers"] == 0, after
    assert after["connections"] <= before["connections"]
    assert after["free_blocks"] == after["blocks"] == before["blocks"], (before, after)
    assert echo.descriptors() <= descriptors + 1
    assert httpx.post(echo.url + "/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200


def wait_running(server, count):
    deadline = time.monotonic() + 10
    while server.health()["tickets_in_use"] != count:
        assert time.monotonic() < deadline, server.health()
        time.sleep(0.002)


def num_aborted(server):
    metrics = httpx.get(server.url + "/metrics").text
    return float(re.search(r'request_success_total\{.*finished_reason="abort".*\} (\S+)', metrics)[1])


def test_a_closed_client_frees_its_sequence(echo):
    echo.wait_idle()
    for request in (STREAM, WHOLE):
        before = num_aborted(echo)
        connection = socket.create_connection(("127.0.0.1", echo.port))
        connection.sendall(request)
        if request is STREAM:
            connection.recv(100)
        wait_running(echo, 1)
        connection.close()
        wait_running(echo, 0)
        echo.wait_idle()
        assert num_aborted(echo) == before + 1  # it did not come to its end


def test_half_close_still_gets_its_answer(echo):
    for fields in ({}, {"stream": True}):
        answer = exchange(echo.port, request_bytes(max_tokens=2000, **fields))
        assert b"HTTP/1.1 200 OK" in answer
        assert b'"finish_reason":"length"' in answer
        if fields:
            assert b"data: [DONE]" in answer
