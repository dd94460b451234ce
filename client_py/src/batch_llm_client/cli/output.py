"""Where results go: stdout, a new file, or one that a run before has begun."""

import argparse
import io
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from batch_llm_client.cli.errors import UsageError
from batch_llm_client.cli.rows import STDIN

STDOUT: Final = "-"


class OutputError(UsageError):
    """Results cannot be written now; those that were not can be had again."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file for results.

    Args:
        file: it, written line by line: whoever reads along, or comes after a crash, finds whole results.
        name: for complaints.
        after: sequence of the last result in it.
        whole: bytes of whole lines in it that are to stay; None: all.
    """

    file: TextIO
    name: str
    after: int = 0
    whole: int | None = None

    def begin(self) -> None:
        """Cut off what is not to stay; once the batch is ours, for another run may be writing it, or none begin."""
        if self.whole is not None and stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):
            os.ftruncate(self.file.fileno(), self.whole)

    def write(self, line: str) -> None:
        """Write a line. OutputError: it may be there in part."""
        with _explained(self.name):
            self.file.write(line + "\n")


@contextmanager
def open_output(options: argparse.Namespace) -> Iterator[Output]:
    """Open what `--out` names, to be gone on with if `--resume` says so; what is in it stays until `begin`.

    UsageError: it cannot be opened. OutputError: the end of what was written may be lost.
    """
    if options.out == STDOUT:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
        yield Output(sys.stdout, "stdout")
        return
    path = Path(options.out)
    if options.file != STDIN and path.exists() and os.path.samefile(options.file, path):
        raise UsageError(f"--out {path} is the input itself: choose another file")
    after, whole = _recorded(path) if options.resume else (0, 0)
    try:
        file = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield Output(file, options.out, after, whole)
    finally:
        with _explained(options.out):
            file.close()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror}") from None


def _recorded(path: Path) -> tuple[int, int]:
    """Sequence of the last result in a file, and the bytes of its whole lines. UsageError: other things are in it."""
    sequence = whole = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # the run before was killed as it wrote this
                found = _sequence(line)
                if found != sequence + 1:
                    follows = "no result with a sequence" if found is None else f"sequence {found} after {sequence}"
                    raise UsageError(
                        f"{path}:{number}: {follows}: not what a run of one batch has written; "
                        "name its file with --out, or a new one to get all results again"
                    )
                sequence, whole = found, whole + len(line)
    except FileNotFoundError:
        pass  # killed before it wrote anything
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    return sequence, whole


def _sequence(line: bytes) -> int | None:
    try:
        sequence = json.loads(line)["sequence"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return sequence if isinstance(sequence, int) else None
