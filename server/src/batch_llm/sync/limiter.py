"""How many calls may be in flight."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable

from batch_llm.model import checks

from .fair_queue import FairQueue


class Limiter:
    """A semaphore whose free path costs no await; fair between tenants, see `FairQueue`.

    It may be used from event loops in several threads.

    Args:
        limit: calls in flight at most; at least 1.

    Raises:
        ValueError: it is no whole number of at least 1.
    """

    __slots__ = ("_mutex", "_queue", "in_use", "limit")

    def __init__(self, limit: int) -> None:
        checks.whole("max_concurrency", limit, "leave it out for no limit", least=1)
        self.limit = limit
        self.in_use = 0
        self._queue = FairQueue()
        self._mutex = threading.Lock()

    def try_acquire(self) -> bool:
        """Take a place if one is free and nobody waits."""
        with self._mutex:
            return self._take()

    async def acquire(self, tenant: Hashable = None) -> None:
        """Take a place, waiting for one in turn."""
        with self._mutex:
            if self._take():
                return
            waiter = self._queue.add(tenant)
        try:
            await waiter.future
        except (asyncio.CancelledError, GeneratorExit):  # the latter when it is thrown away with its event loop
            with self._mutex:
                if waiter.grant is not None:
                    self._leave()
            raise

    def release(self) -> None:
        """Give a place back; the first who waits has it."""
        with self._mutex:
            self._leave()

    def _take(self) -> bool:
        if self.in_use < self.limit and not self._queue:
            self.in_use += 1
            return True
        return False

    def _leave(self) -> None:
        if not self._queue.admit_first(self):
            self.in_use -= 1
