"""What the scripts of this folder share: named checks, one JSON line, an exit code."""

import json
import sys
import time


class Checks:
    """Runs named checks; one that raises has failed, the others still run."""

    def __init__(self, peer):
        self.peer = peer
        self.passed = []
        self.failed = {}

    def run(self, name, check, *arguments):
        try:
            check(*arguments)
        except Exception as error:  # Whatever goes wrong is the result.
            self.failed[name] = f"{type(error).__name__}: {error}"
        else:
            self.passed.append(name)

    def finish(self, **numbers):
        """Prints the result line and ends the process: 0 if all passed, else 1."""
        ok = not self.failed and bool(self.passed)
        line = {"peer": self.peer, "ok": ok, "passed": self.passed, "failed": self.failed}
        print(json.dumps(line | numbers), flush=True)
        sys.exit(0 if ok else 1)


def expect(condition, text):
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(text)


def equal(found, wanted, what):
    expect(found == wanted, f"{what}: {shorten(found)} instead of {shorten(wanted)}")


def shorten(value):
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def wait_until(what, holds, seconds=10.0):
    """Polls until `holds()`; raises after the deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain until {what}")
        time.sleep(0.005)
