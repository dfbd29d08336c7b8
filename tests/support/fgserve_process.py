"""A running fgserve and what it says, for tests and scripts. Needs Python alone."""

import re
import subprocess
import threading
import time


class FgserveProcess:
    """`url` ends without a slash; `log` holds the lines of standard error so far."""

    def __init__(self, command, environment, wait_s):
        self.process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
        self.log = []
        self.ready = threading.Event()
        self.url = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.ready.wait(wait_s) or self.url is None:
            self.kill()
            raise RuntimeError("fgserve did not start:\n" + "".join(self.log))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"ready\s+(https?://\S+)/v1", line):
                self.url = found[1]
                self.ready.set()
        self.ready.set()

    def wait_for_line(self, pattern, seconds=30):
        """The first line of the log that the pattern is found in, as a match."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.log):
                if found := re.search(pattern, line):
                    return found
            time.sleep(0.02)
        raise AssertionError(f"no line like {pattern} in:\n{''.join(self.log)}")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(5)
