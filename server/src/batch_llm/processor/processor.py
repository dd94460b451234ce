"""The in-process face of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, Self

from batch_llm.executor import Executor, Work
from batch_llm.model import (
    AnyResult,
    BatchResult,
    ErrorClassifier,
    ExecutionPolicy,
    LLMWorkItem,
    ProcessorConfig,
    TContext,
    TOutput,
)
from batch_llm.shared import SharedStrategy, shared_for

from .session import BatchSession

_TAKE_AT_ONCE = 1024


class ParallelBatchProcessor(Generic[TOutput, TContext]):
    """Runs work items in parallel, in this process.

    Strategies that items share are prepared once and cleaned up when the processor, and every other that uses them,
    has been closed. A processor can be used for one batch after another.

        async with ParallelBatchProcessor(config=ProcessorConfig(max_workers=5)) as processor:
            await processor.add_work(LLMWorkItem(item_id="1", strategy=strategy, prompt="…"))
            result = await processor.process_all()

    Args:
        config: settings.
        max_workers: instead of `config`: items in flight at most.
        timeout_per_item: instead of `config`: seconds for one attempt.
        error_classifier: says what an exception means.

    Raises:
        ValueError: `config` is given together with one of the other settings.
    """

    def __init__(
        self,
        config: ProcessorConfig | None = None,
        *,
        max_workers: int | None = None,
        timeout_per_item: float | None = None,
        error_classifier: ErrorClassifier | None = None,
    ) -> None:
        if config is not None and (max_workers is not None or timeout_per_item is not None):
            raise ValueError("give either config or max_workers and timeout_per_item, not both")
        defaults = ProcessorConfig()
        self._config = config or ProcessorConfig(
            max_workers=defaults.max_workers if max_workers is None else max_workers,
            timeout_per_item=defaults.timeout_per_item if timeout_per_item is None else timeout_per_item,
        )
        self._executor = Executor(
            ExecutionPolicy(retry=self._config.retry, attempt_timeout=self._config.timeout_per_item),
            classifier=error_classifier,
        )
        self._pending: list[Work] = []
        self._leased: set[SharedStrategy] = set()
        self._sessions: set[BatchSession] = set()

    async def add_work(self, item: LLMWorkItem[TOutput, TContext]) -> None:
        """Queue an item for the next `process_all` or `process_stream`.

        Raises:
            ValueError: `max_queue_size` items wait already.
        """
        limit = self._config.max_queue_size
        if limit and len(self._pending) >= limit:
            raise ValueError(
                f"max_queue_size is {limit} and so many items wait; process them first or raise max_queue_size"
            )
        self._pending.append(Work(item.item_id, item.prompt, shared_for(item.strategy), item.context))

    async def process_all(self) -> BatchResult[TOutput, TContext]:
        """Run all queued items; their results in the order they finished, and the totals."""
        return BatchResult([result async for result in self.process_stream()])

    async def process_stream(self) -> AsyncIterator[AnyResult]:
        """Run all queued items and yield results as they finish. Leaving the loop early cancels what is under way."""
        works, self._pending = self._pending, []
        for work in works:
            self._lease(work.shared)
        session = BatchSession(self._executor, max_concurrency=self._config.max_workers)
        self._sessions.add(session)
        feeder = asyncio.create_task(_feed(session, works), name="batch-llm-feed")
        try:
            while taken := await session.take(_TAKE_AT_ONCE):
                for result in taken:
                    yield result
        finally:
            feeder.cancel()
            await asyncio.wait([feeder])
            await session.abort()
            self._sessions.discard(session)

    async def cleanup(self) -> None:
        """Cancel what is under way, let go of the strategies and clean up those that nobody else uses. Caches stay.

        Raises:
            ExceptionGroup: strategies' own cleanups that failed.
        """
        # A loop over `process_stream` that was left early may not have ended its batch yet.
        for session in self._sessions:
            await session.abort()
        leased, self._leased = self._leased, set()
        outcomes = await asyncio.gather(*(shared.release() for shared in leased), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            raise ExceptionGroup("strategies failed to clean up", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.cleanup()

    def _lease(self, shared: SharedStrategy | None) -> None:
        if shared is not None and shared not in self._leased:
            self._leased.add(shared)
            shared.lease()


async def _feed(session: BatchSession, works: list[Work]) -> None:
    await session.submit(works)
    session.close()
