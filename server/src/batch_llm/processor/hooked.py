"""Items of one batch with everything that hangs into it."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from types import NoneType
from typing import Any

from batch_llm.executor import Work, failure
from batch_llm.model import AnyResult, ErrorReason, LLMWorkItem, ProcessingEvent, WorkItemResult
from batch_llm.shared import SharedStrategy, shared_for

from .feed import Feed, Guard, Threaded
from .hooks import AnyItem, Hooks, Middleware, PostProcessor
from .session import Runner, engine_failure

# Middlewares and post-processors may well ask a database; an observer should only take note.
HOOK_SECONDS = 90.0
OBSERVER_SECONDS = 5.0
SKIPPED = "Skipped by middleware"

_worker_id: ContextVar[int] = ContextVar("batch_llm_worker_id", default=0)


@dataclass(slots=True)
class ItemWork(Work):
    """Work that carries its user's item, for middlewares."""

    item: AnyItem | None = None


class HookedRunner:
    """Runs the items of one batch through its hooks.

    Args:
        run: runs one item.
        hooks: what to call.
        total: items of the batch.
        lease: takes a strategy that a middleware has put in the place of another.
    """

    def __init__(self, run: Runner, hooks: Hooks, *, total: int, lease: Callable[[SharedStrategy], None]) -> None:
        self._run = run
        self._hooks = hooks
        self._total = total
        self._lease = lease
        self._ended = 0
        self._observers = [
            Feed(_name(observer, "on_event"), observer.on_event, time_limit=OBSERVER_SECONDS)
            for observer in hooks.observers
        ]
        self._before = _guarded(hooks.middlewares, "before_process", LLMWorkItem, NoneType)
        self._after = _guarded(hooks.middlewares[::-1], "after_process", WorkItemResult)
        self._on_error = _guarded(hooks.middlewares, "on_error", WorkItemResult, NoneType)
        self._post_process = Guard("post_processor", HOOK_SECONDS)
        callback = hooks.progress_callback
        self._progress = callback and Feed("progress_callback", Threaded(callback), time_limit=hooks.progress_timeout)
        self._new_worker_ids = itertools.count()
        self._free_worker_ids: list[int] = []
        self._loop = asyncio.get_running_loop()

    # -- events ------------------------------------------------------------------------------------------------------

    def emit(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        """Tell the observers; returns at once."""
        for feed in self._observers:
            feed.offer(event, data.copy())

    async def close(self) -> None:
        """Let observers and progress callback see what they have not yet seen."""
        feeds = [*self._observers, self._progress] if self._progress else self._observers
        await asyncio.gather(*(feed.close() for feed in feeds))

    async def worker(self, serve: Callable[[], Awaitable[None]]) -> None:
        """One of the batch's workers, from its start to its stop."""
        worker_id = heappop(self._free_worker_ids) if self._free_worker_ids else next(self._new_worker_ids)
        _worker_id.set(worker_id)
        self.emit(ProcessingEvent.WORKER_STARTED, {"worker_id": worker_id})
        try:
            await serve()
        finally:
            heappush(self._free_worker_ids, worker_id)
            self.emit(ProcessingEvent.WORKER_STOPPED, {"worker_id": worker_id})

    # -- items -------------------------------------------------------------------------------------------------------

    async def run(self, work: Work) -> AnyResult:
        """The item's one result, as its hooks leave it."""
        started = self._loop.time()
        about: dict[str, Any] = {"item_id": work.item_id, "worker_id": _worker_id.get()}
        self.emit(ProcessingEvent.ITEM_STARTED, about)
        result = await self._process(work)
        if self._observers:
            about["duration"] = self._loop.time() - started
            about["tokens"] = result.token_usage.get("total_tokens", 0)
            about["attempts"] = result.attempts
            if result.success:
                self.emit(ProcessingEvent.ITEM_COMPLETED, about)
            else:
                reason = str(result.reason or "UNSPECIFIED")
                error = result.exception
                about["error_type"] = type(error).__name__ if error is not None else reason
                about["reason"] = reason
                self.emit(ProcessingEvent.ITEM_FAILED, about)
        post_processor = self._hooks.post_processor
        if post_processor is not None:
            await self._post_process(_call, post_processor, result, default=None)
        self._ended += 1
        if self._progress and (self._ended % self._hooks.progress_interval == 0 or self._ended == self._total):
            self._progress.offer(self._ended, self._total, work.item_id)
        return result

    async def _process(self, work: Work) -> AnyResult:
        item = work.item if isinstance(work, ItemWork) else None
        if item is None:
            return await self._run_safely(work)
        for middleware, guard in self._before:
            changed: AnyItem | None = await guard(middleware.before_process, item, default=item)
            if changed is None:
                name = type(middleware).__name__
                return failure(work, ErrorReason.CANCELLED, SKIPPED, metadata={"middleware": name})
            item = changed
        self._change(work, item)
        result = await self._run_safely(work)
        if not result.success and result.exception is not None:
            result = await self._recover(item, result, result.exception)
        for middleware, guard in self._after:
            result = _in_place_of(result, await guard(middleware.after_process, result, default=result))
        return result

    async def _run_safely(self, work: Work) -> AnyResult:
        try:
            return await self._run(work)
        except Exception as error:
            return engine_failure(work, error)

    def _change(self, work: Work, item: AnyItem) -> None:
        """Run the item as the middlewares left it, under the id by which its user knows it."""
        work.prompt = item.prompt
        work.context = item.context
        shared = shared_for(item.strategy)
        if shared is not work.shared:
            self._lease(shared)
            work.shared = shared

    async def _recover(self, item: AnyItem, result: AnyResult, error: BaseException) -> AnyResult:
        for middleware, guard in self._on_error:
            instead: AnyResult | None = await guard(middleware.on_error, item, error, default=None)
            if instead is not None:
                return _in_place_of(result, instead)
        return result


async def _call(post_processor: PostProcessor, result: AnyResult) -> None:
    answer = post_processor(result)
    if inspect.isawaitable(answer):
        await answer


def _in_place_of(result: AnyResult, other: AnyResult) -> AnyResult:
    """Another result for the same item: its facts stay, and its tokens were spent whatever a middleware says."""
    if other is result:
        return result
    return replace(
        other,
        item_id=result.item_id,
        context=result.context if other.context is None else other.context,
        token_usage=other.token_usage or result.token_usage,
        reason=None if other.success else other.reason or result.reason,
        attempts=other.attempts or result.attempts,
        elapsed_seconds=other.elapsed_seconds or result.elapsed_seconds,
        strategy=result.strategy,
        model=other.model or result.model,
        cache_discount=result.cache_discount,
        submission_index=result.submission_index,
        exception=None if other.success else other.exception or result.exception,
        bill=result.receipt,
    )


def _guarded(middlewares: Sequence[Middleware], method: str, *kinds: type) -> list[tuple[Middleware, Guard]]:
    return [(middleware, Guard(_name(middleware, method), HOOK_SECONDS, kinds)) for middleware in middlewares]


def _name(hook: object, method: str) -> str:
    return f"{type(hook).__name__}.{method}"
