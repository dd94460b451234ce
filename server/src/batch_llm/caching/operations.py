"""Operations on a cache: one at a time in a process, within a time limit, and finished once they are begun."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from batch_llm.model import ErrorReason, ProviderError
from batch_llm.sync import Flight, Lock

T = TypeVar("T")

_LONGEST_SECONDS = 600.0  # for one operation


class Operations:
    """What is under way on one strategy's cache.

    Args:
        lock: the cache's in this process.
        what: the cache in words.
    """

    def __init__(self, lock: Lock, what: str) -> None:
        self._lock = lock
        self._what = what
        self._flights: set[Flight[Any]] = set()

    async def alone(self, operation: Callable[[], Awaitable[T]], name: str) -> T:
        """Run one in its turn; once begun it finishes, though the caller is cancelled.

        Raises:
            ProviderError: PROVIDER_TIMEOUT: it took too long.
            Exception: what it raised.
        """

        async def run() -> T:
            async with self._lock:
                limit = asyncio.timeout(_LONGEST_SECONDS)
                try:
                    async with limit:
                        return await operation()
                except TimeoutError as error:
                    if not limit.expired():
                        raise  # the provider's own
                    raise ProviderError(
                        f"{self._what} took longer than {_LONGEST_SECONDS:g} s; try again",
                        reason=ErrorReason.PROVIDER_TIMEOUT,
                    ) from error

        return await self.start(run(), name).wait()

    def start(self, coroutine: Coroutine[Any, Any, T], name: str) -> Flight[T]:
        """Begin one at once, beside others."""
        flight = Flight(coroutine, name)
        self._flights.add(flight)
        flight.when_done(self._flights.discard)
        return flight

    async def join(self) -> None:
        """Wait for those that are under way."""
        for flight in list(self._flights):
            with suppress(Exception):  # whoever waited for it has been told
                await flight.wait()
