"""The examples as their first comments say to run them. (examples/meson.build runs the rollout loop, which needs no model.)"""

import json
import subprocess


def test_answer_asks_every_line_and_leaves_out_a_bad_one(programs, smollm2):
    questions = ["What is a haiku?", 'Say "hi" \\ twice', "word " * 9000, "Name three rivers."]
    lines = "\n".join(questions).encode() + b"\nbad \xff UTF-8\n"
    run = subprocess.run([programs.parent / "examples" / "answer", smollm2, "7"], input=lines, capture_output=True, timeout=120)
    errors = run.stderr.decode()
    assert run.returncode == 0, errors
    answers = {answer["question"]: answer for answer in map(json.loads, run.stdout.decode().splitlines())}
    assert set(answers) == {questions[0], questions[1], questions[3]}
    assert all(answer["answer"] and "\n\n" not in answer["answer"] for answer in answers.values())
    assert errors.count("line left out") == 2 and "valid UTF-8" in errors and "prompt" in errors


def test_answer_names_the_folder_that_is_not_there(programs):
    run = subprocess.run([programs.parent / "examples" / "answer", "/nowhere"], input=b"", capture_output=True, timeout=60)
    assert run.returncode == 1
    assert "/nowhere" in run.stderr.decode()
