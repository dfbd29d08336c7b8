"""SmolLM2's sixteen golden chats over HTTP: free-running greedy text, and teacher-forced logprobs."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import Server

TIES = 0.20  # bfloat16 text must agree up to the first step whose top two are closer than this


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def server(request, smollm2):
    with Server(smollm2, "--kv-gb", "0.5", "--dtype", request.param) as running:
        running.dtype = request.param
        yield running


def post(server, path, body):
    answer = httpx.post(server.url + path, json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask(server, chat):
    body = {"messages": chat["messages"], "temperature": 0, "max_tokens": len(chat["output_ids"]), "return_token_ids": True}
    return post(server, "/v1/chat/completions", body)


def test_greedy_text(server, golden_chats):
    num_whole = 0
    with ThreadPoolExecutor(16) as pool:  # all at once: they share batches, which must change nothing
        answers = list(pool.map(lambda chat: ask(server, chat), golden_chats))
    for chat, answer in zip(golden_chats, answers):
        choice = answer["choices"][0]
        assert answer["prompt_token_ids"] == chat["prompt_ids"]
        count = len(chat["output_ids"])
        if server.dtype == "bfloat16":
            margins = [step["top"][0][1] - step["top"][1][1] for step in chat["steps"]]
            count = next((i for i, margin in enumerate(margins) if margin < TIES), count)
        assert choice["token_ids"][:count] == chat["output_ids"][:count]
        if server.dtype == "float32":
            assert choice["message"]["content"].strip() == chat["output_text"].strip()
            assert choice["finish_reason"] == chat["finish_reason"]
            num_whole += 1
    assert len(golden_chats) == 16 and (server.dtype != "float32" or num_whole == 16)


def test_teacher_forced_logprobs(server, golden_chats):
    differences = []
    for chat in golden_chats:
        ids = chat["prompt_ids"] + chat["output_ids"]
        body = {"prompt": ids, "echo": True, "logprobs": 0, "max_tokens": 0}
        logprobs = post(server, "/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
        assert logprobs[0] is None and len(logprobs) == len(ids)
        expected = [step["logprob"] for step in chat["steps"]]
        differences += [abs(a - b) for a, b in zip(logprobs[len(chat["prompt_ids"]) :], expected, strict=True)]
    differences.sort()
    worst, p99 = differences[-1], differences[int(len(differences) * 0.99)]
    print(f"{server.dtype}: worst {worst:.5f}, 99th percentile {p99:.5f} of {len(differences)}")
    if server.dtype == "float32":
        assert worst <= 0.001
    else:
        assert worst <= 0.10 and p99 <= 0.045
