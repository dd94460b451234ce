"""A batch being run: a bounded inbox, workers, a bounded outbox."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from batch_llm.caching import CacheAccount
from batch_llm.executor import Work, failure
from batch_llm.model import AnyResult, BatchTotals, ErrorReason, Receipt
from batch_llm.shared import SharedStrategy

logger = logging.getLogger("batch_llm")

INBOX_ITEMS = 1024
INBOX_BYTES = 32 * 1024 * 1024
OUTBOX_ITEMS = 1024
OUTBOX_BYTES = 64 * 1024 * 1024
# A worker whose items never wait for anything lets others run after so many.
_ITEMS_BEFORE_YIELD = 64

Runner = Callable[[Work], Awaitable[AnyResult]]
"""Gives an item's one result, e.g. `Executor.run`."""


class _Lane:
    """The items of one strategy that wait, so that a slow strategy holds up no other."""

    __slots__ = ("active", "limit", "queue", "queued")

    def __init__(self, limit: int) -> None:
        self.queue: deque[Work] = deque()
        self.active = 0
        self.limit = limit
        self.queued = False


class BatchSession:
    """Runs the items of one batch.

    Items go in with `submit`, which waits while the inbox is full; results come out of `take`. Items are not started
    while the outbox is full, results under way included, so memory follows what is in flight, not the batch.

    Args:
        runner: runs one item.
        max_concurrency: items in flight at most.
        ordered: results in the order of submission instead of completion.
        inbox_items: items that may wait to be run.
        inbox_bytes: bytes of prompts and contexts that may wait to be run; one item may exceed it.
        outbox_items: results that may wait to be taken, those under way included.
        outbox_bytes: bytes that these may hold; one item may exceed it.
        worker: wraps a worker from its start to its stop.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_concurrency: int,
        ordered: bool = False,
        inbox_items: int = INBOX_ITEMS,
        inbox_bytes: int = INBOX_BYTES,
        outbox_items: int = OUTBOX_ITEMS,
        outbox_bytes: int = OUTBOX_BYTES,
        worker: Callable[[Callable[[], Awaitable[None]]], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self.totals = BatchTotals()
        self.account = CacheAccount()
        self.in_flight = 0
        self.waiting = 0
        self.aborted = False
        self._runner = runner
        self._wrap_worker = worker
        self._max_concurrency = max_concurrency
        self._ordered = ordered
        self._inbox_items = inbox_items
        self._inbox_bytes = inbox_bytes
        self._outbox_items = outbox_items
        self._outbox_bytes = outbox_bytes
        self._held_bytes = 0
        self._lanes: dict[SharedStrategy | None, _Lane] = {}
        self._runnable: deque[_Lane] = deque()
        self._parked: deque[_Lane] = deque()  # until results are taken
        self._waiting_bytes = 0
        self._submitted = 0
        self._started_not_taken = 0
        self._taken = 0
        self._sequence = 0
        self._ready: deque[AnyResult] = deque()
        self._held_back: dict[int, AnyResult] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._starting = False
        self._closed = False
        self._cut_short: str | None = None
        self._space: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    # -- in ----------------------------------------------------------------------------------------------------------

    async def submit(self, works: Iterable[Work]) -> None:
        """Take items in, in order; waits while the inbox is full. One caller at a time."""
        for work in works:
            while self.waiting >= self._inbox_items or (self.waiting and self._waiting_bytes >= self._inbox_bytes):
                self._start_worker()
                self._space = self._loop.create_future()
                await self._space
            work.index = self._submitted
            work.accepted_at = self._loop.time()
            work.tenant = self
            work.account = self.account
            self._submitted += 1
            if self._cut_short is not None:
                self._started_not_taken += 1
                self._deliver(failure(work, ErrorReason.CANCELLED, self._cut_short, retryable=True))
                continue
            self.waiting += 1
            self._waiting_bytes += _size(work)
            lane = self._lane(work.shared)
            lane.queue.append(work)
            self._queue(lane)
        self._start_worker()

    def close(self) -> None:
        """Say that no more items come."""
        self._closed = True
        self._tell()

    @property
    def submitted(self) -> int:
        """Items taken in so far."""
        return self._submitted

    # -- out ---------------------------------------------------------------------------------------------------------

    async def take(self, max_items: int) -> list[AnyResult]:
        """All results that are ready, up to `max_items`; waits for one. Empty: the batch has ended or was aborted.

        One caller at a time.
        """
        while not self._ready:
            if self.aborted or (self._closed and self._sequence == self._submitted):
                return []
            self._news = self._loop.create_future()
            await self._news
        ready = self._ready
        if len(ready) <= max_items:
            taken = list(ready)
            ready.clear()
        else:
            taken = [ready.popleft() for _ in range(max_items)]
        self._started_not_taken -= len(taken)
        self._held_bytes -= sum(map(_result_size, taken))
        self._taken += len(taken)
        self._runnable.extend(self._parked)
        self._parked.clear()
        self._start_worker()
        return taken

    @property
    def has_ready(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self._ready)

    @property
    def receipt(self) -> Receipt:
        """What the batch has cost so far, its share of context caches as it was last settled."""
        return self.totals.receipt + self.account.receipt

    def settle(self) -> Receipt:
        """What the batch has cost in all. Call it at its end: its share of context caches is closed."""
        self.account.close()
        return self.receipt

    async def abort(self) -> None:
        """Cancel and join everything; what was not taken is gone. An ended batch is none the worse for it."""
        self.aborted = not (self._closed and self._sequence == self._submitted)
        self._runnable.clear()
        self._parked.clear()
        for lane in self._lanes.values():
            lane.queue.clear()  # else a call that swallows its cancellation would be followed by another
        self._tell()
        for worker in self._workers:
            worker.cancel()
        try:
            if self._workers:
                await asyncio.wait(self._workers)
        finally:
            self.account.close()
        # Tasks and futures refer back to the session, so what it holds would stay until the next garbage collection.
        self._lanes.clear()
        self._ready.clear()
        self._held_back.clear()

    def cut_short(self, message: str) -> None:
        """End every item that has not ended, under way or waiting, with a result that says CANCELLED."""
        self._cut_short = message
        self._runnable.clear()
        self._parked.clear()
        for lane in self._lanes.values():
            lane.queued = False
            while lane.queue:
                work = lane.queue.popleft()
                self._leave_inbox(work)
                self._started_not_taken += 1
                self._deliver(failure(work, ErrorReason.CANCELLED, message, retryable=True))
        for worker in self._workers:
            worker.cancel()

    # -- workers -----------------------------------------------------------------------------------------------------

    def _lane(self, shared: SharedStrategy | None) -> _Lane:
        lane = self._lanes.get(shared)
        if lane is None:
            limit = (shared.max_concurrency if shared is not None else None) or self._max_concurrency
            lane = self._lanes[shared] = _Lane(limit)
        return lane

    def _queue(self, lane: _Lane) -> None:
        """Put a lane in the rotation if it has an item that may be started."""
        if not lane.queued and lane.queue and lane.active < lane.limit:
            lane.queued = True
            self._runnable.append(lane)

    def _start_worker(self) -> None:
        """Start one more worker if there is work for it. Each worker starts the next, so few are started in vain."""
        if self._runnable and not self._starting and len(self._workers) < self._max_concurrency:
            self._starting = True
            wrap = self._wrap_worker
            worker = self._loop.create_task(self._work() if wrap is None else wrap(self._work))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        self._starting = False
        done = 0
        while (lane := self._next_lane()) is not None:
            lane.queued = False
            work = lane.queue.popleft()
            lane.active += 1
            self._queue(lane)
            self._leave_inbox(work)
            self.in_flight += 1
            self._started_not_taken += 1
            size = _size(work)
            self._held_bytes += size
            self._start_worker()
            try:
                result = await self._run(work)
            finally:
                lane.active -= 1
                self.in_flight -= 1
            self._queue(lane)
            self._held_bytes -= size
            self._deliver(result)
            done += 1
            if done % _ITEMS_BEFORE_YIELD == 0:
                await asyncio.sleep(0)

    def _next_lane(self) -> _Lane | None:
        """The next lane whose first item may be started; lanes before it are parked until results are taken."""
        while self._runnable:
            lane = self._runnable.popleft()
            if self._has_room(lane.queue[0]):
                return lane
            self._parked.append(lane)
        return None

    def _has_room(self, work: Work) -> bool:
        """Whether the outbox has room for the item's result."""
        if self._ordered and work.index == self._sequence and not self._ready:
            return True  # the next one in line must never wait behind results that wait for it
        if self._held_bytes >= self._outbox_bytes:
            return False
        if self._ordered:
            return work.index < self._taken + self._outbox_items
        return self._started_not_taken < self._outbox_items

    async def _run(self, work: Work) -> AnyResult:
        try:
            return await self._runner(work)
        except asyncio.CancelledError as error:
            if self._cut_short is not None:
                return failure(work, ErrorReason.CANCELLED, self._cut_short, retryable=True)
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return engine_failure(work, error)  # raised by a user's code; the worker goes on
        except Exception as error:
            return engine_failure(work, error)

    def _leave_inbox(self, work: Work) -> None:
        self.waiting -= 1
        self._waiting_bytes -= _size(work)
        space = self._space
        # Half empty before the reader is woken, so that it is not woken for every item.
        if space is not None and self.waiting <= self._inbox_items // 2:
            self._space = None
            if not space.done():
                space.set_result(None)

    def _deliver(self, result: AnyResult) -> None:
        self.totals.add(result)
        self._held_bytes += _result_size(result)
        if not self._ordered:
            self._release(result)
        else:
            self._held_back[result.submission_index] = result
            while (following := self._held_back.pop(self._sequence, None)) is not None:
                self._release(following)
        self._tell()

    def _release(self, result: AnyResult) -> None:
        self._sequence += 1
        result.sequence = self._sequence
        self._ready.append(result)

    def _tell(self) -> None:
        news = self._news
        if news is not None:
            self._news = None
            if not news.done():
                news.set_result(None)


def engine_failure(work: Work, error: BaseException) -> AnyResult:
    """The result of an item on which the engine itself failed: a bug of ours must not cost the batch a result."""
    logger.exception("the engine failed on item %r", work.item_id, exc_info=error)
    result = failure(work, ErrorReason.INTERNAL, f"{type(error).__name__}: {error}")
    result.exception = error
    return result


def _size(work: Work) -> int:
    return _bytes(work.prompt) + _bytes(work.context)


def _result_size(result: AnyResult) -> int:
    return _bytes(result.output) + _bytes(result.context)


def _bytes(value: object) -> int:
    """What a text or bytes take; other things are their owner's."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    return len(value) if isinstance(value, bytes) else 0
