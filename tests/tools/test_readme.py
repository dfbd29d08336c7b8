"""The README's links lead somewhere, the flags that it tells of exist, and every record of a measurement is explained."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def anchor_of(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", ["README.md", "bench/results/README.md"])
def test_links(page):
    text = (ROOT / page).read_text()
    anchors = {anchor_of(title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    for link in links:
        target, _, anchor = link.partition("#")
        assert (ROOT / page).parent.joinpath(target).exists(), link
        assert target or anchor in anchors, link


def test_records():
    listed = set(re.findall(r"^\| `([^`]+)`", (ROOT / "bench" / "results" / "README.md").read_text(), re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "bench" / "results").iterdir()} - {"README.md"}


def test_flags_of_fgserve(programs):
    table = README.partition("## The flags that matter")[2].partition("\n## ")[0]
    flags = {flag for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for flag in re.findall(r"--[a-z-]+", row)}
    assert len(flags) > 15
    known = subprocess.run([str(programs / "fgserve"), "--help"], capture_output=True, text=True, timeout=60).stdout
    assert not [flag for flag in flags if not re.search(rf"^ +(-h,)?{flag}\b", known, re.MULTILINE)]
