"""Keys, origins, TLS, the Unix socket, slow and numerous clients."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time

import httpx
import pytest
from conftest import Server, binary, wait_until
from openai import AuthenticationError, OpenAI
from raw_http import read_all

SMALL = ("--backend", "echo", "--kv-gb", "0.05")
BODY = {"prompt": [5, 6], "max_tokens": 2}


def test_api_keys(tiny_model, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\nfrom-a-file\n\n")
    with Server(tiny_model, *SMALL, "--api-key", "one", "--api-key", "two", "--api-key-file", keys) as server:
        post = lambda **headers: httpx.post(server.url + "/v1/completions", json=BODY, headers=headers)  # noqa: E731
        for key in ("one", "two", "from-a-file"):
            assert post(authorization=f"Bearer {key}").status_code == 200
            assert post(authorization=f"bearer  {key}").status_code == 200
            assert post(**{"x-api-key": key}).status_code == 200
        for headers in ({}, {"authorization": "Bearer on"}, {"authorization": "Bearer onee"}, {"authorization": "Basic one"}, {"x-api-key": "# ours"}):
            refused = post(**headers)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["error"]["type"] == "authentication_error"
        for path in ("/v1/models", "/metrics", "/version", "/openapi.json", "/tokenizer_info", "/nothing", "/v1/health", "/health/x"):
            assert httpx.get(server.url + path).status_code == 401, path
        for path in ("/health", "/health/live", "/health/ready"):
            assert httpx.get(server.url + path).status_code == 200, path
        with pytest.raises(AuthenticationError):
            OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0).models.list()
        assert OpenAI(base_url=server.url + "/v1", api_key="two").models.list().data
        # Without a key the body is not even waited for.
        with server.connect() as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        assert not any("from-a-file" in line or "two" in line for line in server.log)
        server.check_end()


def test_api_key_from_the_environment(tiny_model):
    with Server(tiny_model, *SMALL, env={"FG_API_KEY": "secret"}) as server:
        assert httpx.get(server.url + "/v1/models").status_code == 401
        assert httpx.get(server.url + "/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
    with pytest.raises(RuntimeError, match="FG_API_KEY is set but empty"):  # a secret that was lost does not open the server
        Server(tiny_model, *SMALL, env={"FG_API_KEY": ""})


def test_cors(tiny_model):
    with Server(tiny_model, *SMALL, "--cors-origin", "https://app.example", "--api-key", "k") as server:
        ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
        answer = httpx.options(server.url + "/v1/chat/completions", headers=ask)  # browsers send no key with it
        assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "authorization" in answer.headers["access-control-allow-headers"]
        good = {"Origin": "https://app.example", "authorization": "Bearer k"}
        for stream in (False, True):
            answer = httpx.post(server.url + "/v1/completions", json={**BODY, "stream": stream}, headers=good)
            assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://app.example"
            assert answer.headers["vary"] == "Origin" and "x-request-id" in answer.headers["access-control-expose-headers"]
        assert httpx.post(server.url + "/v1/completions", json={}, headers=good).headers["access-control-allow-origin"]
        evil = {**ask, "Origin": "https://evil.example"}
        assert "access-control-allow-origin" not in httpx.options(server.url + "/v1/chat/completions", headers=evil).headers
        assert "access-control-allow-origin" not in httpx.get(server.url + "/health", headers=evil).headers
        server.check_end()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
               "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", cert]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_tls(tiny_model, certificate):
    cert, key = certificate
    with Server(tiny_model, *SMALL, "--tls-cert", cert, "--tls-key", key) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(verify=context, base_url=server.url) as client:
            for _ in range(3):
                assert client.post("/v1/completions", json=BODY).status_code == 200
            whole = client.post("/v1/completions", json={**BODY, "max_tokens": 300, "seed": 3, "ignore_eos": True}).json()["choices"][0]["text"]
            with client.stream("POST", "/v1/completions", json={**BODY, "max_tokens": 300, "seed": 3, "ignore_eos": True, "stream": True}) as answer:
                lines = [line for line in answer.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            assert "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1]) == whole
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            old.minimum_version = old.maximum_version = version
            with socket.create_connection(("127.0.0.1", server.port)) as connection, pytest.raises((ssl.SSLError, OSError)):
                old.wrap_socket(connection)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:  # not TLS at all
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in connection.recv(1000)
        client = OpenAI(base_url=server.url + "/v1", api_key="x", http_client=httpx.Client(verify=context))
        assert "".join(c.choices[0].text for c in client.completions.create(model="m", prompt="ab", max_tokens=30, stream=True, seed=1))
        assert server.process.poll() is None


def test_bad_tls_files_are_named(tiny_model, certificate, tmp_path):
    cert, key = certificate
    junk = tmp_path / "junk.pem"
    junk.write_text("nothing")
    for args, part in [(["--tls-cert", cert], "--tls-key"), (["--tls-key", key], "--tls-cert"), (["--tls-cert", junk, "--tls-key", key], str(junk)),
                       (["--tls-cert", cert, "--tls-key", tmp_path / "none"], "none")]:  # fmt: skip
        with pytest.raises(RuntimeError, match=part):
            Server(tiny_model, *SMALL, *args)


def test_unix_socket(tiny_model, tmp_path):
    path = tmp_path / "fastgen.sock"
    for _ in range(2):  # the second time it is there already
        with Server(tiny_model, *SMALL, "--unix-socket", path) as server:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x") as client:
                assert client.post("/v1/completions", json=BODY).status_code == 200
                text = client.post("/v1/completions", json={**BODY, "stream": True}).text
                assert text.endswith("data: [DONE]\n\n")
            server.kill()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(RuntimeError, match="no socket"):
        Server(tiny_model, *SMALL, "--unix-socket", file)
    assert file.read_text() == "precious"


def test_a_unix_socket_is_taken_from_nobody(long_model, tmp_path):
    path = tmp_path / "fastgen.sock"

    def ask():
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x") as client:
            return client.get("/health/live").status_code

    with Server(long_model, "--backend", "slow:20:echo", "--kv-gb", "0.1", "--unix-socket", path) as old:
        with pytest.raises(RuntimeError, match="another server listens there"):
            Server(long_model, *SMALL, "--unix-socket", path)
        assert ask() == 200
        with httpx.stream("POST", old.url + "/v1/completions", json={**BODY, "max_tokens": 100, "stream": True, "ignore_eos": True}) as stream:
            lines = stream.iter_lines()
            next(lines)
            old.process.send_signal(signal.SIGTERM)
            old.wait_for_line("stopping")
            wait_until(lambda: old.refuses_connections())
            with Server(long_model, *SMALL, "--unix-socket", path) as new:  # its successor need not wait until the old one has drained
                assert ask() == 200
                assert [line for line in lines if line][-1] == "data: [DONE]"
                assert old.process.wait(30) == 0
                assert ask() == 200  # and loses nothing when that ends
                new.check_end()
    assert not path.exists()


def test_connections_per_address(tiny_model):
    with Server(tiny_model, *SMALL, "--max-connections-per-address", "3") as server:
        held = [server.connect() for _ in range(3)]
        time.sleep(0.1)
        with server.connect() as refused:
            assert refused.recv(65536).startswith(b"HTTP/1.1 429 ")
        held.pop().close()
        wait_until(lambda: httpx.get(server.url + "/health").status_code == 200)
        for connection in held:
            connection.close()


def test_slow_requests_are_given_up(tiny_model):
    """A header that drips (slow loris), a body that stops, a connection without a word, one that is kept for nothing."""
    limits = ("--header-timeout-s", "1", "--read-timeout-s", "0.5", "--keep-alive-s", "0.7")
    with Server(tiny_model, *SMALL, *limits) as server:
        def until_end(request):
            """What is answered, and when the connection ends; unless told otherwise that takes ten seconds and more."""
            started = time.monotonic()
            with server.connect() as connection:
                connection.sendall(request)
                return read_all(connection), time.monotonic() - started

        started = time.monotonic()
        with server.connect() as connection:
            connection.sendall(b"GET /health HT")
            with pytest.raises(OSError):
                while time.monotonic() - started < 20:
                    connection.sendall(b"x")
                    time.sleep(0.1)
            assert 0.9 < time.monotonic() - started < 9
        data, seconds = until_end(b"GET /health HTTP/1.1\r\n")
        assert data.startswith(b"HTTP/1.1 408 ") and 0.5 < seconds < 9
        data, seconds = until_end(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert data.startswith(b"HTTP/1.1 408 ") and 0.3 < seconds < 9
        data, seconds = until_end(b"")
        assert data == b"" and 0.7 < seconds < 9
        data, seconds = until_end(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 OK" in data and 0.5 < seconds < 9
        server.check_end()


def test_idle_connections_are_light(tiny_model):
    with Server(tiny_model, *SMALL) as server:
        def fill():
            connections = [server.connect() for _ in range(1000)]
            for connection in connections:
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            for connection in connections:
                assert b"200 OK" in connection.recv(65536)
            return connections

        before = server.rss_bytes()
        connections = fill()
        added = server.rss_bytes() - before
        print(f"1,000 idle connections: {added / 1e6:.1f} MB")
        assert server.health()["connections"] >= 1000
        if "sanitize" not in str(__import__("os").environ.get("FG_BUILD", "")) and "address" not in str(__import__("os").environ.get("FG_BUILD", "")):
            assert added < 10e6
        for connection in connections:
            connection.close()
        server.check_end()


@pytest.mark.parametrize("reader", ["sleeps", "has gone"])
def test_a_log_that_nobody_reads_holds_nobody_up(tiny_model, reader, tmp_path):
    path = tmp_path / "log"
    os.mkfifo(path)
    with pytest.raises(RuntimeError, match="--log-requests.*FIFO"):  # rather than to wait for a reader
        Server(tiny_model, *SMALL, "--log-requests", path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as end, \
         Server(tiny_model, *SMALL, "--log-requests", path, "--log-contents", "--max-model-len", "8000") as server:
        if reader == "has gone":
            end.close()
        body = {"prompt": "x" * 5000, "max_tokens": 1}
        with httpx.Client(timeout=20) as client:
            for _ in range(60):  # 300 KB, where a pipe holds 64
                assert client.post(server.url + "/v1/completions", json=body).status_code == 200
            lost = lambda: int(re.search(r"request_log_lost_total\{.*\} (\d+)", client.get(server.url + "/metrics").text)[1])  # noqa: E731
            if reader == "has gone":
                wait_until(lambda: lost() == 60)
            else:
                assert lost() == 0  # they wait
                os.set_blocking(end.fileno(), True)
                for _ in range(60):
                    assert json.loads(end.readline())["status"] == 200
        server.check_end()


def test_a_gone_reader_of_the_messages_does_not_end_the_server(tiny_model, tmp_path):
    """`fgserve 2>&1 | head`: writing to a pipe without a reader is a signal that ends programs."""
    path = tmp_path / "socket"
    process = subprocess.Popen([binary(), tiny_model, *SMALL, "--port", "0", "--unix-socket", path, "--log-requests", "-", "--log-level", "debug"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        for pipe in (process.stdout, process.stderr):
            pipe.close()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://x") as client:
            def is_ready():
                try:
                    return client.get("/health/ready").status_code == 200
                except httpx.TransportError:
                    assert process.poll() is None
                    return False

            wait_until(is_ready)
            for _ in range(3):
                assert client.post("/v1/completions", json=BODY).status_code == 200
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_request_log(tiny_model, tmp_path):
    log = tmp_path / "requests.jsonl"
    with Server(tiny_model, *SMALL, "--log-requests", log) as server:
        httpx.post(server.url + "/v1/completions", json={**BODY, "prompt": "very private"}, headers={"x-request-id": "mine-1"})
        httpx.post(server.url + "/v1/completions", json={**BODY, "stream": True, "max_tokens": 5, "ignore_eos": True, "n": 2})
        httpx.post(server.url + "/v1/completions", json={"prompt": 5, "x": "\n\u2028"})
        server.check_end()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines] == [200, 200, 400]
    assert lines[0]["request_id"] == "mine-1" and lines[0]["client"] == "127.0.0.1" and lines[0]["id"].startswith("cmpl-")
    assert lines[1]["stream"] and lines[1]["completion_tokens"] == 10 and lines[1]["finish_reasons"] == ["length", "length"]
    assert 0 <= lines[1]["submit_ms"] <= lines[1]["begin_ms"] <= lines[1]["first_token_ms"] <= lines[1]["end_ms"]
    assert lines[2]["error"].startswith("prompt")
    assert "very private" not in log.read_text()
    with Server(tiny_model, *SMALL, "--log-requests", log, "--log-contents") as server:
        answer = httpx.post(server.url + "/v1/completions", json={**BODY, "prompt": "told", "stream": True}).text
        server.check_end()
    last = json.loads(log.read_text().splitlines()[-1])
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in answer.splitlines() if line.startswith("data: {")]
    assert json.loads(last["request"])["prompt"] == "told" and last["texts"] == ["".join(texts)]
