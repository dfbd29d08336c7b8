"""fgbench serve against fgserve on the echo backend, and against servers that misbehave."""

import contextlib
import json
import re
import socket
import subprocess
import threading

import pytest


@contextlib.contextmanager
def fgserve(programs, *arguments):
    process = subprocess.Popen([programs / "fgserve", *map(str, arguments), "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        url = None
        for line in process.stderr:
            if found := re.search(r"ready\s+(http://\S+)/v1", line):
                url = found[1]
                break
        assert url, "fgserve did not start"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def echo(programs, tiny):
    with fgserve(programs, tiny, "--backend", "echo", "--kv-gb", "0.2", "--max-queue", "4096") as url:
        yield url


def serve(programs, url, path, *arguments):
    where = [] if "--url" in arguments else ["--url", url]
    return subprocess.run([programs / "bench" / "fgbench", "serve", *where, "--json", path, *map(str, arguments)],
                          capture_output=True, text=True, timeout=180)


def test_figures_of_a_closed_loop(programs, echo, tmp_path):
    path = tmp_path / "out.json"
    run = serve(programs, echo, path, "--num-prompts", 60, "--input-len", 20, "--output-len", 12, "--vocab", 256, "--max-concurrency", "4,16",
                "--warmup", 5, "--goodput", "ttft:100000", "tpot:100000", "--percentiles", "50,99", "--label", "test")
    assert run.returncode == 0, run.stderr
    record = json.loads(path.read_text())
    assert record["benchmark"] == "serve" and record["label"] == "test" and record["commit"]
    assert [r["max_concurrency"] for r in record["runs"]] == [4, 16]
    for r in record["runs"]:
        assert (r["completed"], r["failed"]) == (60, 0)
        assert (r["total_input_tokens"], r["total_output_tokens"]) == (60 * 20, 60 * 12)
        assert r["output_throughput"] == pytest.approx(60 * 12 / r["duration"])
        assert r["request_goodput"] == pytest.approx(r["request_throughput"])
        for name in ("ttft", "tpot", "itl", "e2el"):
            assert 0 <= r[f"p50_{name}_ms"] == pytest.approx(r[f"median_{name}_ms"])
            assert r[f"median_{name}_ms"] <= r[f"p99_{name}_ms"]
        assert r["mean_ttft_ms"] <= r["mean_e2el_ms"] <= 1e3 * r["duration"]
    assert "Successful requests" in run.stdout and "Time to first token (ttft)" in run.stdout


def test_a_unix_socket_serves_as_tcp_does(programs, tiny, tmp_path):
    path, out = tmp_path / "socket", tmp_path / "out.json"
    with fgserve(programs, tiny, "--backend", "echo", "--kv-gb", "0.1", "--unix-socket", path):
        run = serve(programs, f"unix:{path}", out, "--num-prompts", 20, "--input-len", 5, "--output-len", 9, "--vocab", 256, "--max-concurrency", 4)
    assert run.returncode == 0, run.stderr
    (record,) = json.loads(out.read_text())["runs"]
    assert (record["completed"], record["total_output_tokens"]) == (20, 180)
    assert str(path) in serve(programs, f"unix:{path}.none", out).stderr
    for wrong in ("unix:", "unix:/" + "long" * 30, "ftp://x"):
        assert f"--url {wrong}" in serve(programs, wrong, out).stderr


def test_chats_with_a_tokenizer_and_poisson_arrivals(programs, echo, tiny, tmp_path):
    path = tmp_path / "out.json"
    run = serve(programs, echo, path, "--endpoint", "chat", "--dataset", "random", "--tokenizer", tiny, "--num-prompts", 40, "--input-len", 30,
                "--output-len", 6, "--request-rate", 100, "--burstiness", 0.5)
    assert run.returncode == 0, run.stderr
    (r,) = json.loads(path.read_text())["runs"]
    assert r["completed"] == 40 and r["request_rate"] == 100
    assert 0.25 < r["duration"] < 20  # forty arrivals take 0.4 s
    run = serve(programs, echo, path, "--endpoint", "chat", "--dataset", "chats", "--num-prompts", 10, "--extra-json", '"top_p":0.5,"seed":4')
    assert run.returncode == 0, run.stderr
    (r,) = json.loads(path.read_text())["runs"]
    # With a byte a token, the longest chats do not fit in the tiny model's context; those are counted and named.
    assert r["completed"] + r["failed"] == 10 and r["completed"] >= 5 and r["total_output_tokens"] > 40
    assert ("context_length_exceeded" in run.stdout) == (r["failed"] > 0)
    run = serve(programs, echo, path, "--num-prompts", 1, "--vocab", 256, "--extra-json", '"top_p":7')
    assert run.returncode == 1 and "HTTP 400" in run.stderr and "top_p" in run.stderr


def test_a_limit_on_concurrency_is_kept(programs, tmp_path):
    seen = {"open": 0, "most": 0}
    lock = threading.Lock()

    def answer(connection):
        with connection:
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    buffer += piece
                head, _, rest = buffer.partition(b"\r\n\r\n")
                length = int(re.search(rb"Content-Length: (\d+)", head)[1])
                while len(rest) < length:
                    rest += connection.recv(65536)
                buffer = rest[length:]
                with lock:
                    seen["open"] += 1
                    seen["most"] = max(seen["most"], seen["open"])
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                threading.Event().wait(0.1)
                for event in (b'{"choices":[{"index":0,"text":"a","finish_reason":null}]}', b'{"choices":[{"index":0,"text":"b","finish_reason":"length"}]}',
                              b'{"choices":[{"index":0,"text":"","finish_reason":"length"}]}', b"[DONE]"):
                    data = b"data: " + event + b"\n\n"
                    connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
                with lock:
                    seen["open"] -= 1
                connection.sendall(b"0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()
        url, path = f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path / "out.json"
        run = serve(programs, url, path, "--model", "m", "--num-prompts", 30, "--max-concurrency", 5, "--vocab", 9, "--input-len", 3)
    assert run.returncode == 0, run.stderr
    (r,) = json.loads(path.read_text())["runs"]
    assert seen["most"] == 5
    # No usage: the chunks that carry text are counted, the last one only ends the choice.
    assert (r["completed"], r["total_output_tokens"]) == (30, 60)
    assert r["mean_ttft_ms"] >= 90


def answering(data, close=True):
    """A server that gives every request the same bytes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def work():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(data)
                if close:
                    connection.close()

    threading.Thread(target=work, daemon=True).start()
    return listener


@pytest.mark.parametrize("data, says", [
    (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nbusy", "HTTP 429: busy"),
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"text\":\"a\"}]}\n\n", "without [DONE]"),
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"error\":{\"message\":\"broken\"}}\n\ndata: [DONE]\n\n", "broken"),
    (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\ndata: x", "middle of an answer"),
    (b"nonsense\r\n", "status line"),
])
def test_failures_are_named(programs, tmp_path, data, says):
    with answering(data) as listener:
        run = serve(programs, f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path / "out.json", "--model", "m", "--num-prompts", 3, "--vocab", 9)
    assert run.returncode == 1 and "every request failed" in run.stderr and says in run.stderr


def test_a_server_that_says_nothing_times_out(programs, tmp_path):
    with answering(b"", close=False) as listener:
        run = serve(programs, f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path / "out.json", "--model", "m", "--num-prompts", 1,
                    "--vocab", 9, "--timeout-s", 0.3)
    assert run.returncode == 1 and "--timeout-s" in run.stderr


@pytest.mark.parametrize("arguments, names", [
    (["--url", "https://x"], "--url https://x"),
    (["--url", "http://127.0.0.1:1"], "--url: 127.0.0.1:1"),
    (["--goodput", "speed:3"], "--goodput speed:3"),
    (["--dataset", "jsonl"], "--dataset-path"),
    (["--dataset", "jsonl", "--dataset-path", "/nowhere"], "--dataset-path /nowhere"),
    (["--extra-json", "{}"], "--extra-json"),
    (["--endpoint", "chat", "--model", "m"], "--endpoint chat"),
])
def test_what_cannot_be_is_refused_by_name(programs, echo, tmp_path, arguments, names):
    run = serve(programs, echo, tmp_path / "out.json", *arguments)
    assert run.returncode == 1
    assert names in run.stderr and run.stderr.count("\n") == 1


def test_many_streams_at_once(programs, tiny, tmp_path):
    """A thousand connections open together; scripts/load-test goes to five thousand."""
    with fgserve(programs, tiny, "--backend", "slow:20:echo", "--kv-gb", "0.5", "--max-queue", "2048", "--max-batch", "1024") as url:
        run = serve(programs, url, tmp_path / "out.json", "--num-prompts", 1000, "--input-len", 4, "--output-len", 20, "--vocab", 256)
    assert run.returncode == 0, run.stderr
    (r,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert (r["completed"], r["total_output_tokens"]) == (1000, 20000)
    assert r["max_concurrent_requests"] == 1000
