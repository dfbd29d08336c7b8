"""Requests that mean harm: two readings of where one ends, header injection, path tricks, bad encodings, depth, numbers, floods.

Each gets the right 4xx, and a stream that runs beside all of them is not disturbed by one of them."""

import json
import threading

import echo_check
import httpx
import pytest
from conftest import TINY_CONFIG, Server
from raw_http import exchange

VOCAB = TINY_CONFIG["vocab_size"]
BODY = b'{"prompt":"x","max_tokens":1}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def post(headers, body=BODY):
    return HEAD + headers + b"\r\n" + body


def sized(body, extra=b""):
    return post(b"Content-Length: %d\r\n" % len(body) + extra, body)


def get(target, headers=b"Host: x\r\n"):
    return b"GET " + target + b" HTTP/1.1\r\n" + headers + b"\r\n"


SMUGGLED = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
N = b"%d" % len(BODY)

# (bytes, status, part of the answer)
CASES = {
    # where does the request end?
    "length and chunked": (post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED), 400, b"invalid_http"),
    "chunked and length": (post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n" + SMUGGLED), 400, b"invalid_http"),
    "two lengths": (post(b"Content-Length: 0\r\nContent-Length: " + N + b"\r\n"), 400, b"invalid_http"),
    "the same length twice": (post((b"Content-Length: " + N + b"\r\n") * 2), 400, b"invalid_http"),
    "a list of lengths": (post(b"Content-Length: " + N + b", " + N + b"\r\n"), 400, b"invalid_http"),
    "length with a sign": (post(b"Content-Length: +" + N + b"\r\n"), 400, b"invalid_http"),
    "length in hex": (post(b"Content-Length: 0x1d\r\n"), 400, b"invalid_http"),
    "length with a space within": (post(b"Content-Length: 2 9\r\n"), 400, b"invalid_http"),
    "empty length": (post(b"Content-Length: \r\n"), 400, b"invalid_http"),
    "length beyond 64 bits": (post(b"Content-Length: 18446744073709551645\r\n"), 400, b"invalid_http"),
    "space before the colon": (post(b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n", SMUGGLED), 400, b"invalid_http"),
    "unknown coding": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 501, b"chunked"),
    "identity": (post(b"Transfer-Encoding: identity\r\n"), 501, b"chunked"),
    "gzip and chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 501, b"chunked"),
    "chunked twice": (post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400, b"error"),
    "chunked in a tab": (post(b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"), 400, b"invalid_http"),
    "chunk size with a sign": (post(b"Transfer-Encoding: chunked\r\n", b"-1\r\n\r\n"), 400, b"invalid_http"),
    "chunk size of 17 digits": (post(b"Transfer-Encoding: chunked\r\n", b"FFFFFFFFFFFFFFFFF\r\n\r\n"), 400, b"invalid_http"),
    "chunk without its end": (post(b"Transfer-Encoding: chunked\r\n", b"1\r\naX0\r\n\r\n"), 400, b"invalid_http"),
    "a last chunk that goes on": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\nt\r\n\r\n"), 400, b"invalid_http"),
    "a length in the trailer": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED), 400, b"invalid_http"),
    "a coding in the trailer": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED), 400, b"invalid_http"),
    "a chunk whose CR stands alone": (post(b"Transfer-Encoding: chunked\r\n", b"1\ra\r\n0\r\n\r\n"), 400, b"invalid_http"),
    "a chunk longer than 64 bits less one": (post(b"Transfer-Encoding: chunked\r\n", b"FFFFFFFFFFFFFFFE\r\n"), 413, b"max-body-bytes"),
    "chunks in HTTP/1.0": (b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, b"error"),
    "a body that ends early": (post(b"Content-Length: 1000\r\n"), 400, b"ended before"),
    "a header that ends early": (HEAD, 400, b"ended before"),
    # whose host is it?
    "no host": (get(b"/health", b""), 400, b"Host"),
    "two hosts": (get(b"/health", b"Host: a\r\nHost: b\r\n"), 400, b"Host"),
    "host with a path": (get(b"/health", b"Host: a/b\r\n"), 400, b"Host"),
    "host with a user": (get(b"/health", b"Host: a@b\r\n"), 400, b"Host"),
    # lines
    "bare LF": (b"GET /health HTTP/1.1\nHost: x\n\n", 400, b"invalid_http"),
    "CR within a header": (get(b"/health", b"Host: x\r\nA: b\rc\r\n"), 400, b"invalid_http"),
    "NUL within a header": (get(b"/health", b"Host: x\r\nA: b\x00c\r\n"), 400, b"invalid_http"),
    "header without a name": (get(b"/health", b"Host: x\r\n: v\r\n"), 400, b"invalid_http"),
    "header name with a space": (get(b"/health", b"Host: x\r\nA B: v\r\n"), 400, b"invalid_http"),
    "method with a slash": (b"GE/T /health HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"invalid_http"),
    "method of another world": (b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", 405, b"Allow: GET"),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"no such path"),
    "TRACE": (b"TRACE /health HTTP/1.1\r\nHost: x\r\n\r\n", 405, b"Allow: GET"),
    "HTTP/2 by prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"invalid_http"),
    "HTTP/1.11": (b"GET /health HTTP/1.11\r\nHost: x\r\n\r\n", 400, b"invalid_http"),
    # paths
    "dots": (get(b"/v1/../health"), 404, b"path_not_found"),
    "encoded dots": (get(b"/v1/%2e%2e/health"), 404, b"path_not_found"),
    "double slash": (get(b"//health"), 404, b"path_not_found"),
    "encoded letter": (get(b"/%68ealth"), 404, b"path_not_found"),
    "trailing slash": (get(b"/health/"), 404, b"path_not_found"),
    "a path parameter": (get(b"/health;x=1"), 404, b"path_not_found"),
    "capital letters": (get(b"/Health"), 404, b"path_not_found"),
    "backslashes": (get(b"/\\..\\etc\\passwd"), 404, b"path_not_found"),
    "NUL, encoded": (get(b"/v1/models/%00"), 404, b"model_not_found"),
    "bad UTF-8, encoded": (get(b"/v1/models/%ff%fe"), 404, b"model_not_found"),
    "line breaks, encoded": (get(b"/v1/models/x%0d%0aSet-Cookie:%20a=b"), 404, b"model_not_found"),
    "bytes above 0x7F": (get(b"/\xc3\xa9"), 400, b"invalid_http"),
    # bodies
    "deep arrays": (sized(b'{"prompt":' + b"[" * 100000 + b"]" * 100000 + b"}"), 400, b"JSON"),
    "deep objects": (sized(b'{"prompt":"x","metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"), 400, b"JSON"),
    "unclosed arrays": (sized(b"[" * 1000000), 400, b"JSON"),
    "overlong UTF-8": (sized(b'{"prompt":"\xc0\xaf"}'), 400, b"JSON"),
    "a surrogate in UTF-8": (sized(b'{"prompt":"\xed\xa0\x80"}'), 400, b"JSON"),
    "cut UTF-8": (sized(b'{"prompt":"\xf0\x9f\x98"}'), 400, b"JSON"),
    "UTF-16": (sized('{"prompt":"x"}'.encode("utf-16")), 400, b"JSON"),
    "a raw line break in a string": (sized(b'{"prompt":"a\nb"}'), 400, b"JSON"),
    "NUL after the JSON": (sized(BODY + b"\x00"), 400, b"JSON"),
    "two documents": (sized(BODY + BODY), 400, b"JSON"),
    "NaN": (sized(b'{"prompt":"x","temperature":NaN}'), 400, b"JSON"),
    "a huge exponent": (sized(b'{"prompt":"x","temperature":1e99999}'), 400, b"JSON"),
    "400 digits": (sized(b'{"prompt":"x","max_tokens":' + b"9" * 400 + b"}"), 400, b"error"),
    "beyond 64 bits": (sized(b'{"prompt":"x","seed":18446744073709551616}'), 400, b"error"),
    "minus zero tokens": (sized(b'{"prompt":"x","max_tokens":-0}'), 400, b"max_tokens"),
    "a number for a string": (sized(b'{"prompt":"x","stop":[1e300]}'), 400, b"stop[0]"),
    "a control character in a role": (sized(b'{"messages":[{"role":"us\\u0000er","content":"x"}]}').replace(b"/v1/completions", b"/v1/chat/completions"), 400, b"messages[0].role"),
    "multipart": (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 5\r\n\r\n--b--", 415, b"Content-Type"),
    "a page's blob without a type": (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nContent-Length: " + N + b"\r\n\r\n" + BODY, 415, b"got none"),
    "a form": (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b", 415, b"Content-Type"),
    "text as the type": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain;charset=application/json\r\nContent-Length: 2\r\n\r\n{}", 415, b"Content-Type"),
    "gzip": (sized(BODY, b"Content-Encoding: gzip\r\n"), 415, b"Content-Encoding"),
    # floods
    "600 headers": (get(b"/health", b"Host: x\r\n" + b"".join(b"H%d: %s\r\n" % (i, b"v" * 40) for i in range(600))), 431, b"header"),
    "one long header": (get(b"/health", b"Host: x\r\nA: " + b"b" * 100000 + b"\r\n"), 431, b"header"),
    "a long target": (get(b"/health?" + b"a" * 100000), 431, b"header"),
    "a chunk's extension without end": (post(b"Transfer-Encoding: chunked\r\n", b"1;a=" + b"b" * 1000000), 431, b"chunk"),
    "a quoted extension without end": (post(b"Transfer-Encoding: chunked\r\n", b'1;a="\r\n' + b"b" * 1000000), 431, b"chunk"),
    "a chunk size of zeros without end": (post(b"Transfer-Encoding: chunked\r\n", b"0" * 1000000), 431, b"chunk"),
    "a trailer without end": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\n" + b"A: b\r\n" * 200000), 431, b"trailer"),
    "17 MB chunks of nothing": (post(b"Transfer-Encoding: chunked\r\n", (b"100000\r\n" + b" " * 0x100000 + b"\r\n") * 34), 413, b"max-body-bytes"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_model):
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.1") as running:
        yield running
        running.check_end()


@pytest.fixture(scope="module")
def bystander(server):
    """Streams one after the other beside all cases, each token checked; says how many were whole."""
    stop, whole, wrong = threading.Event(), [], []

    def run():
        prompt, count = [5, 6, 7], 400
        expected = echo_check.generate(prompt, count, VOCAB)
        body = {"prompt": prompt, "max_tokens": count, "stream": True, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
        while not stop.is_set():
            text = httpx.post(server.url + "/v1/completions", json=body, timeout=60).text
            chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
            ids = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
            (whole if ids == expected else wrong).append(len(ids))

    thread = threading.Thread(target=run)
    thread.start()
    yield whole
    stop.set()
    thread.join(60)
    assert whole and not wrong


@pytest.mark.parametrize("name", CASES)
def test_case(server, bystander, name):
    data, status, part = CASES[name]
    for piece_bytes in (None, 1) if len(data) < 500 else (None,):
        answer = exchange(server.port, data, piece_bytes=piece_bytes)
        header, _, body = answer.partition(b"\r\n\r\n")
        assert header.startswith(b"HTTP/1.1 %d " % status), (name, answer[:500])
        assert part in answer, (name, answer[:500])
        assert b"Set-Cookie" not in header and answer.count(b"HTTP/1.1 ") == 1, answer  # nothing smuggled was answered
        assert json.loads(body)["error"]["message"]
    assert httpx.get(server.url + "/health/live").status_code == 200


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"000\r\nA: b\r\nB: c\r\n\r\n", b'0;a="b"\r\n\r\n'])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_a_chunked_body_however_it_is_cut(server, bystander, size, end):
    """In chunks of `size` bytes, sent in pieces of 1, 2, 3 bytes and all at once; another request follows on the connection."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(BODY[i:i + size]), BODY[i:i + size]) for i in range(0, len(BODY), size))
    data = post(b"Transfer-Encoding: chunked\r\n", chunks + end) + get(b"/version", b"Host: x\r\nConnection: close\r\n")
    for piece_bytes in (1, 2, 3, None):
        answer = exchange(server.port, data, half_close=False, piece_bytes=piece_bytes)
        assert answer.count(b"HTTP/1.1 200 ") == 2 and b'"text_completion"' in answer and answer.endswith(b'"}'), (piece_bytes, answer)


def test_there_are_enough():
    import test_malformed

    assert len(CASES) + len(test_malformed.FIELDS) + len(test_malformed.RAW) >= 150


@pytest.mark.parametrize("given", ["a\tb", "x" * 129, "a b", "é", "<script>", "a;b"])
def test_a_request_id_that_is_none_is_replaced(server, given):
    answer = httpx.get(server.url + "/health", headers={"x-request-id": given.encode()})
    assert answer.headers["x-request-id"].startswith("req-") and len(answer.headers["x-request-id"]) == 36


def test_names_of_fields_cannot_forge_headers(server):
    body = {"prompt": "x", "max_tokens": 1, "a\r\nSet-Cookie: x=y": 1, "ok_name": 2, "\x00": 3}
    answer = httpx.post(server.url + "/v1/completions", json=body)
    assert answer.status_code == 200 and answer.headers["x-fastgen-ignored-params"] == "ok_name, +2"
    assert "set-cookie" not in answer.headers


def test_an_origin_cannot_forge_headers(tiny_model):
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.05", "--cors-origin", "*") as server:
        answer = exchange(server.port, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: https://a\x01b\r\n\r\n")
        assert b"400" in answer.split(b"\r\n")[0] or b"\x01" not in answer
