"""What a user can hang into a batch: middlewares, observers, callbacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from batch_llm.model import AnyResult, LLMWorkItem, ProcessingEvent

AnyItem = LLMWorkItem[Any, Any]
PostProcessor = Callable[[AnyResult], Awaitable[None] | None]
"""Called with each result, after the middlewares. A function that is not async runs on the event loop."""
ProgressCallback = Callable[[int, int, str], Awaitable[None] | None]
"""Called with items that ended, items in all, and the id of the last one. A function that is not async runs in a
thread; it should end by itself, since a thread cannot be stopped."""


class Middleware(Protocol):
    """Changes items before they run and results after.

    Each method is called once per item, not per attempt; before in the middlewares' order, after in reverse. What goes
    wrong in one is logged and the item goes on as if it had not been called.
    """

    async def before_process(self, item: AnyItem) -> AnyItem | None:
        """The item to run, or None to skip it: its result then says so, and no call is made.

        Prompt, strategy and context may change; the id that counts is the first one.
        """
        ...

    async def after_process(self, result: AnyResult) -> AnyResult:
        """The result to deliver; called for successes and failures, not for skipped items."""
        ...

    async def on_error(self, item: AnyItem, error: BaseException) -> AnyResult | None:
        """A result to deliver instead of the failure, or None.

        Called after the last attempt with what it raised. The tokens of the attempts stay counted. The first
        middleware with a result ends the search.
        """
        ...


class BaseMiddleware:
    """A middleware that changes nothing; override what you need."""

    async def before_process(self, item: AnyItem) -> AnyItem | None:
        """See `Middleware`."""
        return item

    async def after_process(self, result: AnyResult) -> AnyResult:
        """See `Middleware`."""
        return result

    async def on_error(self, item: AnyItem, error: BaseException) -> AnyResult | None:
        """See `Middleware`."""
        return None


class ProcessorObserver(Protocol):
    """Watches a batch.

    Each observer has a queue and a task of its own, so it holds up neither items nor other observers. One that falls
    behind loses its oldest events, which the log counts; one that hangs loses the event after a few seconds.
    """

    async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        """See an event; `ProcessingEvent` lists the data of each."""
        ...


class BaseObserver:
    """An observer that sees nothing; override `on_event`."""

    async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        """See `ProcessorObserver`."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a processor's user has hung in.

    Args:
        middlewares: in the order of `before_process`.
        observers: told what happens.
        post_processor: called with each result.
        progress_callback: told how far the batch is.
        progress_interval: items from one report to the next.
        progress_timeout: seconds that one report may take; None for no limit.
    """

    middlewares: Sequence[Middleware] = ()
    observers: Sequence[ProcessorObserver] = ()
    post_processor: PostProcessor | None = None
    progress_callback: ProgressCallback | None = None
    progress_interval: int = 10
    progress_timeout: float | None = 5.0

    def __bool__(self) -> bool:
        return bool(self.middlewares or self.observers or self.post_processor or self.progress_callback)
