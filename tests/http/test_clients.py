"""Real clients from PyPI: openai's async client and streaming helpers, langchain, lm-eval; every answer checked strictly against openai's types."""

import asyncio
import json
import os
import pathlib
import shutil
import subprocess
import sys

import echo_check
import httpx
import pytest
from conftest import TINY_CONFIG
from openai import AsyncOpenAI, OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

USER = [{"role": "user", "content": "What is the capital of France?"}]


def raw(server, path, **body):
    return httpx.post(server.url + path, json=body, timeout=60)


def strictly(model, data):
    """Not as the client does, which takes anything: every field of its own type. Fields that we add are allowed."""
    return model.model_validate_json(json.dumps(data), strict=True)


def as_typed(completion):
    """OpenAI's own completions are null where its types have no null: before the end, and for a prompt's first token."""
    for choice in completion["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        if choice["logprobs"] and choice["logprobs"]["token_logprobs"][:1] == [None]:
            del choice["logprobs"]["token_logprobs"][0], choice["logprobs"]["top_logprobs"][0]
    return completion


REPORTS = [
    {},
    {"n": 2, "seed": 1},
    {"stop": ["a"], "max_tokens": 60},
    {"logit_bias": {"5": -100}, "temperature": 0, "top_p": 0.5, "presence_penalty": 1, "frequency_penalty": -1},
    {"return_token_ids": True, "user": "u"},
    {"timeout_ms": 60000, "priority": 2},
]


@pytest.mark.parametrize("fields", REPORTS + [{"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "prompt_logprobs": 1}])
def test_chat_answers_are_of_openai_s_types(echo, fields):
    answer = raw(echo, "/v1/chat/completions", messages=USER, model="m", **{"max_tokens": 12, **fields})
    assert answer.status_code == 200, answer.text
    assert len(strictly(ChatCompletion, answer.json()).choices) == fields.get("n", 1)
    if "prompt_logprobs" in fields:
        return
    text = raw(echo, "/v1/chat/completions", messages=USER, stream=True, stream_options={"include_usage": True}, **{"max_tokens": 12, **fields}).text
    frames = [line[6:] for line in text.splitlines() if line]
    assert frames.pop() == "[DONE]"
    chunks = [strictly(ChatCompletionChunk, json.loads(frame)) for frame in frames]
    assert chunks[-1].usage and not chunks[-1].choices


@pytest.mark.parametrize("fields", REPORTS + [{"logprobs": 3}, {"echo": True, "logprobs": 1}, {"best_of": 4, "n": 2}])
def test_completions_are_of_openai_s_types(echo, fields):
    answer = raw(echo, "/v1/completions", prompt="ab", **{"max_tokens": 12, **fields})
    assert answer.status_code == 200, answer.text
    assert len(strictly(Completion, as_typed(answer.json())).choices) == fields.get("n", 1)
    assert all(choice["finish_reason"] for choice in answer.json()["choices"])
    if "best_of" in fields:
        assert answer.json()["usage"]["completion_tokens"] > 12 * fields["n"]
        return
    text = raw(echo, "/v1/completions", prompt="ab", stream=True, **{"max_tokens": 12, **fields}).text
    frames = [line[6:] for line in text.splitlines() if line]
    assert frames.pop() == "[DONE]" and [strictly(Completion, as_typed(json.loads(frame))) for frame in frames]


def test_best_of_is_the_best(echo):
    """Echo's logprobs are published, so that the client can rank the choices itself."""
    fields = dict(prompt="ab", max_tokens=8, temperature=1, seed=7, ignore_eos=True, logprobs=0)
    drawn = raw(echo, "/v1/completions", n=6, **fields).json()["choices"]
    drawn.sort(key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
    best = raw(echo, "/v1/completions", n=2, best_of=6, **fields).json()["choices"]
    assert [choice["text"] for choice in best] == [choice["text"] for choice in drawn[:2]]


def test_async_client_and_its_streams(echo):
    async def run():
        async with AsyncOpenAI(base_url=echo.url + "/v1", api_key="x", max_retries=0) as client:
            async def stream(seed):
                options = dict(model="m", messages=USER, max_tokens=30, seed=seed, temperature=1)
                whole = (await client.chat.completions.create(**options)).choices[0].message.content
                pieces = [chunk.choices[0].delta.content or "" async for chunk in await client.chat.completions.create(**options, stream=True)]
                assert "".join(pieces) == whole
                return whole

            texts = await asyncio.gather(*(stream(seed) for seed in range(20)))
            assert len(set(texts)) == 20

    asyncio.run(run())


def test_streaming_helper(echo):
    client = OpenAI(base_url=echo.url + "/v1", api_key="x", max_retries=0)
    options, kinds = dict(model="m", messages=USER, max_tokens=60, seed=3, logprobs=True), []
    text = client.chat.completions.create(**options).choices[0].message.content
    with client.chat.completions.stream(**options, stop=text[20:23]) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_completion()
    assert "content.delta" in kinds and kinds[-1] in ("content.done", "logprobs.content.done")
    assert final.choices[0].message.content == text[: text.index(text[20:23])] and final.choices[0].finish_reason == "stop"


def test_the_client_gives_up_in_time_and_leaves_nothing(echo):
    client = OpenAI(base_url=echo.url + "/v1", api_key="x", max_retries=0)
    stream = client.completions.create(model="m", prompt="ab", max_tokens=8000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    health = echo.wait_idle()
    assert health["running"] == 0 and health["free_blocks"] == health["blocks"]


def test_langchain(echo):
    langchain = pytest.importorskip("langchain_openai", reason="lacks langchain-openai")
    chat = langchain.ChatOpenAI(base_url=echo.url + "/v1", api_key="x", model="m", max_tokens=16, temperature=0, max_retries=0)
    answer = chat.invoke([("system", "Be brief."), ("human", "Hello")])
    assert answer.content and answer.usage_metadata["output_tokens"] == 16
    assert "".join(chunk.content for chunk in chat.stream([("system", "Be brief."), ("human", "Hello")])) == answer.content


LM_EVAL_TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
{more}
"""


def test_lm_eval(echo, tmp_path):
    """local-completions with our tokenizer over HTTP: every loglikelihood that it gets is what echo's function says."""
    command = shutil.which("lm-eval", path=pathlib.Path(sys.executable).parent)
    if command is None:
        pytest.skip("lacks lm-eval")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"question": f"Number {i}: the word is", "choices": [" a", " bb cc", " d\u00e9"], "answer": i % 3}) + "\n" for i in range(8)))
    ranked = "doc_to_choice: choices\ndoc_to_target: answer\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"
    free = ("doc_to_target: '{{answer}}'\ngeneration_kwargs: {until: ['\\n'], max_gen_toks: 16, do_sample: false}\n"
            "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]")  # fmt: skip
    for name, kind, more in [("fg_ranked", "multiple_choice", ranked), ("fg_free", "generate_until", free)]:
        (tmp_path / f"{name}.yaml").write_text(LM_EVAL_TASK.format(name=name, kind=kind, data=data, more=more))
    arguments = f"base_url={echo.url}/v1/completions,model=m,tokenizer_backend=remote,num_concurrent=4,max_retries=1"
    run = subprocess.run(
        [command, "run", "--model", "local-completions", "--model_args", arguments, "--include_path", tmp_path, "--tasks", "fg_ranked,fg_free",
         "--output_path", tmp_path / "out", "--log_samples"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_CACHE": str(tmp_path / "hf")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]

    def samples(task):
        (path,) = (tmp_path / "out").rglob(f"samples_{task}_*.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()]

    def ids(text):
        return raw(echo, "/tokenize", prompt=text, add_special_tokens=False).json()["tokens"]

    checked = 0
    for sample in samples("fg_ranked"):
        for argument, ((logprob, _),) in zip(sample["arguments"].values(), sample["resps"], strict=True):
            prompt, whole = ids(argument["arg_0"]), ids(argument["arg_0"] + argument["arg_1"])
            context, expected = echo_check.Context(whole[: len(prompt)]), 0
            for token in whole[len(prompt) :]:
                expected += context.logprob(token, TINY_CONFIG["vocab_size"])
                context.push(token)
            assert abs(float(logprob) - expected) < 1e-3, (argument, logprob, expected)
            checked += 1
    assert checked == 24 and len(samples("fg_free")) == 8


# ---- what clients see beside the answer


def test_request_ids_and_timing(echo):
    for stream in (False, True):
        answer = httpx.post(echo.url + "/v1/completions", json={"prompt": "x", "max_tokens": 5, "stream": stream}, headers={"x-request-id": "abc-1.2"})
        assert answer.headers["x-request-id"] == "abc-1.2"
        timing = {part.split(";dur=")[0]: float(part.split(";dur=")[1]) for part in answer.headers["server-timing"].split(", ")}
        assert {"prepare", "queue", "prefill"} <= set(timing) and all(0 <= ms < 60000 for ms in timing.values())
    ids = {httpx.get(echo.url + "/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3 and all(request_id.startswith("req-") for request_id in ids)
    assert httpx.post(echo.url + "/v1/completions", json={}, headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"


def test_ignored_fields_are_listed(echo):
    def ask(**fields):
        return raw(echo, "/v1/chat/completions", messages=USER, max_tokens=1, **fields).headers.get("x-fastgen-ignored-params")

    assert ask() is None and ask(user="u", metadata={"a": "b"}, service_tier="auto") is None
    assert ask(shiny_new=1, reasoning_effort="low") == "shiny_new, reasoning_effort"
    assert ask(stream=True, foo=None) == "foo"
    assert ask(**{f"f{i}": i for i in range(20)}).endswith("f15, +4")


def test_strict(tiny_model):
    from conftest import Server

    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.05", "--strict") as server:
        good = {"messages": USER, "max_tokens": 1, "user": "u", "temperature": 0}
        assert httpx.post(server.url + "/v1/chat/completions", json=good).status_code == 200
        for name in ("shiny_new", "reasoning_effort"):
            refused = httpx.post(server.url + "/v1/chat/completions", json={**good, name: "x"})
            assert refused.status_code == 400 and refused.json()["error"]["param"] == name
        server.check_end()


def test_other_interfaces_say_what_there_is_instead(echo):
    for path in ("/v1/responses", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens", "/responses", "/v1/images/generations", "/v1/audio/speech"):
        answer = httpx.post(echo.url + path, json={})
        assert answer.status_code == 404 and "/v1/chat/completions" in answer.json()["error"]["message"], path


# ---- tokens


def test_tokenize_and_back(echo):
    def tokens(**body):
        answer = raw(echo, "/tokenize", **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    text = "Hello wörld, 你好 \U0001f600 <|im_end|>"
    got = tokens(prompt=text)
    assert got["count"] == len(got["tokens"]) > 3 and got["max_model_len"] == 8192 and got["token_strs"] is None
    assert raw(echo, "/detokenize", tokens=got["tokens"]).json() == {"prompt": text}
    named = tokens(prompt=text, return_token_strs=True)["token_strs"]
    assert len(named) == got["count"] and "Hello" in "".join(named)
    assert tokens(prompt="")["count"] == 0
    chat = tokens(messages=USER)["tokens"]
    usage = raw(echo, "/v1/chat/completions", messages=USER, max_tokens=1).json()["usage"]
    assert len(chat) == usage["prompt_tokens"] > len(tokens(messages=USER, add_generation_prompt=False)["tokens"])
    long = "word " * 20000  # tokenized on a thread of its own
    assert raw(echo, "/detokenize", tokens=tokens(prompt=long)["tokens"]).json()["prompt"] == long
    parts = [{"role": "user", "content": [{"type": "text", "text": USER[0]["content"]}]}]
    assert tokens(messages=parts)["tokens"] == chat
    for path, body, param in [("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": "x", "messages": USER}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"),
                              ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": ["x"]}, "tokens[0]"), ("/detokenize", {"tokens": [10**6]}, "tokens")]:  # fmt: skip
        answer = raw(echo, path, **body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_tokenizer_info(echo):
    info = httpx.get(echo.url + "/tokenizer_info").json()
    assert info["vocab_size"] > 300 and info["eos_token"] == "<|im_end|>" and info["bos_token"] == "<|im_start|>"
    assert info["model_max_length"] == 8192 and info["has_chat_template"] is True
