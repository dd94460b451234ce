"""The requests that came, for tests to count."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(slots=True)
class Record:
    """One request to the API.

    Args:
        number: from 1.
        time: when it came, by the emulator's clock.
        api: "developer" or "vertex".
        kind: what it asks for; "unknown" for a path that the emulator does not have.
        model: without `models/`, or "".
        cached_content: the name of the cache that it is about or uses, or "".
        display_name: of a cache that is created.
        key: the first digits of the SHA-256 of its key or token, or "".
        status: of the answer; None while it is being answered; 0 when the emulator hung up; 499 when the client did.
        usage: tokens of the answer, as the API reports them.
        rule: whether a rule acted on it.
        body: if bodies are kept.
    """

    number: int
    time: float
    api: str
    kind: str
    method: str
    path: str
    model: str = ""
    cached_content: str = ""
    display_name: str = ""
    key: str = ""
    status: int | None = None
    usage: dict[str, Any] | None = None
    rule: bool = False
    body: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As the control API shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


class RequestLog:
    """The newest requests, and the count of all."""

    def __init__(self, size: int) -> None:
        self._records: deque[Record] = deque(maxlen=size)
        self._arrived: Counter[str] = Counter()
        self._waiters: list[tuple[str | None, int, asyncio.Future[None]]] = []
        self._numbers = 0

    def begin(self, time: float, api: str, kind: str, method: str, path: str) -> Record:
        """Note that a request has come."""
        self._numbers += 1
        record = Record(self._numbers, time, api, kind, method, path)
        self._records.append(record)
        self._arrived[kind] += 1
        if self._waiters:
            for asked, count, waiter in self._waiters:
                if not waiter.done() and self.count(asked) >= count:
                    waiter.set_result(None)
            self._waiters = [entry for entry in self._waiters if not entry[2].done()]
        return record

    def count(self, kind: str | None = None) -> int:
        """Requests that came, of a kind or of all."""
        return self._arrived.total() if kind is None else self._arrived[kind]

    def counts(self) -> dict[str, int]:
        """Requests that came, by kind."""
        return dict(self._arrived)

    def records(self) -> list[Record]:
        """Those remembered, oldest first."""
        return list(self._records)

    async def wait(self, kind: str | None, count: int, timeout: float) -> bool:
        """Wait until so many have come; False: not within the seconds of `timeout`."""
        if self.count(kind) >= count:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((kind, count, waiter))
        try:
            await asyncio.wait_for(waiter, timeout)
        except TimeoutError:
            return False
        return True


@lru_cache(maxsize=1024)
def key_hash(key: str) -> str:
    """How the log names a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:12] if key else ""
