"""One batch of a processor, from its first item to its last result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from batch_llm.executor import Work
from batch_llm.model import ProcessingEvent, ProcessingStats
from batch_llm.shared import SharedStrategy

from .hooked import HookedRunner
from .hooks import Hooks
from .session import BatchSession, Runner


class BatchRun:
    """A session that is being fed, its hooks and its figures.

    Args:
        works: the items.
        runner: runs one item.
        hooks: what the user has hung in.
        max_workers: items in flight at most.
        lease: takes a strategy for as long as the processor needs it.
    """

    def __init__(
        self,
        works: list[Work],
        runner: Runner,
        hooks: Hooks,
        *,
        max_workers: int,
        lease: Callable[[SharedStrategy], None],
    ) -> None:
        self.ended = asyncio.Event()
        self._total = len(works)
        self._rate_limits = 0
        self._loop = asyncio.get_running_loop()
        self._start_time = time.time()
        self._started = self._loop.time()
        self._elapsed: float | None = None
        self._hooked = HookedRunner(runner, hooks, total=len(works), lease=lease) if hooks else None
        self.session = BatchSession(
            self._hooked.run if self._hooked else runner,
            max_concurrency=max_workers,
            worker=self._hooked.worker if self._hooked else None,
        )
        self.emit(ProcessingEvent.BATCH_STARTED, {"total": self._total, "max_workers": max_workers})
        self._feeder = asyncio.create_task(_feed(self.session, works), name="batch-llm-feed")

    def quota_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        """Pass an event of a quota scope on; the scope may be used from several event loops."""
        if asyncio.get_running_loop() is self._loop:
            self.emit(event, data)
        else:
            with suppress(RuntimeError):  # this batch's event loop has just been closed
                self._loop.call_soon_threadsafe(self.emit, event, data)

    def emit(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        """Count an event and tell the observers; returns at once."""
        if event is ProcessingEvent.RATE_LIMIT_HIT:
            self._rate_limits += 1
        if self._hooked:
            self._hooked.emit(event, data)

    async def end(self) -> None:
        """Cancel and join what is still under way. More than one may call it; each waits for the end."""
        try:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
            await self.session.abort()
        finally:
            # Even when this is cancelled: observers' tasks must not outlive the batch, nor the next batch wait for it.
            self._tell_end()
            try:
                if self._hooked:
                    await self._hooked.close()
            finally:
                self.ended.set()

    def _tell_end(self) -> None:
        if self._elapsed is not None:
            return
        self._elapsed = self._loop.time() - self._started
        totals = self.session.totals
        self.emit(
            ProcessingEvent.BATCH_COMPLETED,
            {
                "total": self._total,
                "succeeded": totals.succeeded,
                "failed": totals.failed,
                "duration": self._elapsed,
            },
        )

    def stats(self) -> ProcessingStats:
        """The figures so far."""
        totals = self.session.totals
        return ProcessingStats(
            total=self._total,
            processed=totals.total_items,
            succeeded=totals.succeeded,
            failed=totals.failed,
            start_time=self._start_time,
            elapsed_seconds=self._loop.time() - self._started if self._elapsed is None else self._elapsed,
            error_counts={str(reason): count for reason, count in totals.failures_by_reason.items()},
            rate_limit_count=self._rate_limits,
            total_input_tokens=totals.input_tokens,
            total_output_tokens=totals.output_tokens,
            total_tokens=totals.total_tokens,
            cached_input_tokens=totals.cached_tokens,
        )


async def _feed(session: BatchSession, works: list[Work]) -> None:
    await session.submit(works)
    session.close()


def no_stats(queued: int) -> ProcessingStats:
    """The figures before the first batch."""
    return ProcessingStats(
        total=queued,
        processed=0,
        succeeded=0,
        failed=0,
        start_time=None,
        elapsed_seconds=0.0,
        error_counts={},
        rate_limit_count=0,
        total_input_tokens=0,
        total_output_tokens=0,
        total_tokens=0,
        cached_input_tokens=0,
    )
