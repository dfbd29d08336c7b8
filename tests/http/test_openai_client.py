"""The official client against fgserve: shapes and exceptions on a tiny model, real text on SmolLM2."""

import httpx
import openai
import pytest
from conftest import Server
from openai import OpenAI

USER = [{"role": "user", "content": "What is the capital of France?"}]


def client_of(server, **options):
    return OpenAI(base_url=server.url + "/v1", api_key="foo", max_retries=0, timeout=120, **options)


@pytest.fixture(scope="module")
def echo_client(echo):
    return client_of(echo)


@pytest.fixture(scope="module")
def real(smollm2_server):
    return client_of(smollm2_server)


# ---- shapes, on echo


def test_chat(echo_client):
    answer = echo_client.chat.completions.create(model="gpt-4o-mini", messages=USER, max_tokens=8, temperature=0)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == "tiny-model"  # the served name, whatever was asked for
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_stream_equals_whole(echo_client):
    options = dict(model="m", messages=USER, max_tokens=40, seed=3, temperature=1)
    whole = echo_client.chat.completions.create(**options)
    chunks = list(echo_client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 40
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1


def test_no_usage_unless_asked(echo_client):
    chunks = list(echo_client.chat.completions.create(model="m", messages=USER, max_tokens=3, stream=True))
    assert all(c.usage is None and c.choices for c in chunks)


def test_n_streams_apart(echo_client):
    options = dict(model="m", messages=USER, max_tokens=20, seed=5, temperature=1, n=3)
    whole = echo_client.chat.completions.create(**options)
    texts = ["", "", ""]
    for chunk in echo_client.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [c.message.content for c in whole.choices]
    assert len(set(texts)) == 3
    assert whole.usage.completion_tokens == 60


def test_seed(echo_client):
    def text(**options):
        answer = echo_client.chat.completions.create(model="m", messages=USER, max_tokens=20, temperature=1, **options)
        return answer.choices[0].message.content

    assert text(seed=1) == text(seed=1) != text(seed=2)
    assert text() != text()


def test_server_seed_makes_unseeded_requests_repeatable(tiny_model):
    def texts(seed):
        with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.05", "--seed", seed) as server:
            client = client_of(server)
            return [client.completions.create(model="m", prompt="a", max_tokens=8).choices[0].text for _ in range(3)]

    first = texts(7)
    assert first == texts(7) and len(set(first)) == 3


def test_chat_logprobs(echo_client):
    options = dict(model="m", messages=USER, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3)
    answer = echo_client.chat.completions.create(**options)
    content = answer.choices[0].logprobs.content
    assert len(content) == 12
    assert bytes(b for t in content for b in t.bytes).decode("utf-8", "replace") == answer.choices[0].message.content
    for token in content:
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token
        assert token.logprob == token.top_logprobs[0].logprob <= 0
    streamed = [
        t
        for chunk in echo_client.chat.completions.create(**options, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for t in choice.logprobs.content
    ]
    assert streamed == content


def test_completion_forms(echo_client):
    def create(**options):
        return echo_client.completions.create(model="m", max_tokens=6, temperature=0, **options)

    assert create(prompt="ab").object == "text_completion"
    both = create(prompt=["ab", "cd"])
    assert [c.index for c in both.choices] == [0, 1]
    assert both.choices[0].text == create(prompt="ab").choices[0].text
    assert create(prompt=[[5, 6], [7]]).choices[1].text == create(prompt=[7]).choices[0].text
    assert create(prompt="ab", n=2).usage.completion_tokens == 12


def test_completion_default_is_16_tokens(echo_client):
    assert echo_client.completions.create(model="m", prompt="x").usage.completion_tokens == 16


def test_completion_echo_and_logprobs(echo_client):
    answer = echo_client.completions.create(model="m", prompt="Hello there", max_tokens=4, temperature=0, echo=True, logprobs=2)
    choice = answer.choices[0]
    logprobs = choice.logprobs
    count = answer.usage.prompt_tokens + 4
    assert choice.text.startswith("Hello there")
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == count
    assert logprobs.token_logprobs[0] is None and all(p <= 0 for p in logprobs.token_logprobs[1:])
    assert logprobs.text_offset[0] == 0
    for token, offset in zip(logprobs.tokens, logprobs.text_offset):
        if "\ufffd" in choice.text[: offset + 1]:
            break  # echo's answers are seldom text; offsets count characters of text
        if not token.startswith("bytes:"):
            assert choice.text[offset:].startswith(token)
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs[1:])
    alone = echo_client.completions.create(model="m", prompt="Hello there", max_tokens=0, echo=True, logprobs=2)
    assert alone.choices[0].text == "Hello there"
    assert alone.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[: answer.usage.prompt_tokens]


def test_echo_streams_the_prompt_first(echo_client):
    chunks = list(echo_client.completions.create(model="m", prompt="Hello", max_tokens=3, temperature=0, echo=True, stream=True))
    assert chunks[0].choices[0].text == "Hello"


def test_prompt_logprobs(echo):
    body = {"prompt": [5, 6, 7], "max_tokens": 1, "prompt_logprobs": 2}
    choice = httpx.post(echo.url + "/v1/completions", json=body).json()["choices"][0]
    assert choice["prompt_logprobs"][0] is None and len(choice["prompt_logprobs"]) == 3
    assert choice["prompt_logprobs"][1]["6"]["logprob"] <= 0


def test_stop_string(echo_client):
    options = dict(model="m", prompt="stop test", max_tokens=60, temperature=0)
    full = echo_client.completions.create(**options).choices[0].text
    stop = full[20:23]
    expected = full[: full.index(stop)]
    answer = echo_client.completions.create(**options, stop=[stop])
    assert answer.choices[0].text == expected and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 60
    streamed = echo_client.completions.create(**options, stop=stop, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == expected
    kept = echo_client.completions.create(**options, stop=[stop], extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].text == expected + stop


def test_stop_token_ids_and_bias(echo):
    def create(**options):
        body = {"prompt": [5, 6, 7], "max_tokens": 10, "temperature": 0, "return_token_ids": True, **options}
        return httpx.post(echo.url + "/completions", json=body).json()["choices"][0]

    ids = create()["token_ids"]
    assert len(ids) == 10
    stopped = create(stop_token_ids=[ids[4]])
    first = ids.index(ids[4])
    assert stopped["token_ids"] == ids[: first + 1] and stopped["finish_reason"] == "stop"
    assert create(logit_bias={str(ids[0]): -100})["token_ids"][0] != ids[0]


def test_models_and_names(echo):
    client = client_of(echo)
    assert [m.id for m in client.models.list()] == ["tiny-model"]
    assert client.models.retrieve("tiny-model").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")
    for path in ("/models", "/v1/models", "/health", "/v1/health", "/version", "/v1/version", "/models/tiny-model"):
        assert httpx.get(echo.url + path).status_code == 200, path
    without_v1 = OpenAI(base_url=echo.url, api_key="foo")
    assert without_v1.chat.completions.create(model="m", messages=USER, max_tokens=2).choices


def test_strict_model(tiny_model):
    args = ["--backend", "echo", "--kv-gb", "0.05", "--strict-model", "--served-model-name", "org/a", "--served-model-name", "b"]
    with Server(tiny_model, *args) as server:
        client = client_of(server)
        assert client.completions.create(model="b", prompt="x", max_tokens=1).model == "org/a"
        assert client.models.retrieve("org/a").id == "org/a"
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(model="c", prompt="x")
        assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_exception_classes(echo_client):
    with pytest.raises(openai.BadRequestError) as caught:
        echo_client.chat.completions.create(model="m", messages=USER, temperature=5)
    assert caught.value.param == "temperature" and "temperature" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        echo_client.completions.create(model="m", prompt="x", max_tokens=100000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        echo_client.completions.create(model="m", prompt=[300] * 8192)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        echo_client.chat.completions.create(model="m", messages=USER, tools=[{"type": "function", "function": {"name": "f"}}])
    assert caught.value.param == "tools"
    with pytest.raises(openai.NotFoundError):
        echo_client.embeddings.create(model="m", input="x")


def test_answer_may_fill_the_context(tiny_model):
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.05", "--max-model-len", "256") as server:
        answer = client_of(server).chat.completions.create(model="m", messages=USER, temperature=0)
        assert answer.usage.total_tokens == 256 and answer.choices[0].finish_reason == "length"


def test_no_ticket_is_a_rate_limit(tiny_model):
    with Server(tiny_model, "--backend", "slow:10:echo", "--kv-gb", "0.05", "--max-queue", "1") as server:
        client = client_of(server)
        body = {"model": "m", "prompt": "x", "max_tokens": 8000, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(model="m", prompt="y", max_tokens=1)
            assert int(caught.value.response.headers["retry-after"]) >= 1
        server.wait_idle()
        assert client.completions.create(model="m", prompt="y", max_tokens=1).choices


def test_chat_without_a_template_names_the_flag(tiny_model, tmp_path):
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((tiny_model / file).read_bytes())
    with Server(tmp_path, "--backend", "echo", "--kv-gb", "0.05") as server:
        with pytest.raises(openai.BadRequestError, match="--chat-template"):
            client_of(server).chat.completions.create(model="m", messages=USER)
    with Server(tmp_path, "--backend", "echo", "--kv-gb", "0.05", "--chat-template", tiny_model / "chat_template.jinja") as server:
        assert client_of(server).chat.completions.create(model="m", messages=USER, max_tokens=1).choices


def test_long_prompt_goes_by_the_text_thread(echo_client):
    text = "a" + " " * (20 << 10)  # over 16 KB, and four spaces are one token here
    answer = echo_client.completions.create(model="m", prompt=text, max_tokens=1, temperature=0)
    assert answer.usage.prompt_tokens > 1000


def test_dummy_weights_on_the_cpu(tiny_model):
    with Server(tiny_model, "--dummy-weights", "--kv-gb", "0.05") as server:
        options = dict(model="m", prompt="Hello", max_tokens=8, temperature=0)
        first = client_of(server).completions.create(**options)
        assert first.usage.completion_tokens >= 1
        assert first.choices[0].text == client_of(server).completions.create(**options).choices[0].text


# ---- real text, on SmolLM2


def test_real_chat(real):
    options = dict(model="gpt-4o-mini", messages=USER, temperature=0, max_tokens=32)
    answer = real.chat.completions.create(**options)
    assert "Paris" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in answer.choices[0].message.content
    streamed = real.chat.completions.create(**options, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == answer.choices[0].message.content


def test_real_completion(real):
    answer = real.completions.create(model="m", prompt="The capital of France is", temperature=0, max_tokens=5, logprobs=3)
    assert "Paris" in answer.choices[0].text
    assert len(answer.choices[0].logprobs.tokens) == answer.usage.completion_tokens
    streamed = real.completions.create(model="m", prompt="The capital of France is", temperature=0, max_tokens=5, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == answer.choices[0].text


def test_real_n_seed_stop_logprobs(real):
    options = dict(model="m", messages=USER, temperature=1.0, max_tokens=12, n=3, seed=11, logprobs=True, top_logprobs=2)
    answer = real.chat.completions.create(**options)
    again = real.chat.completions.create(**options)
    texts = [c.message.content for c in answer.choices]
    assert texts == [c.message.content for c in again.choices] and len(set(texts)) > 1
    for choice in answer.choices:
        assert all(t.logprob <= 0 and len(t.top_logprobs) == 2 for t in choice.logprobs.content)
    stopped = real.chat.completions.create(model="m", messages=USER, temperature=0, max_tokens=32, stop=" Paris")
    assert "Paris" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"


def test_the_issues_snippet_unchanged(smollm2):
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 5678))
        except OSError:
            pytest.skip("lacks a free port 5678")
    with Server(smollm2, "--kv-gb", "1", port=5678):
        content = OpenAI(base_url="http://localhost:5678", api_key="foo").chat.completions.create(model="gpt-4o-mini", messages=[{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Write a haiku about recursion in programming."}]).choices[0].message.content  # fmt: skip
        assert len(content) > 10
