"""Thinking and answers over HTTP. The echo backend's tokens close no tag, so what begins within the thinking is all thought."""

import json
import shutil
import urllib.request

import pytest
from conftest import CHATML, Server


def ask(server, stream=False):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 12, "temperature": 0, "seed": 1, "ignore_eos": True, "stream": stream}
    request = urllib.request.Request(server.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    if not stream:
        return json.loads(text)["choices"][0]["message"]
    joined = {"content": "", "reasoning_content": ""}
    for line in text.splitlines():
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            for key in joined:
                joined[key] += choice["delta"].get(key) or ""
    return joined


@pytest.fixture(scope="module")
def thinking_model(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinking") / "thinking-model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(CHATML.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif"))
    return folder


def test_a_prompt_that_opens_the_thinking(thinking_model):
    flags = ["--backend", "echo", "--kv-gb", "0.1"]
    with Server(thinking_model, *flags) as server:  # auto: the tokenizer has no </think>
        plain = ask(server)
        assert "reasoning_content" not in plain and plain["content"]
        server.check_end()
    with Server(thinking_model, *flags, "--reasoning-format", "always") as server:
        whole, streamed = ask(server), ask(server, stream=True)
        assert whole["content"] == streamed["content"] == ""
        # White space around the thoughts goes, all else stays.
        assert whole["reasoning_content"] == streamed["reasoning_content"] == plain["content"].strip(" \t\r\n")
        server.check_end()
    with Server(thinking_model, *flags, "--reasoning-format", "none") as server:
        assert ask(server) == plain
        server.check_end()


def test_a_prompt_that_opens_nothing(tiny_model):
    with Server(tiny_model, "--backend", "echo", "--kv-gb", "0.1", "--reasoning-format", "always") as server:
        message = ask(server)
        assert "reasoning_content" not in message and message["content"]
        server.check_end()
