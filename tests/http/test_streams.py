"""200 streams at once on echo; the client recomputes every token with the published function."""

import asyncio
import json
import os
import random
import re
import socket

import echo_check
import httpx
from conftest import TINY_CONFIG, Server, wait_until
from raw_http import read_all

VOCAB = TINY_CONFIG["vocab_size"]
NUM_STREAMS = int(os.environ.get("FG_TEST_STREAMS", 200))
STALL_S = 60


async def one_stream(port, body):
    """The token ids of each choice and the finish reasons, read from raw bytes."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    header = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), STALL_S)
    assert header.startswith(b"HTTP/1.1 200 "), header
    payload = b""
    while True:
        size = int(await asyncio.wait_for(reader.readuntil(b"\r\n"), STALL_S), 16)
        payload += (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            break
    assert await reader.read() == b""
    writer.close()
    frames = payload.decode().split("\n\n")
    assert frames.pop() == "" and frames.pop() == "data: [DONE]"
    ids, reasons, usage = {}, {}, None
    for frame in frames:
        chunk = json.loads(frame.removeprefix("data: "))
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            assert choice["index"] not in reasons, "a choice went on after its end"
            ids.setdefault(choice["index"], []).extend(choice["token_ids"])
            if choice["finish_reason"]:
                reasons[choice["index"]] = choice["finish_reason"]
    return ids, reasons, usage


def random_body(rng):
    prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(1, 300))] for _ in range(rng.choice([1, 1, 1, 2]))]
    return {
        "prompt": prompts,
        "max_tokens": rng.randint(1, 120),
        "n": rng.choice([1, 1, 1, 2, 3]),
        "temperature": rng.choice([0, 1]),
        "seed": rng.randrange(1 << 32),
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "return_token_ids": True,
    }


def check(body, ids, reasons, usage):
    total = 0
    for p, prompt in enumerate(body["prompt"]):
        for c in range(body["n"]):
            index = p * body["n"] + c
            expected = echo_check.generate(prompt, body["max_tokens"], VOCAB, body["temperature"], body["seed"], c)
            assert ids[index] == expected, (p, c)
            assert reasons[index] == "length"
            total += len(expected)
    assert usage["completion_tokens"] == total
    assert usage["prompt_tokens"] == sum(map(len, body["prompt"]))


def test_concurrent_streams(echo):
    seed = int(os.environ.get("FG_TEST_SEED") or random.SystemRandom().getrandbits(32))
    print(f"FG_TEST_SEED={seed}")
    rng = random.Random(seed)
    rss = []
    for _ in range(2):
        bodies = [random_body(rng) for _ in range(NUM_STREAMS)]

        async def run_all():
            return await asyncio.gather(*(one_stream(echo.port, body) for body in bodies))

        for body, answer in zip(bodies, asyncio.run(run_all())):
            check(body, *answer)
        health = echo.wait_idle()
        assert health["tickets_in_use"] == health["running"] == health["waiting"] == 0, health
        rss.append(echo.rss_bytes())
    assert rss[1] - rss[0] < 64 << 20, rss  # the second round lives in the first one's memory


def test_slow_reader_is_cancelled(tiny_model):
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.1", "--max-stream-bytes", "20000") as server:
        body = {"prompt": [[5, 6]] * 40, "n": 20, "max_tokens": 4000, "stream": True, "ignore_eos": True,
                "logprobs": 20, "return_token_ids": True}  # fmt: skip
        data = json.dumps(body).encode()
        with server.connect() as connection:
            connection.setsockopt(__import__("socket").SOL_SOCKET, __import__("socket").SO_RCVBUF, 4096)
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            health = server.wait_idle(60)  # nothing is read
            assert health["tickets_in_use"] == 0 and health["running"] == 0, health


def test_a_slow_reader_gets_everything_in_fewer_events(tiny_model):
    """Its socket is full for a while: what comes then is gathered, and nobody else waits."""
    count = 8000
    body = {"prompt": [5, 6], "max_tokens": count, "stream": True, "ignore_eos": True, "temperature": 0}
    data = json.dumps(body).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.1") as server:
        with server.connect() as quick:
            quick.sendall(request)
            expected = read_text(quick)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.settimeout(60)
            slow.connect(("127.0.0.1", server.port))
            slow.sendall(request)
            # Nothing is read until all is generated.
            wait_until(lambda: (health := server.health())["answers"] and not health["tickets_in_use"], 120)
            assert httpx.post(server.url + "/v1/completions", json={"prompt": "x", "max_tokens": 3}).status_code == 200
            got = read_text(slow)
        assert got[0] == expected[0] and got[1] < expected[1] / 2, (got[1], expected[1])
        merged = re.search(r"sse_merged_tokens_total\{[^}]*\} (\d+)", httpx.get(server.url + "/metrics").text)
        assert int(merged[1]) > count / 2
        server.check_end()


def read_text(connection):
    """The joined text of a streamed completion, and how many events it took."""
    header, _, chunked = read_all(connection).partition(b"\r\n\r\n")
    assert b" 200 OK" in header
    payload = b""
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        payload, chunked = payload + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    frames = payload.decode().split("\n\n")
    assert frames.pop() == "" and frames.pop() == "data: [DONE]"
    return "".join(json.loads(frame[6:])["choices"][0]["text"] for frame in frames), len(frames)
