"""The in-process face of the engine."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self

from batch_llm.executor import Executor, Work
from batch_llm.model import (
    BatchResult,
    ErrorClassifier,
    ExecutionPolicy,
    LLMWorkItem,
    ProcessingEvent,
    ProcessingStats,
    ProcessorConfig,
    Receipt,
    TContext,
    TOutput,
    WorkItemResult,
    checks,
)
from batch_llm.quota import ExponentialBackoffStrategy, QuotaUser, RateLimitStrategy
from batch_llm.shared import SharedStrategy, shared_for
from batch_llm.sync import Flight

from .batch_run import BatchRun, no_stats
from .dry_run import dry_run
from .hooked import ItemWork
from .hooks import Hooks, Middleware, PostProcessor, ProcessorObserver, ProgressCallback
from .session import Runner

_TAKE_AT_ONCE = 1024


class ParallelBatchProcessor(Generic[TOutput, TContext]):
    """Runs work items in parallel, in this process.

    Strategies that items share are prepared once and cleaned up when the processor, and every other that uses them,
    has been closed. A processor can be used for one batch after another, one at a time; each starts with clean
    figures.

        async with ParallelBatchProcessor(config=ProcessorConfig(max_workers=5)) as processor:
            await processor.add_work(LLMWorkItem(item_id="1", strategy=strategy, prompt="…"))
            result = await processor.process_all()

    What goes wrong in a hook is logged and never changes an item's result. A middleware or post-processor is waited for
    90 seconds at most, meanwhile its item keeps one of the workers; one that ran out of its time three times in a row
    is not called again in that batch.

    Args:
        config: settings.
        post_processor: called once with each result, after the middlewares; async or not.
        progress_callback: called with (items that ended, items in all, id of the last) every `progress_interval` items
            and at the end; async or not.
        middlewares: change items before they run and results after.
        observers: are told what happens.
        error_classifier: says what an exception means.
        rate_limit_strategy: decides how long to pause after a rate limit; by default what `config.rate_limit` says.
        max_workers: instead of `config`: items in flight at most.
        timeout_per_item: instead of `config`: seconds for one attempt.

    Raises:
        ValueError: `config` is given together with `max_workers` or `timeout_per_item`, or one of them makes no sense.
    """

    def __init__(
        self,
        config: ProcessorConfig | None = None,
        *,
        post_processor: PostProcessor | None = None,
        progress_callback: ProgressCallback | None = None,
        middlewares: Sequence[Middleware] | None = None,
        observers: Sequence[ProcessorObserver] | None = None,
        error_classifier: ErrorClassifier | None = None,
        rate_limit_strategy: RateLimitStrategy | None = None,
        max_workers: int | None = None,
        timeout_per_item: float | None = None,
    ) -> None:
        if config is not None and (max_workers is not None or timeout_per_item is not None):
            raise ValueError("give either config or max_workers and timeout_per_item, not both")
        if config is not None:
            checks.instance("config", config, ProcessorConfig, "ProcessorConfig(max_workers=5) is one")
        defaults = ProcessorConfig()
        self._config = config or ProcessorConfig(
            max_workers=defaults.max_workers if max_workers is None else max_workers,
            timeout_per_item=defaults.timeout_per_item if timeout_per_item is None else timeout_per_item,
        )
        self._hooks = Hooks(
            middlewares=tuple(middlewares or ()),
            observers=tuple(observers or ()),
            post_processor=post_processor,
            progress_callback=progress_callback,
            progress_interval=self._config.progress_interval,
            progress_timeout=self._config.progress_callback_timeout,
        )
        self._quota_user = QuotaUser(
            self._config.max_requests_per_minute,
            rate_limit_strategy or ExponentialBackoffStrategy.of(self._config.rate_limit),
            self._emit,
        )
        self._executor = Executor(
            ExecutionPolicy(retry=self._config.retry, attempt_timeout=self._config.timeout_per_item),
            classifier=error_classifier,
            quota_user=self._quota_user,
        )
        self._runner: Runner = self._executor.run
        if self._config.dry_run:
            self._runner = partial(dry_run, time_limit=self._config.timeout_per_item)
        self._cleaning: Flight[None] | None = None
        self._pending: list[Work] = []
        self._leased: set[SharedStrategy] = set()
        self._run: BatchRun | None = None  # the one under way, else the last one
        self._reader: Callable[[], object | None] = _nobody

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
        work = Work(item.item_id, item.prompt, shared_for(item.strategy), item.context)
        if self._hooks.middlewares:
            work = ItemWork(work.item_id, work.prompt, work.shared, work.context, item=item)
        self._pending.append(work)

    async def process_all(self) -> BatchResult[TOutput, TContext]:
        """Run all queued items; their results in the order they finished, and the totals.

        Raises:
            RuntimeError: this processor runs a batch already, or was cleaned up before this one had ended.
        """
        results = [result async for result in self.process_stream()]
        return BatchResult(results, await self._run.session.account.close() if self._run is not None else Receipt())

    def process_stream(self) -> AsyncGenerator[WorkItemResult[TOutput, TContext], None]:
        """Run all queued items and yield results as they finish. Leaving the loop early cancels what is under way.

        Raises:
            RuntimeError: this processor runs a batch already, or was cleaned up before this one had ended.
        """
        stream = self._stream(lambda: reader())
        reader = weakref.ref(stream)
        return stream

    async def _stream(
        self, reader: Callable[[], object | None]
    ) -> AsyncGenerator[WorkItemResult[TOutput, TContext], None]:
        while self._run is not None and not self._run.ended.is_set():
            if self._reader() is not None:
                raise RuntimeError(
                    "this processor runs a batch already; let that end, close its stream with `aclose()`, "
                    "or use another processor"
                )
            await self._run.ended.wait()  # its stream was left early: the event loop is closing it
        works, self._pending = self._pending, []
        for work in works:
            self._lease(work.shared)
        self._reader = reader
        run = self._run = BatchRun(
            works,
            self._runner,
            self._hooks,
            max_workers=self._config.max_workers,
            lease=self._lease,
        )
        del works
        try:
            while taken := await run.session.take(_TAKE_AT_ONCE):
                for result in taken:
                    yield result
            if run.session.aborted:
                raise RuntimeError("the processor was cleaned up before its batch had ended; await the batch first")
        finally:
            await run.end()

    @property
    def receipt(self) -> Receipt:
        """What the batch under way has cost so far, else the last one; its share of context caches up to the last time
        that this was settled, at the latest when the batch ended."""
        return Receipt() if self._run is None else self._run.session.receipt

    async def get_stats(self) -> ProcessingStats:
        """Figures of the batch under way, else of the last one."""
        if self._run is not None:
            return self._run.stats()
        return no_stats(queued=len(self._pending))

    async def cleanup(self) -> None:
        """Cancel what is under way, let go of the strategies and clean up those that nobody else uses. Caches stay.

        Raises:
            ExceptionGroup: strategies' own cleanups that failed.
        """
        if self._cleaning is None or self._cleaning.done:
            # A flight, so that a cancelled caller leaves nothing running and nothing leased.
            self._cleaning = Flight(self._clean_up(), "batch-llm-cleanup")
        await self._cleaning.wait()

    async def _clean_up(self) -> None:
        # A loop over `process_stream` that was left early may not have ended its batch yet.
        if self._run is not None:
            await self._run.end()
        leased, self._leased = self._leased, set()
        outcomes = await asyncio.gather(
            *(shared.release(self._quota_user) for shared in leased), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if failures:
            raise ExceptionGroup("strategies failed to clean up", failures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.cleanup()

    def _emit(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        if self._run is not None and not self._run.ended.is_set():
            self._run.quota_event(event, data)

    def _lease(self, shared: SharedStrategy | None) -> None:
        if shared is not None and shared not in self._leased:
            self._leased.add(shared)
            shared.lease(self._quota_user)


def _nobody() -> None:
    return None
