"""Work that is done once and awaited by many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Generic, TypeVar

from batch_llm.model import ProviderError

from .shielded import shielded

T = TypeVar("T")


class FlightCancelledError(ProviderError):
    """The flight was cancelled, or its event loop ended; whoever still needs it begins another."""


class Flight(Generic[T]):
    """A coroutine that runs in the event loop that begins it; callers in any loop may wait for it.

    A caller that is cancelled gives up waiting; the flight goes on.

    Args:
        coroutine: what is done.
        name: the task's name.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], name: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # begun by a coroutine that is thrown away
            coroutine.close()
            raise
        self._outcome: Future[T] = Future()
        self._task = loop.create_task(self._run(coroutine), name=name)
        self._task.add_done_callback(lambda _: self._ended(coroutine))

    @property
    def done(self) -> bool:
        """Whether it has ended, if only because its event loop was closed."""
        if not self._outcome.done() and self._task.get_loop().is_closed():
            self._give_up()
        return self._outcome.done()

    async def wait(self) -> T:
        """Wait for its end, and for what it gives.

        Raises:
            Exception: what it raised.
        """
        return await shielded(asyncio.wrap_future(self._outcome))

    def when_done(self, call: Callable[[Flight[T]], object]) -> None:
        """Have something called with it at its end."""
        self._task.add_done_callback(lambda _: call(self))

    def cancel(self) -> None:
        """Cancel it; those who wait get an error that may be tried again."""
        loop = self._task.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self, coroutine: Coroutine[Any, Any, T]) -> None:
        try:
            given = await coroutine
        except Exception as error:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(given)

    def _ended(self, coroutine: Coroutine[Any, Any, T]) -> None:
        if not self._outcome.done():  # cancelled, perhaps before it began
            coroutine.close()
            self._give_up()

    def _give_up(self) -> None:
        with suppress(InvalidStateError):  # it has just ended after all
            self._outcome.set_exception(FlightCancelledError("it was cancelled; try again"))
