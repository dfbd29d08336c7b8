"""Start, signals, ports, flags."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest
from conftest import Server, binary, wait_until

SMALL = ("--backend", "echo", "--kv-gb", "0.1")
SLOW = ("--backend", "slow:10:echo", "--kv-gb", "0.1")  # a hundred tokens a second, whatever the build


class Stream:
    """A streaming completion, read as fast as it comes by a thread of its own."""

    def __init__(self, server, **fields):
        body = json.dumps({"prompt": [5, 6], "stream": True, "ignore_eos": True, **fields}).encode()
        self.connection = server.connect()
        self.connection.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.data = self.connection.recv(65536)
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        pieces = []
        try:
            while piece := self.connection.recv(1 << 20):
                pieces.append(piece)
        except OSError:
            pass
        self.data += b"".join(pieces)
        self.connection.close()

    def lines(self):
        self.thread.join(60)
        return [line for line in self.data.decode().splitlines() if line]


def test_sigterm_drains(long_model):
    with Server(long_model, *SLOW, "--drain-s", "200") as server:
        idle = server.connect()
        stream = Stream(server, max_tokens=300)
        server.process.send_signal(signal.SIGTERM)
        wait_until(server.refuses_connections)
        assert server.process.poll() is None
        lines = stream.lines()
        assert lines[-1] == "data: [DONE]" and '"finish_reason":"length"' in lines[-2]
        assert server.process.wait(20) == 0
        assert idle.recv(10) == b""
        idle.close()


def test_sigint_when_idle_is_quick(tiny_model):
    with Server(tiny_model, *SMALL) as server:
        started = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - started < 8  # an engine that hangs is left after ten seconds, running answers after thirty


def test_drain_time_is_bounded_and_the_stream_ends_with_an_error(long_model):
    with Server(long_model, *SLOW, "--drain-s", "0.1") as server:
        stream = Stream(server, max_tokens=3000)
        assert server.stop() == 0
        lines = stream.lines()
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"


def test_a_failing_device_ends_streams_health_and_the_process(long_model):
    with Server(long_model, "--backend", "fail-after:30:echo", "--kv-gb", "0.1") as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/health").status_code == 200
        streams = [Stream(server, max_tokens=1000) for _ in range(4)]
        wait_until(lambda: client.get("/health").status_code == 503)  # a second long, then the port closes
        assert client.post("/v1/completions", json={"prompt": [5], "max_tokens": 2}).status_code == 500
        for stream in streams:
            lines = stream.lines()
            error = json.loads(lines[-1 if "error" in lines[-1] else -2].removeprefix("data: "))["error"]
            assert error["code"] == "engine_failed", lines
        assert server.process.wait(30) == 1
        server.reader.join(5)
        assert any("the device fell off the bus in step 31" in line for line in server.log)
        assert not any("does not stop" in line for line in server.log)


def test_verbose_says_where_the_start_went(tiny_model):
    with Server(tiny_model, *SMALL, "--verbose") as server:
        assert any(re.search(r"where the .* s of the start went: config .* device .* weights .* arena", line) for line in server.log)


def test_second_signal_exits_at_once(long_model):
    with Server(long_model, *SLOW) as server:
        stream = Stream(server, max_tokens=3000)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("stopping")
        assert server.process.poll() is None
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 128 + signal.SIGTERM
        assert time.monotonic() - started < 10  # the stream would go on for half a minute
        stream.lines()


def test_port_in_use_is_named(tiny_model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run([str(binary()), str(tiny_model), *SMALL, "--port", str(port)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert f"127.0.0.1:{port}" in run.stderr and "in use" in run.stderr


@pytest.mark.parametrize(
    "args, part",
    [
        (["/nonexistent/model"], "nonexistent"),
        (["--backend", "abacus"], "abacus"),
        (["--gpu-gb", "1"], "--gpu-gb needs a GPU"),
        (["--gpu-fraction", "0.5"], "--gpu-fraction needs a GPU"),
        (["--tune-s", "5"], "--tune-s needs a GPU"),
        (["--graphs", "300"], "--graphs"),
        (["--dtype", "int3"], "dtype"),
        (["--port", "99999"], "port"),
        (["--block-size", "0"], "block-size"),
        (["--log-level", "loud"], "log-level"),
        (["--nonsense"], "nonsense"),
        (["--chat-template", "/nonexistent.jinja"], "--chat-template"),
        (["--cors-origin", "http://localhost:3000/"], "--cors-origin http://localhost:3000/"),
        (["--cors-origin", "http://a.example, http://b.example"], "--cors-origin"),
        (["--cors-origin", "localhost"], "--cors-origin"),
    ],
)
def test_bad_flags_are_named(tiny_model, args, part):
    model = [] if args[0].startswith("/") else [str(tiny_model)]
    run = subprocess.run([str(binary()), *model, "--port", "0", *args], capture_output=True, text=True, timeout=60)
    assert run.returncode != 0 and part in run.stderr, run.stderr


def test_flags_by_environment_and_file(tiny_model, tmp_path):
    config = tmp_path / "fgserve.toml"
    config.write_text('backend = "echo"\nkv-gb = 0.05\nserved-model-name = ["from-file"]\nmax-batch = 7\n')
    with Server(tiny_model, "--config", config, env={"FG_MAX_QUEUE": "9", "FG_MAX_BATCH": "8"}) as server:
        assert httpx.get(server.url + "/v1/models").json()["data"][0]["id"] == "from-file"
        assert any("batch 7, queue 9" in line for line in server.log)


def test_help_is_grouped():
    text = subprocess.run([str(binary()), "--help"], capture_output=True, text=True, timeout=60).stdout
    for part in ("Model:", "Server:", "Engine:", "--kv-gb", "FG_MAX_BATCH", "curl", "--drain-s"):
        assert part in text


def test_first_token_within_two_seconds_of_start(smollm2):
    """Not a benchmark: a generous bound that a start gone wrong breaks (the figure is fgbench's affair)."""
    started = time.monotonic()
    with Server(smollm2, "--kv-gb", "0.5") as server:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        assert httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60).status_code == 200
        print(f"start to first token: {time.monotonic() - started:.2f} s")
        assert time.monotonic() - started < 20


def test_several_io_threads(tiny_model):
    with Server(tiny_model, *SMALL, "--io-threads", "3") as server:
        streams = [Stream(server, max_tokens=200) for _ in range(12)]
        assert all(stream.lines()[-1] == "data: [DONE]" for stream in streams)
        assert len(os.listdir(f"/proc/{server.pid}/task")) >= 5
