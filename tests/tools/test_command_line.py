"""What all programs' command lines have in common: a --help that fits a terminal, and errors in one line that name the culprit."""

import os
import subprocess

import pytest

COMMANDS = [
    ["fgserve"], ["fgserve", "plan"], ["fgchat"], ["fgtok"], ["fgtok", "render"],
    ["bench/fgbench"], ["bench/fgbench", "offline"], ["bench/fgbench", "op"], ["bench/fgbench", "roofline"], ["bench/fgbench", "serve"],
]  # fmt: skip


def run(programs, *args, **environment):
    command = [str(programs / args[0]), *args[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(programs, command):
    answer = run(programs, *command, "--help")
    assert answer.returncode == 0 and not answer.stderr
    name = " ".join([command[0].rpartition("/")[2], *command[1:]])
    assert f"Usage: {name} " in answer.stdout
    for line in answer.stdout.splitlines():
        assert len(line) <= 115 and " in [" not in line, line
    assert "\n\n\n" not in answer.stdout


@pytest.mark.parametrize("program", ["fgserve", "fgchat"])
def test_an_error_is_one_line_that_names_program_and_flag(programs, program):
    answer = run(programs, program, "--no-such-flag")
    assert answer.returncode == 2 and not answer.stdout
    assert answer.stderr.startswith(f"{program}: ") and "--no-such-flag" in answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("flag, value", [("--top-p", "3"), ("--temperature", "-1"), ("--max-tokens", "-3"), ("--threads", "x")])
def test_fgchat_refuses_a_bad_value_before_it_loads(programs, flag, value):
    answer = run(programs, "fgchat", flag, value)
    assert answer.returncode == 2 and f"{flag}: " in answer.stderr


@pytest.mark.parametrize("line, key", [("max-batc = 3", "max-batc"), ("max_batch = 3", "max_batch"), ("prot = 1", "prot")])
def test_a_configuration_file_with_a_mistyped_flag(programs, tmp_path, line, key):
    (tmp_path / "fgserve.toml").write_text(line + "\n")
    answer = run(programs, "fgserve", "--config", str(tmp_path / "fgserve.toml"))
    assert answer.returncode == 2 and f"--config: there is no flag --{key}" in answer.stderr


def test_a_bad_value_of_the_environment_names_its_variable(programs):
    answer = run(programs, "fgserve", FG_PORT="77777")
    assert answer.returncode == 2 and "--port" in answer.stderr and "FG_PORT=77777" in answer.stderr


def test_a_mistyped_variable_is_warned_of(programs):
    answer = run(programs, "fgserve", "/nonexistent/model", FG_MAX_BATHC="3", FG_TEST_SEED="1")
    assert "FG_MAX_BATHC" in answer.stderr and "FG_TEST_SEED" not in answer.stderr and answer.returncode == 1


@pytest.mark.parametrize(
    "model, part",
    [("no/such-model", "hf download no/such-model"), ("/nonexistent/model", "no such folder"), (__file__, "a file, where a model's folder")],
)
def test_a_model_that_is_not_there(programs, model, part):
    for program in ("fgserve", "fgchat"):
        answer = run(programs, program, model)
        assert answer.returncode == 1 and model in answer.stderr and part in answer.stderr
