"""An emulator in a process of its own, for as long as it is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .handle import EmulatorError, GeminiEmulator


@contextmanager
def running_emulator(*arguments: str) -> Iterator[GeminiEmulator]:
    """Start the command on a free port of the loopback address, and stop it at the end.

    Args:
        arguments: further flags of `batch-llm-sidecar emulate-gemini`.

    Raises:
        EmulatorError: it did not start; it has said why on stderr.
    """
    command = [sys.executable, "-m", "batch_llm.sidecar.cli", "emulate-gemini", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own command
        assert process.stdout is not None  # noqa: S101 -- it is a pipe
        try:
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            if found is None:
                raise EmulatorError(f"the emulator did not start: it ended with {process.wait()}")
            yield GeminiEmulator(found[0])
        finally:
            process.terminate()
