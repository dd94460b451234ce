"""Calling a user's code so that neither its errors nor its slowness reach the items."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from batch_llm.sync.bounded import HungError, bounded, end, timed

logger = logging.getLogger("batch_llm")

T = TypeVar("T")

# Far more than a batch makes between two turns of the event loop: who keeps up misses nothing.
FEED_CALLS = 16_384
CLOSE_SECONDS = 5.0
_HANGS = 3


class Guard:
    """Calls a user's code; what goes wrong there is logged and stays there.

    Code that ran out of its time three times in a row hangs for good, in all likelihood: it is not called again.

    Args:
        name: whose calls these are, for the log.
        time_limit: seconds for one call; None for no limit.
        kinds: what it may give.
        run: how it is called.
    """

    def __init__(
        self,
        name: str,
        time_limit: float | None,
        kinds: type | tuple[type, ...] = object,
        *,
        run: Callable[..., Awaitable[Any]] = bounded,
    ) -> None:
        self._run = run
        self._name = name
        self._time_limit = time_limit
        self._kinds = kinds
        self._hung = 0

    async def __call__(self, call: Callable[..., Awaitable[Any]], *arguments: Any, default: T) -> T:
        """What the call gives, or `default` if it fails, takes too long or gives something else.

        Args:
            call: the user's code.
            arguments: what it is called with.
            default: what to go on with when it fails.

        Raises:
            CancelledError: the caller is being cancelled; a cancellation from within the call is its failure.
        """
        if self._hung >= _HANGS:
            return default
        try:
            answer = await self._run(self._name, self._time_limit, call, *arguments)
            self._count(hung=False)
            if isinstance(answer, self._kinds):
                return cast("T", answer)  # what `kinds` says
            logger.error("%s gave a %s; going on without it", self._name, type(answer).__name__)
        except Exception as error:
            logger.exception("%s failed; going on without it", self._name)
            self._count(hung=isinstance(error, HungError))
        return default

    def _count(self, *, hung: bool) -> None:
        if self._hung >= _HANGS:
            return  # whatever becomes of calls that were under way: it is not called again
        self._hung = self._hung + 1 if hung else 0
        if self._hung == _HANGS:
            logger.error("%s hung %d times in a row and is not called again", self._name, _HANGS)


class Feed:
    """Calls one hook with what it is offered, in order, from a task of its own.

    Args:
        name: whose feed it is, for the log.
        call: the hook.
        time_limit: seconds that one call may take; None for no limit.
        capacity: calls that may wait; the oldest give way.
    """

    def __init__(
        self,
        name: str,
        call: Callable[..., Awaitable[None]],
        *,
        time_limit: float | None,
        capacity: int = FEED_CALLS,
    ) -> None:
        self._name = name
        self._call = call
        self._guard = Guard(name, time_limit, run=timed)  # the feed's task is theirs: what hangs there hangs alone
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._capacity = capacity
        self._dropped = 0
        self._closing = False
        self._news: asyncio.Future[None] | None = None
        self._running = self._run()
        self._task = asyncio.create_task(self._running, name=f"batch-llm-{name}")

    def offer(self, *arguments: Any) -> None:
        """Have the hook called with these; returns at once."""
        if len(self._waiting) >= self._capacity:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(arguments)
        self._tell()

    async def close(self) -> None:
        """Make the calls that wait, for some seconds; the rest is dropped, and the log says how many."""
        self._closing = True
        self._tell()
        try:
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
        finally:
            await end(self._name, self._task, self._running.close)
            lost, self._dropped = self._dropped + len(self._waiting), 0
            self._waiting.clear()
            if lost:
                logger.warning("%s was too slow: %d of its calls were dropped", self._name, lost)

    async def _run(self) -> None:
        while True:
            while self._waiting:
                await self._guard(self._call, *self._waiting.popleft(), default=None)
            if self._closing:
                return
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Threaded:
    """A function, async or not, as an async one; one that is not runs in a thread, in one at a time.

    So a callback that hangs holds one of the event loop's threads and not, call after call, all of them.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        # Of an object with an async `__call__`, only that says so.
        self._is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self._thread: asyncio.Future[Any] | None = None

    async def __call__(self, *arguments: Any) -> None:
        """Call it, and wait for what it gives if that is to be waited for."""
        if self._is_async:
            await self._function(*arguments)
            return
        if self._thread is not None:
            await asyncio.wait([self._thread])
        self._thread = asyncio.get_running_loop().run_in_executor(None, self._function, *arguments)
        await asyncio.wait([self._thread])
        answer = self._thread.result()
        if inspect.isawaitable(answer):
            await answer
