"""Every malformed request gets its 4xx with a message that names what is wrong, and the next request works."""

import json

import httpx
import pytest
from raw_http import exchange

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
TEXT = {"prompt": "hi", "max_tokens": 1}


def chat(**fields):
    return "/v1/chat/completions", {**CHAT, **fields}


def text(**fields):
    return "/v1/completions", {**TEXT, **fields}


def message(**fields):
    return "/v1/chat/completions", {"messages": [fields]}


# (request, param, part of the message)
FIELDS = [
    (("/v1/chat/completions", {}), "messages", "required"),
    (("/v1/chat/completions", {"prompt": "x"}), "messages", "required"),
    (("/v1/completions", {}), "prompt", "required"),
    (chat(messages="hi"), "messages", "array"),
    (chat(messages=[]), "messages", "at least one"),
    (chat(messages=[5]), "messages[0]", "object"),
    (chat(messages=[[]]), "messages[0]", "object"),
    (message(content="x"), "messages[0].role", "required"),
    (message(role=5, content="x"), "messages[0].role", "string"),
    (message(role="wizard", content="x"), "messages[0].role", "wizard"),
    (message(role="user"), "messages[0].content", "required"),
    (message(role="user", content=None), "messages[0].content", "required"),
    (message(role="user", content=5), "messages[0].content", "string"),
    (message(role="user", content={"type": "text"}), "messages[0].content", "array"),
    (message(role="user", content=["x"]), "messages[0].content[0]", "object"),
    (message(role="user", content=[{"text": "x"}]), "messages[0].content[0].type", "required"),
    (message(role="user", content=[{"type": "text"}]), "messages[0].content[0].text", "required"),
    (message(role="user", content=[{"type": "image_url", "image_url": {"url": "x"}}]), "messages[0].content[0].type", "image_url"),
    (message(role="user", content=[{"type": "input_audio"}]), "messages[0].content[0].type", "input_audio"),
    (chat(model=5), "model", "string"),
    (chat(temperature="hot"), "temperature", "number"),
    (chat(temperature=-1), "temperature", "between 0 and 2"),
    (chat(temperature=2.5), "temperature", "between 0 and 2"),
    (chat(top_p=0), "top_p", "greater than 0"),
    (chat(top_p=1.5), "top_p", "between 0 and 1"),
    (chat(min_p=-0.5), "min_p", "between 0 and 1"),
    (chat(top_k=-2), "top_k", "between -1"),
    (chat(top_k=1.5), "top_k", "integer"),
    (chat(repetition_penalty=0), "repetition_penalty", "greater than 0"),
    (chat(frequency_penalty=3), "frequency_penalty", "between -2 and 2"),
    (chat(presence_penalty=-3), "presence_penalty", "between -2 and 2"),
    (chat(n=0), "n", "between 1 and 128"),
    (chat(n=129), "n", "between 1 and 128"),
    (chat(n="2"), "n", "integer"),
    (chat(max_tokens=0), "max_tokens", "at least 1"),
    (chat(max_tokens=-5), "max_tokens", "between"),
    (chat(max_tokens=10**12), "max_tokens", "between"),
    (chat(max_tokens=8192), "messages", "context"),
    (chat(max_completion_tokens=0), "max_completion_tokens", "between 1"),
    (chat(min_tokens=2), "min_tokens", "max_tokens"),
    (chat(seed=1.5), "seed", "integer"),
    (chat(seed="x"), "seed", "integer"),
    (chat(stop=5), "stop", "string"),
    (chat(stop=[5]), "stop[0]", "string"),
    (chat(stop=[""]), "stop[0]", "empty"),
    (chat(stop=["x"] * 65), "stop", "at most"),
    (chat(stop_token_ids=["x"]), "stop_token_ids[0]", "token id"),
    (chat(stop_token_ids=[401]), "stop_token_ids", "401"),
    (chat(stream="yes"), "stream", "boolean"),
    (chat(stream_options={"include_usage": True}), "stream_options", "stream"),
    (chat(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage", "boolean"),
    (chat(stream=True, stream_options=[]), "stream_options", "object"),
    (chat(logprobs=1), "logprobs", "boolean"),
    (chat(top_logprobs=2), "top_logprobs", "logprobs"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs", "between 0 and 20"),
    (chat(prompt_logprobs=21), "prompt_logprobs", "between 0 and 20"),
    (chat(prompt_logprobs=1, stream=True), "prompt_logprobs", "stream"),
    (chat(logit_bias=[1]), "logit_bias", "object"),
    (chat(logit_bias={"x": 1}), "logit_bias", "token id"),
    (chat(logit_bias={"5": 200}), "logit_bias.5", "between -100 and 100"),
    (chat(logit_bias={"401": 1}), "logit_bias", "401"),
    (chat(tools=[{"type": "function"}]), "tools", "not supported"),
    (chat(functions=[{"name": "f"}]), "functions", "not supported"),
    (chat(tool_choice="auto"), "tool_choice", "none"),
    (chat(tool_choice={"type": "function"}), "tool_choice", "none"),
    (chat(response_format={"type": "json_object"}), "response_format", "json_object"),
    (chat(response_format={"type": "json_schema", "json_schema": {}}), "response_format", "json_schema"),
    (chat(response_format="text"), "response_format", "object"),
    (chat(modalities=["text", "audio"]), "modalities[1]", "text"),
    (chat(audio={"voice": "x"}), "audio", "not supported"),
    (chat(prediction={"type": "content"}), "prediction", "not supported"),
    (chat(web_search_options={}), "web_search_options", "not supported"),
    (chat(guided_json={"type": "object"}), "guided_json", "not supported"),
    (chat(chat_template="{{ 1 }}"), "chat_template", "--trust-request-chat-template"),
    (chat(chat_template="rag"), "chat_template", '"rag" is none of the model'),
    (chat(chat_template=""), "chat_template", "empty"),
    (chat(chat_template=["rag"]), "chat_template", "string"),
    (chat(chat_template="{{ 1 }}" * 40000), "chat_template", "at most 262144 bytes"),
    (chat(chat_template_kwargs=[1]), "chat_template_kwargs", "object"),
    (chat(documents={"x": 1}), "documents", "array"),
    (text(prompt=5), "prompt", "string"),
    (text(prompt=[]), "prompt", "empty"),
    (text(prompt=""), "prompt", "no tokens"),
    (text(prompt=[[]]), "prompt[0]", "at least one"),
    (text(prompt=["x", 5]), "prompt[1]", "string"),
    (text(prompt=[5, "x"]), "prompt[1]", "token id"),
    (text(prompt=[-1]), "prompt[0]", "token id"),
    (text(prompt=[401]), "prompt", "401"),
    (text(prompt=[1.5]), "prompt[0]", "token id"),
    (text(prompt=[5] * 8192), "prompt", "context"),
    (text(max_tokens=8192), "prompt", "context"),
    (text(logprobs=True), "logprobs", "integer"),
    (text(logprobs=21), "logprobs", "between 0 and 20"),
    (text(suffix="x"), "suffix", "not supported"),
    (text(best_of=3, stream=True), "best_of", "stream"),
    (text(n=3, best_of=2), "best_of", "less than n"),
    (text(echo="yes"), "echo", "boolean"),
    (text(use_beam_search=True), "use_beam_search", "not supported"),
]

POST = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

# (bytes on the wire, status, part of the answer)
RAW = [
    (b"nonsense\r\n\r\n", 400, b"HTTP"),
    (b"GET /health\r\n\r\n", 400, b"HTTP"),
    (b"GET /health HTTP/9.9\r\n\r\n", 400, b"HTTP"),
    (b"GET /health HTTP/1.1\r\nbad header\r\n\r\n", 400, b"HTTP"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, b"HTTP"),  # a TLS hello
    (b"GET /health HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\n\r\n", 431, b"header"),
    (b"GET /" + b"y" * 20000 + b" HTTP/1.1\r\n\r\n", 431, b"header"),
    (POST.encode() + b"Content-Length: 99999999999\r\n\r\n", 413, b"max-body-bytes"),
    (POST.encode() + b"Content-Length: 33554433\r\n\r\n" + b"x" * 100000, 413, b"max-body-bytes"),
    (POST.encode() + b"Content-Length: 99999999999999999999999\r\n\r\n", 400, b"HTTP"),
    (POST.encode() + b"Content-Length: -1\r\n\r\n", 400, b"HTTP"),
    (POST.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"HTTP"),
    (POST.encode() + b"Content-Length: 0\r\n\r\n", 400, b"JSON"),
    (POST.encode() + b"Content-Length: 1\r\n\r\n{", 400, b"JSON"),
    (POST.encode() + b"Content-Length: 2\r\n\r\n[]", 400, b"object"),
    (POST.encode() + b"Content-Length: 4\r\n\r\nnull", 400, b"object"),
    (POST.encode() + b'Content-Length: 14\r\n\r\n{"prompt":"\xff"}', 400, b"JSON"),
    (POST.encode() + b'Content-Length: 19\r\n\r\n{"prompt":"\\ud800"}', 400, b"JSON"),
    (POST.encode() + b'Content-Length: 15\r\n\r\n{"prompt":"x",}', 400, b"JSON"),
    (POST.encode() + b"Content-Length: 810\r\n\r\n" + b'{"prompt":' + b"[" * 400 + b"]" * 400, 400, b"JSON"),
    (POST.encode() + b"Content-Length: 17\r\n\r\n{\"prompt\": 1e999}", 400, b"JSON"),
    (b"GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", 405, b"Allow: POST"),
    (b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 405, b"Allow: GET"),
    (b"OPTIONS /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n", 405, b"Allow: POST"),
    (b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"/v1/nothing"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"chat/completions"),
    (b"GET /v1/models/%2e%2e%2fetc HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"model_not_found"),
    (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415, b"Content-Type"),
]


def check_alive(echo):
    answer = httpx.post(echo.url + "/v1/completions", json=TEXT)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("case", range(len(FIELDS)))
def test_field(echo, case):
    (path, body), param, part = FIELDS[case]
    answer = httpx.post(echo.url + path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert error["message"].startswith(param) and part in error["message"], error
    check_alive(echo)


@pytest.mark.parametrize("case", range(len(RAW)))
def test_wire(echo, case):
    data, status, part = RAW[case]
    answer = exchange(echo.port, data)
    header, _, body = answer.partition(b"\r\n\r\n")
    assert header.startswith(b"HTTP/1.1 %d " % status), answer
    assert part in answer, answer
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    check_alive(echo)


def test_harmless_fields_are_accepted(echo):
    harmless = dict(user="u", store=True, metadata={"a": "b"}, service_tier="auto", parallel_tool_calls=False, tools=[],
                    tool_choice="none", reasoning_effort="low", response_format={"type": "text"}, modalities=["text"],
                    logit_bias=None, stop=None, seed=None, audio=None, something_new=1)  # fmt: skip
    path, body = chat(**harmless)
    assert httpx.post(echo.url + path, json=body).status_code == 200


def test_many_requests_on_one_connection(echo):
    with httpx.Client() as client:
        for _ in range(5):
            assert client.post(echo.url + "/v1/completions", json=TEXT).status_code == 200
            assert client.post(echo.url + "/v1/completions", json={"prompt": 5}).status_code == 400


def test_pipelined_requests_are_answered_in_order(echo):
    body = json.dumps(TEXT).encode()
    post = POST.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = exchange(echo.port, post * 3 + last, half_close=False)
    assert answer.count(b"HTTP/1.1 200 OK") == 4 and answer.count(b'"text_completion"') == 3
    assert answer.index(b'"version"') > answer.rindex(b'"text_completion"')


def test_expect_100_continue(echo):
    body = json.dumps(TEXT).encode()
    with echo.connect() as connection:
        connection.sendall(POST.encode() + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_head_and_http_1_0(echo):
    assert httpx.head(echo.url + "/health").status_code == 200
    body = json.dumps({**TEXT, "stream": True}).encode()
    request = b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    answer = exchange(echo.port, request, half_close=False)
    assert b"chunked" not in answer and answer.endswith(b"data: [DONE]\n\n")
