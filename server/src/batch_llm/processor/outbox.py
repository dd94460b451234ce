"""Results on their way out of a batch: numbered, in order, bounded together with the items under way."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from batch_llm.model import AnyResult

T = TypeVar("T")

OUTBOX_ITEMS = 1024
OUTBOX_BYTES = 64 * 1024 * 1024


class Outbox(ABC, Generic[T]):
    """Holds results until they are taken, each as a `T`; items under way have their places reserved.

    Args:
        ordered: results in the order of submission instead of completion.
        max_items: results that may wait to be taken, those under way included.
        max_bytes: bytes that these may hold; one item may exceed it.
        released: results that went out in an earlier life of the batch; numbers go on after it.
    """

    def __init__(
        self,
        *,
        ordered: bool = False,
        max_items: int = OUTBOX_ITEMS,
        max_bytes: int = OUTBOX_BYTES,
        released: int = 0,
    ) -> None:
        self.sequence = released
        """Of the last result that was ready to be taken."""
        self.on_room: Callable[[], None] = lambda: None
        """Called when results were taken."""
        self._ordered = ordered
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._numbered = released
        self._taken = released
        self._under_way = 0
        self._bytes = 0
        self._ready: deque[tuple[T, int]] = deque()
        self._held_back: dict[int, tuple[T, int]] = {}
        self._news: asyncio.Future[None] | None = None
        self._ended = False
        self._loop = asyncio.get_running_loop()

    # -- in ----------------------------------------------------------------------------------------------------------

    def has_room(self, index: int) -> bool:
        """Whether the result of the item at this index would have room."""
        if self._ordered and index == self.sequence and not self._ready:
            return True  # the next one in line must never wait behind results that wait for it
        if self._bytes >= self._max_bytes:
            return False
        return index < self._taken + self._max_items if self._ordered else self._under_way < self._max_items

    def reserve(self, size: int) -> None:
        """Keep a place for the result of an item that starts, itself `size` bytes."""
        self._under_way += 1
        self._bytes += size

    @abstractmethod
    def put(self, result: AnyResult, reserved: int) -> None:
        """Take in the result of an item for which `reserved` bytes were kept; `number`, `swap` and `release` it."""

    def number(self, result: AnyResult) -> None:
        """Give a result its sequence."""
        if self._ordered:
            result.sequence = result.submission_index + 1
        else:
            self._numbered += 1
            result.sequence = self._numbered

    def swap(self, reserved: int, size: int) -> None:
        """Count a result's bytes in place of its item's."""
        self._bytes += size - reserved

    def release(self, sequence: int, thing: T, size: int) -> None:
        """Let a result be taken, in its turn."""
        if not self._ordered:
            self.sequence = sequence
            self._ready.append((thing, size))
        else:
            self._held_back[sequence] = (thing, size)
            while (following := self._held_back.pop(self.sequence + 1, None)) is not None:
                self.sequence += 1
                self._ready.append(following)
        self._tell()

    def end(self) -> None:
        """Say that nothing follows what is ready."""
        self._ended = True
        self._tell()

    # -- out ---------------------------------------------------------------------------------------------------------

    async def take(self, max_items: int) -> list[T]:
        """All results that are ready, up to `max_items`; waits for one. Empty: there are no more.

        One caller at a time.
        """
        while not self._ready:
            if self._ended:
                return []
            self._news = self._loop.create_future()
            await self._news
        return self.take_ready(max_items)

    def take_ready(self, max_items: int) -> list[T]:
        """What is ready, up to `max_items`."""
        ready = self._ready
        if len(ready) <= max_items:
            taken = list(ready)
            ready.clear()
        else:
            taken = [ready.popleft() for _ in range(max_items)]
        self._under_way -= len(taken)
        self._taken += len(taken)
        self._bytes -= sum(size for _, size in taken)
        self.on_room()
        return [thing for thing, _ in taken]

    @property
    def has_ready(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self._ready)

    @property
    def held_back(self) -> list[T]:
        """Results that wait for others before them."""
        return [thing for thing, _ in self._held_back.values()]

    def clear(self) -> None:
        """Drop all that is here, and end."""
        self._ready.clear()
        self._held_back.clear()
        self.end()

    def _tell(self) -> None:
        news = self._news
        if news is not None:
            self._news = None
            if not news.done():
                news.set_result(None)


class PlainOutbox(Outbox[AnyResult]):
    """Results as they are."""

    def put(self, result: AnyResult, reserved: int) -> None:
        """See `Outbox`."""
        size = byte_size(result.output) + byte_size(result.context)
        self.number(result)
        self.swap(reserved, size)
        self.release(result.sequence, result, size)


def byte_size(value: object) -> int:
    """What a text or bytes take; other things are their owner's."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    return len(value) if isinstance(value, bytes) else 0
