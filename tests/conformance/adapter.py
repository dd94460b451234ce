"""An adapter: a program that puts a client under the runner's command."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.rpc import error_details_pb2, status_pb2

from tests.faults.processes import DEADLINE_SECONDS, REPO

Answer = dict[str, Any]
SETS = ("client", "raw")
_SHOWN_CHARACTERS = 400


class AdapterError(AssertionError):
    """It did not do as it was told."""


class Adapter:
    """A running adapter.

    Args:
        command: the program and its arguments; it runs in the repository's root.
        log: where its stderr goes.
        verbose: print every line to and from it.
    """

    def __init__(self, command: Sequence[str], log: Path, *, verbose: bool = False) -> None:
        self._command = command
        self._log = log
        self._verbose = verbose
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Answer]] = {}
        self._next_id = 1
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=REPO
            )
        self._reader = threading.Thread(target=self._read, name="adapter", daemon=True)
        self._reader.start()
        try:
            self.name, self.sets = _greeting(self.ask({"do": "hello"}))
        except AdapterError:
            self.kill()
            raise

    def begin(self, command: dict[str, Any]) -> Future[Answer]:
        """Tell it something; its answer will be there some time."""
        future: Future[Answer] = Future()
        with self._lock:
            number, self._next_id = self._next_id, self._next_id + 1
            self._asked[number] = future
            line = json.dumps({"id": number, **command}, ensure_ascii=False)
            self._show("→", line)
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
            except OSError:
                self._asked.pop(number, None)
                future.set_exception(self._error("takes no more commands"))
        return future

    def ask(self, command: dict[str, Any], seconds: float = DEADLINE_SECONDS) -> Answer:
        """Tell it something and wait for the answer."""
        return self.wait(self.begin(command), command, seconds)

    def wait(self, answer: Future[Answer], command: dict[str, Any], seconds: float = DEADLINE_SECONDS) -> Answer:
        """An answer that was begun.

        Raises:
            AdapterError: there is none in time, or it is a `fault`.
        """
        try:
            return answer.result(seconds)
        except TimeoutError:
            raise self._error(f"has not answered within {seconds:g} s: {shortened(command)}") from None

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """End its input; it must end by itself.

        Raises:
            AdapterError: it does not, or not with code 0.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._error("goes on after the end of its input") from None
        self._reader.join(DEADLINE_SECONDS)
        if code != 0:
            raise self._error(f"ended with code {code}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        assert self._process.stdin is not None
        with suppress(OSError):  # what was not written yet cannot be any more
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._show("←", line.decode(errors="replace").rstrip())
                self._take(line)
        self._give_up("ended before it answered")

    def _give_up(self, words: str) -> None:
        """Fail all that was not answered."""
        with self._lock:
            asked, self._asked = self._asked, {}
        for future in asked.values():
            future.set_exception(self._error(words))

    def _take(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
            number = answer.pop("id")
        except (ValueError, KeyError, TypeError, AttributeError):
            number, answer = None, None
        with self._lock:
            future = self._asked.pop(number, None)
        if future is None:
            self._give_up(f"said what is no answer to anything: {shortened(line.decode(errors='replace'))}")
        elif "fault" in answer:
            future.set_exception(self._error(f"cannot: {answer['fault']}"))
        else:
            if "error" in answer:
                answer["error"] = _read_error(answer["error"])
            future.set_result(answer)

    def _error(self, words: str) -> AdapterError:
        said = self._log.read_text(errors="replace").strip()
        return AdapterError(f"the adapter {words}" + (f"; its stderr ends with:\n{said[-2000:]}" if said else ""))

    def _show(self, arrow: str, line: str) -> None:
        if self._verbose:
            print(arrow, shortened(line), flush=True)


def _greeting(answer: Answer) -> tuple[str, list[str]]:
    name, sets = answer.get("name"), answer.get("sets")
    if not isinstance(name, str) or not isinstance(sets, list) or not set(sets) <= set(SETS):
        raise AdapterError(f"hello must be answered with `name` and `sets`, some of {SETS}, not {answer}")
    return name, sets


def shortened(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}… ({len(text):,} characters)"


def _read_error(error: dict[str, Any]) -> dict[str, Any]:
    """An error with what generated code leaves in the status details."""
    details = error.pop("details", None)
    if details:
        status = status_pb2.Status.FromString(base64.b64decode(details))
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        for detail in status.details:
            if detail.Unpack(info):
                error["reason"], error["metadata"] = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                error["retry_after"] = retry.retry_delay.ToNanoseconds() / 1e9
    return error
