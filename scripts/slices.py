"""Long work in slices, for a machine that is lent for minutes: each slice is written down when it ends, what is done is left out the
next time, and what does not fit into the time that is left is not begun. What check-gpu and bench-gpu share.
"""
import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

CUT_OFF_MAX = 2  # a slice that was cut off so often has failed: it would be so for ever


@dataclass
class Result:
    """What a slice found: counts of a check, or one run of a measurement."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    text: str = ""  # shown where something failed, or instead of counts
    lacks: str = ""  # why it could not run: it is then not run, and tried again the next time
    data: dict = field(default_factory=dict)


@dataclass
class Slice:
    name: str
    seconds: int  # that it may take, about: it is not begun when less is left
    work: Callable[[], Result]


def fingerprint(paths):
    """Of what the results depend on, so that results of other programs do not count."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes() if Path(path).exists() else b"absent")
    return digest.hexdigest()[:16]


class Record:
    """One file a slice in `folder`, written when it begins and when it ends."""

    def __init__(self, folder, key):
        self.folder, self.key = Path(folder), key
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, name):
        return self.folder / (re.sub(r"[^A-Za-z0-9.+-]+", "_", name) + ".json")

    def read(self, name):
        try:
            entry = json.loads(self.path(name).read_text())
        except (OSError, ValueError):
            return {}
        return entry if entry.get("key") == self.key else {}

    def write(self, name, **entry):
        beside = self.path(name).with_suffix(".tmp")
        beside.write_text(json.dumps({"name": name, "key": self.key, **entry}, indent=1) + "\n")
        beside.rename(self.path(name))


def run_one(part, record, cut_off):
    record.write(part.name, status="cut off", cut_off=cut_off + 1)
    started = time.monotonic()
    result = part.work()
    took = round(time.monotonic() - started, 1)
    status = "not run" if result.lacks else "failed" if result.failed else "passed"
    record.write(part.name, status=status, seconds=took, passed=result.passed, failed=result.failed, skipped=result.skipped,
                 lacks=result.lacks, data=result.data)
    counts = f"{result.passed} passed, {result.failed} failed, {result.skipped} skipped"
    print(f"{part.name}: {f'not run, lacks {result.lacks}' if result.lacks else result.text if result.data else counts} ({took} s)", flush=True)
    if result.failed and result.text and not result.data:
        print(result.text, flush=True)


def run(slices, record, minutes, again=False, after_each=lambda: None):
    """Runs what is open; true if everything has passed."""
    deadline = time.monotonic() + 60 * minutes
    for part in slices:
        before = {} if again else record.read(part.name)
        cut_off = before.get("cut_off", 0) if before.get("status") == "cut off" else 0
        if before.get("status") in ("passed", "failed"):
            continue
        if cut_off >= CUT_OFF_MAX:
            record.write(part.name, status="failed", passed=0, failed=1, skipped=0, lacks="", seconds=0, data={})
        elif time.monotonic() + part.seconds <= deadline:
            run_one(part, record, cut_off)
            after_each()
    return summarize(slices, record)


def summarize(slices, record):
    entries = {part.name: record.read(part.name) for part in slices}
    of = {status: [name for name, entry in entries.items() if entry.get("status") == status] for status in ("passed", "failed")}
    open_ones = {name: entry.get("lacks") or ("cut off" if entry else "no time") for name, entry in entries.items()
                 if entry.get("status") not in of}
    print(f"passed: {', '.join(of['passed']) or 'none'}")
    print(f"failed: {', '.join(of['failed']) or 'none'}")
    print("not run: " + (", ".join(f"{name} ({why})" for name, why in open_ones.items()) or "none"))
    total = {count: sum(entry.get(count, 0) for entry in entries.values()) for count in ("passed", "failed", "skipped")}
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped'] + len(open_ones)} skipped")
    return not of["failed"] and not open_ones and total["passed"] > 0


def add_arguments(parser, folder):
    parser.add_argument("--minutes", type=float, default=9, help="begin no slice that would not end in this time (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="slices whose name holds one of these")
    parser.add_argument("--again", action="store_true", help="also those that have passed or failed before")
    parser.add_argument("--list", action="store_true", help="name the slices and what they found so far; run nothing")
    parser.add_argument("--record", type=Path, default=folder, help="folder of the results (default: %(default)s)")


def main(options, slices, key, after_each=lambda: None):
    """The exit status."""
    if options.only:
        slices = [part for part in slices if any(word in part.name for word in options.only)]
    record = Record(options.record, key)
    if options.list:
        for part in slices:
            print(f"{part.name}: {record.read(part.name).get('status', 'open')}, up to {part.seconds} s")
        return 0
    return 0 if run(slices, record, options.minutes, options.again, after_each) else 1
