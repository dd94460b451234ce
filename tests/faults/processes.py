"""Processes under a test's control: started, watched, and ended by their id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

DEADLINE_SECONDS = 60.0
REPO = Path(__file__).parents[2]

T = TypeVar("T")


def until(what: str, look: Callable[[], T], seconds: float = DEADLINE_SECONDS) -> T:
    """Look until there is something; a failure after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)
    return found


class Process:
    """A Python program of ours; what it says goes to a file.

    Args:
        arguments: of the interpreter.
        log: where its output goes.
        environment: on top of ours.
    """

    def __init__(self, arguments: Sequence[object], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            )

    @property
    def code(self) -> int | None:
        """How it ended; None: it runs."""
        return self._process.poll()

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"runs after {seconds:g} s; it has said:\n{self.said}") from None

    def until_said(self, pattern: str) -> re.Match[str]:
        """Wait until it says so; it must not end before."""

        def look() -> re.Match[str] | None:
            ended = self.code  # before the log is read: what it says as it ends counts
            found = re.search(pattern, self.said)
            assert found or ended is None, f"ended with {ended} before {pattern!r}:\n{self.said}"
            return found

        return until(f"{pattern!r} in the log", look)
