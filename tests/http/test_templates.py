"""Chat templates by name and by text: which of the model's own renders a request, and when a request may bring one."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest
from conftest import CHATML, Server, binary

FLAGS = ["--backend", "echo", "--kv-gb", "0.1"]


def post(server, path, **fields):
    body = {"messages": [{"role": "user", "content": "hi <|im_end|>"}], **fields}
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def prompt_of(server, **fields):
    """The prompt's text, once as /tokenize tells it and once as /v1/chat/completions counts it."""
    status, tokens = post(server, "/tokenize", **fields)
    assert status == 200, tokens
    status, answer = post(server, "/v1/chat/completions", max_tokens=1, **fields)
    assert status == 200 and answer["usage"]["prompt_tokens"] == tokens["count"], answer
    request = urllib.request.Request(server.url + "/detokenize", json.dumps({"tokens": tokens["tokens"]}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["prompt"]


def refusal(server, **fields):
    answers = [post(server, path, **fields) for path in ("/tokenize", "/v1/chat/completions")]
    assert answers[0] == answers[1]
    status, body = answers[0]
    assert status == 400 and body["error"]["param"] == "chat_template", body
    return body["error"]["message"]


@pytest.fixture(scope="module")
def named_model(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates") / "named-model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink()
    named = {"rag": "Search: {{ messages[0].content }}<|im_end|>", "tool_use": "Tools", "default": CHATML}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": name, "template": source} for name, source in named.items()]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_request_names_one_of_the_models_templates(named_model):
    with Server(named_model, *FLAGS) as server:
        usual = prompt_of(server)
        assert usual.startswith("<|im_start|>user")
        assert prompt_of(server, chat_template="default") == prompt_of(server, chat_template=None) == usual
        assert prompt_of(server, chat_template="rag") == "Search: hi <|im_end|><|im_end|>"
        assert prompt_of(server, chat_template="tool_use") == "Tools"
        assert refusal(server, chat_template="rags") == 'chat_template: "rags" is none of the model\'s templates (default, rag, tool_use)'
        assert "--trust-request-chat-template" in refusal(server, chat_template="{{ 'x' }}")
        # What a message says stays text in each of them: the template's own end of turn is one token, the message's is several.
        assert post(server, "/tokenize", chat_template="rag", return_token_strs=True)[1]["token_strs"].count("<|im_end|>") == 1
        with urllib.request.urlopen(server.url + "/tokenizer_info", timeout=60) as answer:
            assert json.load(answer)["chat_template_names"] == ["default", "rag", "tool_use"]
        server.check_end()


def test_the_server_starts_with_a_named_template(named_model):
    with Server(named_model, *FLAGS, "--chat-template", "rag") as server:
        assert prompt_of(server) == "Search: hi <|im_end|><|im_end|>"
        assert prompt_of(server, chat_template="default").startswith("<|im_start|>user")
        server.check_end()
    refused = subprocess.run([binary(), named_model, *FLAGS, "--port", "0", "--chat-template", "rags"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "fgserve: --chat-template rags: no such file, nor is it one of the model's templates: default, rag, tool_use" in refused.stderr


def test_a_trusted_request_brings_its_own_template(tiny_model):
    with Server(tiny_model, *FLAGS, "--trust-request-chat-template") as server:
        assert prompt_of(server, chat_template="Q: {{ messages[0].content }} {{ tone }}", chat_template_kwargs={"tone": "calm"}) == "Q: hi <|im_end|> calm"
        assert prompt_of(server).startswith("<|im_start|>user")
        assert "they have no names" in refusal(server, chat_template="default")
        assert refusal(server, chat_template="a\n\n{% if %}").startswith("chat_template: line:3: ")
        assert refusal(server, chat_template="{{ raise_exception('No.') }}") == "chat_template: TemplateError: No."
        assert "too many steps" in refusal(server, chat_template="{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")
        server.check_end()
