"""fgtok: a line in, a line out, on a tokenizer that the repository itself holds."""

import json
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests" / "golden" / "tokens" / "byte_level"
TEMPLATES = ROOT / "tests" / "golden" / "templates"


def run(programs, *args, lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    answer = subprocess.run([str(programs / "fgtok"), *map(str, args)], input=text, capture_output=True, text=True, timeout=60)
    return answer.returncode, [json.loads(line) for line in answer.stdout.splitlines()], answer.stderr


def test_encode_and_decode_are_those_of_the_goldens(programs):
    rows = [json.loads(line) for line in (TOKENIZER.parent / "byte_level.jsonl").read_text().splitlines()]
    goldens = [row for row in rows if "text" in row]
    assert len(goldens) > 50
    status, encoded, _ = run(programs, "encode", TOKENIZER, lines=[{"text": golden["text"]} for golden in goldens])
    assert status == 0 and [line["ids"] for line in encoded] == [golden["ids"] for golden in goldens]
    status, decoded, _ = run(programs, "decode", TOKENIZER, lines=encoded)
    assert status == 0 and [line["text"] for line in decoded] == [golden["decoded"] for golden in goldens]


def test_a_line_that_fails_is_answered_and_the_next_one_works(programs):
    lines = ["nonsense", "[]", {"text": 5}, {}, {"text": 'a"\\\x01\x7f\n'}]
    status, answers, _ = run(programs, "encode", TOKENIZER, lines=lines)
    assert status == 1 and [set(answer) for answer in answers] == [{"error"}] * 4 + [{"ids"}]
    status, answers, _ = run(programs, "decode", TOKENIZER, lines=[{"ids": [-1]}, {"ids": [10**9]}, {"ids": "x"}, {"ids": [1, "x"]}])
    assert status == 1 and ["ids" in answer["error"] for answer in answers] == [True] * 4


def test_render_without_a_model(programs):
    golden = json.loads((TEMPLATES / "chatml.jinja.json").read_text())
    contexts = json.loads((TEMPLATES / "_contexts.json").read_text())
    more = {"bos_token": golden["bos_token"], "eos_token": golden["eos_token"], "now": golden["now"]}
    lines = [{**contexts[result["case"]], **more} for result in golden["results"]]
    status, answers, _ = run(programs, "render", "--chat-template", TEMPLATES / "sources" / "chatml.jinja", lines=lines)
    assert [answer.get("prompt") for answer in answers] == [result.get("expected") for result in golden["results"]]
    assert status == int(any("error" in result for result in golden["results"]))


def test_render_by_the_name_of_one_of_a_models_templates(programs, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((TOKENIZER / "tokenizer.json").read_bytes())
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R{{ documents[0] }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    lines = [{"messages": []}, {"messages": [], "tools": [{}]}, {"messages": [], "documents": [1], "chat_template": "rag"}, {"messages": [], "chat_template": "x"}]
    status, answers, _ = run(programs, "render", tmp_path, lines=lines)
    assert status == 1 and [answer.get("prompt") for answer in answers] == ["D", "T", "R1", None] and '"x"' in answers[3]["error"]
    _, answers, _ = run(programs, "render", tmp_path, "--chat-template", "tool_use", lines=lines[:1])
    assert answers[0]["prompt"] == "T"
    status, answers, error = run(programs, "render", tmp_path, "--chat-template", "rags", lines=[])
    assert status == 1 and "rags: no such file, nor is it one of the model's templates: default, rag, tool_use" in error


@pytest.mark.parametrize(
    "args, part",
    [
        (("encode", "/nonexistent"), "/nonexistent: no such folder"),
        (("render", "--chat-template", "/nonexistent.jinja"), "/nonexistent.jinja: cannot be read: No such file"),
        (("render", "--chat-template", "/"), "/: cannot be read: Is a directory"),
        (("render", TOKENIZER), "no chat template"),
    ],
)
def test_what_is_not_there_is_named(programs, args, part):
    status, answers, error = run(programs, *args, lines=[])
    assert status == 1 and not answers and error.startswith("fgtok: ") and part in error
