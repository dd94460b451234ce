"""A batch being run: a bounded inbox, workers, a bounded outbox."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any

from batch_llm.caching import CacheAccount
from batch_llm.executor import Work, failure, out_of_time
from batch_llm.model import AnyResult, BatchTotals, ErrorReason, Receipt
from batch_llm.shared import SharedStrategy

from .outbox import OUTBOX_BYTES, OUTBOX_ITEMS, Outbox, PlainOutbox, byte_size

logger = logging.getLogger("batch_llm")

INBOX_ITEMS = 1024
INBOX_BYTES = 32 * 1024 * 1024
# A worker whose items never wait for anything lets others run after so many.
_ITEMS_BEFORE_YIELD = 64
_index = attrgetter("index")

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
    while the outbox is full, results under way included, so memory follows what is in flight, not the batch. An item
    that waits ends at its deadline, or, while the outbox is full or the session paused, as soon as that is over.

    Args:
        runner: runs one item.
        max_concurrency: items in flight at most.
        ordered: results in the order of submission instead of completion.
        inbox_items: items that may wait to be run.
        inbox_bytes: bytes of prompts and contexts that may wait to be run; one item may exceed it.
        outbox_items: results that may wait to be taken, those under way included.
        outbox_bytes: bytes that these may hold; one item may exceed it.
        outbox: where results go instead; then they are not to be had from `take`, nor does `close` matter.
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
        outbox: Outbox[Any] | None = None,
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
        self._inbox_items = inbox_items
        self._inbox_bytes = inbox_bytes
        self._own = PlainOutbox(ordered=ordered, max_items=outbox_items, max_bytes=outbox_bytes)
        self._outbox: Outbox[Any] = outbox if outbox is not None else self._own
        self._outbox.on_room = self._on_room
        self._lanes: dict[SharedStrategy | None, _Lane] = {}
        self._runnable: deque[_Lane] = deque()
        self._parked: deque[_Lane] = deque()  # until results are taken
        self._waiting_bytes = 0
        self._timers: dict[int, asyncio.TimerHandle] = {}  # of items that wait and have a deadline, by their index
        self._overdue: list[tuple[int, Work, _Lane]] = []  # a heap; what was started after all is still in it
        self._submitted = 0
        self._workers: set[asyncio.Task[None]] = set()
        self._starting = False
        self._paused = False
        self._closed = False
        self._cut_short: str | None = None
        self._why = lambda: self._cut_short
        self._space: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    # -- in ----------------------------------------------------------------------------------------------------------

    async def submit(self, works: Iterable[Work], *, numbered: bool = False) -> None:
        """Take items in, in order; waits while the inbox is full. One caller at a time.

        Args:
            works: the items.
            numbered: they bring their index, growing from one to the next; else it is their number.
        """
        for work in works:
            while self._is_full(work):
                self._start_worker()
                self._space = self._loop.create_future()
                await self._space
            if not numbered:
                work.index = self._submitted
            work.accepted_at = self._loop.time()
            work.tenant = self
            work.account = self.account
            work.cut_short = self._why
            self._submitted += 1
            if self._cut_short is not None:
                self._cancel(work, self._cut_short)
                continue
            self.waiting += 1
            self._waiting_bytes += _size(work)
            lane = self._lane(work.shared)
            lane.queue.append(work)
            if work.deadline is not None:
                self._timers[work.index] = self._loop.call_at(work.deadline, self._on_deadline, work, lane)
            self._queue(lane)
        self._start_worker()

    def close(self) -> None:
        """Say that no more items come."""
        self._closed = True
        self._end_if_done()

    @property
    def submitted(self) -> int:
        """Items taken in so far."""
        return self._submitted

    # -- out ---------------------------------------------------------------------------------------------------------

    async def take(self, max_items: int) -> list[AnyResult]:
        """All results that are ready, up to `max_items`; waits for one. Empty: the batch has ended or was aborted.

        One caller at a time.
        """
        return await self._own.take(max_items)

    @property
    def has_ready(self) -> bool:
        """Whether `take` would not wait."""
        return self._own.has_ready

    @property
    def receipt(self) -> Receipt:
        """What the batch has cost so far, its share of context caches as it was last settled."""
        return self.totals.receipt + self.account.receipt

    async def settle(self) -> Receipt:
        """What the batch has cost in all. Call it at its end: its share of context caches is closed."""
        await self.account.close()
        return self.receipt

    # -- control -----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Start no more items, and end none at its deadline; those in flight go on."""
        self._paused = True

    def resume(self) -> None:
        """Start items again, and end those whose deadline has passed."""
        self._paused = False
        self._end_overdue()
        self._start_worker()

    def limit(self, max_concurrency: int) -> None:
        """Change how many items may be in flight at most; more than that finish, where there are more."""
        self._max_concurrency = max_concurrency
        for shared, lane in self._lanes.items():
            lane.limit = self._lane_limit(shared)
            self._queue(lane)
        self._start_worker()

    async def abort(self) -> None:
        """Cancel and join everything; what was not taken is gone. An ended batch is none the worse for it."""
        self.aborted = not self._is_done()
        self._runnable.clear()
        self._parked.clear()
        for lane in self._lanes.values():
            lane.queue.clear()  # else a call that swallows its cancellation would be followed by another
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._overdue.clear()
        self._outbox.end()
        for worker in self._workers:
            worker.cancel()
        try:
            if self._workers:
                await asyncio.wait(self._workers)
        finally:
            await self.account.close()
        # Tasks and futures refer back to the session, so what it holds would stay until the next garbage collection.
        self._lanes.clear()
        self._own.clear()

    def cut_short(self, message: str) -> None:
        """End every item that has not ended, under way, waiting or to come, with a result that says CANCELLED."""
        self._cut_short = message
        self._runnable.clear()
        self._parked.clear()
        for lane in self._lanes.values():
            lane.queued = False
            while lane.queue:
                work = lane.queue.popleft()
                self._leave_inbox(work)
                self._cancel(work, message)
        for worker in self._workers:
            worker.cancel()

    # -- workers -----------------------------------------------------------------------------------------------------

    def _lane(self, shared: SharedStrategy | None) -> _Lane:
        lane = self._lanes.get(shared)
        if lane is None:
            lane = self._lanes[shared] = _Lane(self._lane_limit(shared))
        return lane

    def _lane_limit(self, shared: SharedStrategy | None) -> int:
        return (shared.max_concurrency if shared is not None else None) or self._max_concurrency

    def _queue(self, lane: _Lane) -> None:
        """Put a lane in the rotation if it has an item that may be started."""
        if not lane.queued and lane.queue and lane.active < lane.limit:
            lane.queued = True
            self._runnable.append(lane)

    def _start_worker(self) -> None:
        """Start one more worker if there is work for it. Each worker starts the next, so few are started in vain."""
        if self._runnable and not self._starting and not self._paused and len(self._workers) < self._max_concurrency:
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
            size = _size(work)
            self._outbox.reserve(size)
            self._start_worker()
            try:
                result = await self._run(work)
            finally:
                lane.active -= 1
                self.in_flight -= 1
            self._queue(lane)
            self._deliver(result, size)
            done += 1
            if done % _ITEMS_BEFORE_YIELD == 0:
                await asyncio.sleep(0)

    def _next_lane(self) -> _Lane | None:
        """The next lane whose first item may be started; lanes before it are parked until results are taken."""
        # A limit that was lowered sends workers home.
        while self._runnable and not self._paused and self.in_flight < self._max_concurrency:
            lane = self._runnable.popleft()
            if lane.active >= lane.limit or not lane.queue:  # the latter when its items ended at their deadlines
                lane.queued = False
            elif self._outbox.has_room(lane.queue[0].index):
                return lane
            else:
                self._parked.append(lane)
        return None

    def _on_room(self) -> None:
        """Go on with what waited for results to be taken."""
        self._end_overdue()
        self._runnable.extend(self._parked)
        self._parked.clear()
        self._start_worker()
        if self._cut_short is not None:
            self._wake_submit()

    def _on_deadline(self, work: Work, lane: _Lane) -> None:
        heappush(self._overdue, (work.index, work, lane))
        self._end_overdue()

    def _end_overdue(self) -> None:
        """End items that wait though their deadline has passed, as far as there is room for their results."""
        # The lowest index first: where results are in order, it has room if any has.
        while self._overdue and not self._paused and self._outbox.has_room(self._overdue[0][0]):
            index, work, lane = heappop(self._overdue)
            if index in self._timers:
                del lane.queue[bisect_left(lane.queue, index, key=_index)]
                self._leave_inbox(work)
                self._end(out_of_time(work))

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

    def _is_full(self, work: Work) -> bool:
        if self._cut_short is not None:
            return not self._outbox.has_room(work.index)
        return self.waiting >= self._inbox_items or (self.waiting > 0 and self._waiting_bytes >= self._inbox_bytes)

    def _leave_inbox(self, work: Work) -> None:
        self.waiting -= 1
        self._waiting_bytes -= _size(work)
        if work.deadline is not None:
            self._timers.pop(work.index).cancel()
        # Half empty before the reader is woken, so that it is not woken for every item.
        if self.waiting <= self._inbox_items // 2:
            self._wake_submit()

    def _wake_submit(self) -> None:
        space = self._space
        if space is not None:
            self._space = None
            if not space.done():
                space.set_result(None)

    def _cancel(self, work: Work, message: str) -> None:
        self._end(failure(work, ErrorReason.CANCELLED, message, retryable=True))

    def _end(self, result: AnyResult) -> None:
        """Deliver the result of an item that was not started."""
        self._outbox.reserve(0)
        self._deliver(result, 0)

    def _deliver(self, result: AnyResult, reserved: int) -> None:
        self.totals.add(result)
        self._outbox.put(result, reserved)
        if self._closed:
            self._end_if_done()

    def _is_done(self) -> bool:
        return self._closed and self._own.sequence == self._submitted

    def _end_if_done(self) -> None:
        if self._is_done():
            self._own.end()


def engine_failure(work: Work, error: BaseException) -> AnyResult:
    """The result of an item on which the engine itself failed: a bug of ours must not cost the batch a result."""
    logger.exception("the engine failed on item %r", work.item_id, exc_info=error)
    result = failure(work, ErrorReason.INTERNAL, f"{type(error).__name__}: {error}")
    result.exception = error
    return result


def _size(work: Work) -> int:
    return byte_size(work.prompt) + byte_size(work.context)
