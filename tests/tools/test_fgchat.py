"""fgchat as a person and as a pipe would use it: on the echo backend (no weights needed), and once on the real model."""

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

import pytest

CLOSING = re.compile(r"^--- \[(\d+) tokens, (\d+\.\d{3})toks/s(, stopped|, cut off)?\]$", re.MULTILINE)


def chat(programs, model, text, *options, status=0):
    """Runs fgchat with `text` piped in; returns (stdout, stderr)."""
    run = subprocess.run([programs / "fgchat", model, *options], input=text.encode(), capture_output=True, timeout=120)
    assert run.returncode == status, run.stderr
    return run.stdout.decode(errors="replace"), run.stderr.decode()


def echo(programs, tiny, text, *options, **more):
    return chat(programs, tiny, text, "--backend", "echo", "--max-tokens", "20", "--temperature", "0", *options, **more)


def answers(out):
    """The text between each prompt and its closing line."""
    return re.findall(r"\d+> (.*?)\n--- \[", out, re.DOTALL)


def test_prompts_are_numbered_and_each_answer_has_its_closing_line(programs, tiny):
    out, _ = echo(programs, tiny, "hello\nagain\n/q\nnever read\n")
    assert [int(number) for number in re.findall(r"^(\d+)> ", out, re.MULTILINE)] == [1, 2, 3]
    assert [(match[1], match[3]) for match in CLOSING.finditer(out)] == [("20", ", cut off")] * 2


def test_the_end_of_the_pipe_ends_the_chat(programs, tiny):
    out, _ = echo(programs, tiny, "hello")
    assert len(CLOSING.findall(out)) == 1
    assert out.endswith("2> \n")


def test_r_goes_back_so_that_the_same_words_get_the_same_answer(programs, tiny):
    out, _ = echo(programs, tiny, "hello\nhello\n/r 1\nhello\n/r 2\nhello\n/q\n")
    assert re.findall(r"(\d+)> ", out) == ["1", "2", "3", "1", "2", "2", "3"]
    first, second, first_again, second_again = (answer.split("> ")[-1] for answer in answers(out))
    assert (first_again, second_again) == (first, second)
    assert first != second  # the second knew the first round


@pytest.mark.parametrize("line", ["/r", "/r 0", "/r 3", "/r x", "/r -1", "/r 1 2"])
def test_a_round_that_is_none_is_refused_and_changes_nothing(programs, tiny, line):
    out, _ = echo(programs, tiny, f"hello\n{line}\n/q\n")
    assert "2> /r N: N is a round, 1 to 2\n2> " in out


def test_m_reads_lines_until_a_dot_and_sends_them_as_one(programs, tiny):
    out, _ = echo(programs, tiny, "/m\none\n\n/q is text here\n.\n/q\n")
    assert len(CLOSING.findall(out)) == 1
    several = answers(out)[0]
    other, _ = echo(programs, tiny, "/m\none\n/q is text here\n.\n/q\n")
    assert several != answers(other)[0]  # the empty line is part of it


def test_an_unknown_command_and_empty_lines_ask_nothing(programs, tiny):
    out, _ = echo(programs, tiny, "/x\n\n   \n/q\n")
    assert "no command /x" in out and not CLOSING.findall(out)
    out, _ = echo(programs, tiny, "/etc/hosts is a file\n/q\n")
    assert len(CLOSING.findall(out)) == 1


def test_the_system_text_matters(programs, tiny):
    plain, _ = echo(programs, tiny, "hello\n/q\n")
    told, _ = echo(programs, tiny, "hello\n/q\n", "--system", "be brief")
    assert answers(plain) != answers(told)


def test_a_seed_repeats_an_answer_of_the_real_model(programs, smollm2):
    def ask(seed):
        options = ("--temperature", "1", "--seed", seed, "--max-tokens", "12", "--kv-gb", "0.5")
        return answers(chat(programs, smollm2, "Name a colour.\n/q\n", *options)[0])

    assert ask("7") == ask("7")
    assert len({tuple(ask(str(seed))) for seed in range(4)}) > 1


def test_a_conversation_that_no_longer_fits_says_so_and_the_chat_goes_on(programs, tiny):
    out, _ = echo(programs, tiny, f"{'x' * 3000}\nhello\n/q\n")
    assert "no longer fits" in out and len(CLOSING.findall(out)) == 1
    assert [int(number) for number in re.findall(r"^(\d+)> ", out, re.MULTILINE)] == [1, 1, 2]


@pytest.mark.parametrize("options, names", [
    (["--tensor-parallel", "2"], "--tensor-parallel 2"),
    (["--gpu-gb", "4"], "gpu"),
    (["--backend", "nonsense"], "nonsense"),
])
def test_what_cannot_be_is_refused_by_name(programs, tiny, options, names):
    _, err = echo(programs, tiny, "", *options, status=1)
    assert names in err and err.startswith("fgchat: ") and err.count("\n") == 1


def test_a_model_that_is_not_there_is_named(programs, tmp_path):
    _, err = chat(programs, tmp_path / "nowhere", "", status=1)
    assert "nowhere" in err and err.startswith("fgchat: ")


def test_the_real_model_answers_and_loading_shows_bytes_and_rate(programs, smollm2):
    out, err = chat(programs, smollm2, "What is the capital of France?\n/q\n", "--temperature", "0", "--max-tokens", "40", "--kv-gb", "0.5")
    assert "Paris" in answers(out)[0]
    number, rate, more = CLOSING.search(out).groups()
    assert 2 < int(number) <= 40 and float(rate) > 0 and more is None
    assert re.search(r"^loading: 100%\|#+\| 269M/269M \[\d\d:\d\d<00:00, [\d.]+[kMG]B/s\]$", err, re.MULTILINE)


class Terminal:
    """fgchat on a pseudo terminal."""

    def __init__(self, command, state):
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, 100))
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", "XDG_STATE_HOME": str(state)}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
                                        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)))  # its controlling terminal
        os.close(slave)
        self.seen = ""

    def wait_for(self, pattern, seconds=60):
        """Reads until the pattern comes after what was waited for before; returns the text up to it."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen, re.MULTILINE)):
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            self.seen += os.read(self.master, 65536).decode(errors="replace").replace("\r\n", "\n")
        before, self.seen = self.seen[: match.end()], self.seen[match.end():]
        return before

    def wait_for_editor(self, seconds=60):
        """Until keys go to the line editor, which is a moment after its prompt is there to see."""
        deadline = time.monotonic() + seconds
        while termios.tcgetattr(self.master)[3] & termios.ICANON:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def type(self, text):
        os.write(self.master, text.encode())

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(programs, tiny, tmp_path):
    opened = []

    def start(*options, model=tiny):
        command = [programs / "fgchat", model, "--temperature", "0", *options]
        opened.append(Terminal(command, tmp_path))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


ECHO = ("--backend", "echo", "--max-tokens", "20")


def without_controls(text):
    """What a terminal is shown of an answer."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def test_on_a_terminal_lines_can_be_edited_and_come_back(terminal, programs, tiny):
    expected = answers(echo(programs, tiny, "hällo\n/q\n")[0])[0]
    first = terminal(*ECHO)
    first.wait_for("1> ")
    first.type("hälxx\x7f\x7flo\r")  # two backspaces
    out = first.wait_for(r"toks/s")
    shown = without_controls(expected)
    assert shown in out
    first.wait_for("2> ")
    # Ctrl-D counts once the line editor has the terminal, which is a moment after its prompt is there to see, and on an empty
    # line: one that came too early may have left something there, which Ctrl-U takes away.
    for _ in range(20):
        first.type("\x15\x04")
        try:
            first.process.wait(1)
            break
        except subprocess.TimeoutExpired:
            pass
    assert first.process.returncode == 0

    second = terminal(*ECHO)
    second.wait_for("1> ")
    second.type("\x1b[A\r")  # the line before, from the history file
    assert shown in second.wait_for(r"toks/s")


@pytest.mark.parametrize("breaks", ["\r", "\n"])
def test_several_lines_that_are_pasted_are_one_question(terminal, programs, tiny, breaks):
    question = "/m\n/q is text\n\n\täh ein\n.\n"
    expected, again = (without_controls(answer.split("> ")[-1]) for answer in answers(echo(programs, tiny, 2 * question + "/q\n")[0]))
    one = terminal(*ECHO)
    assert "\x1b[?2004h" in one.wait_for("1> ")
    one.wait_for_editor()
    one.type("\x1b[200~" + "/q is \x01\x04text\n\n\tähm\n".replace("\n", breaks) + "\x1b[201~\x7f ein\r")
    assert expected in one.wait_for(r"toks/s")
    one.wait_for("2> ")
    one.wait_for_editor()
    one.type("\x1b[A\r")  # from the history
    assert again in one.wait_for(r"toks/s")
    one.wait_for("3> ")
    one.type("/q\r")
    assert one.process.wait(20) == 0


def test_ctrl_c_while_typing_forgets_the_line_and_not_the_program(terminal):
    one = terminal(*ECHO)
    one.wait_for("1> ")
    one.type("never to be sent")
    one.wait_for("sent")
    one.type("\x03")
    assert "toks/s" not in one.wait_for("1> ")
    one.type("/q\r")
    assert one.process.wait(20) == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal, smollm2):
    one = terminal("--kv-gb", "0.5", model=smollm2)
    assert "#| 269M/269M [" in one.wait_for("1> ")
    one.type("Write a very long story about a king and a dragon, with many chapters.\r")
    # The answer has begun: not the question, which a slow line editor shows again.
    one.wait_for(r"\n(?!.*Write a very).*[a-z]{3} [a-z]{3}")
    one.type("\x03")
    one.wait_for(r"--- \[\d+ tokens, [\d.]+toks/s, stopped\]\n", seconds=10)
    one.wait_for("2> ")
    one.type("/q\r")
    assert one.process.wait(20) == 0
