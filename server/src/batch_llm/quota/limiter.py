"""How many calls may be in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from .fair_queue import FairQueue


class Limiter:
    """A semaphore whose free path costs no await; fair between tenants, see `FairQueue`.

    Args:
        limit: calls in flight at most; at least 1.
    """

    __slots__ = ("_queue", "in_use", "limit")

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"max_concurrency must be at least 1, got {limit}")
        self.limit = limit
        self.in_use = 0
        self._queue = FairQueue()

    def try_acquire(self) -> bool:
        """Take a place if one is free and nobody waits."""
        if self.in_use < self.limit and not self._queue:
            self.in_use += 1
            return True
        return False

    async def acquire(self, tenant: Hashable = None) -> None:
        """Take a place, waiting for one in turn."""
        if self.try_acquire():
            return
        waiter = self._queue.add(tenant)
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                self.release()  # the place was handed over in the moment of the cancellation
            raise

    def release(self) -> None:
        """Give a place back; the first who waits has it."""
        if self._queue:
            self._queue.admit_first()
        else:
            self.in_use -= 1
