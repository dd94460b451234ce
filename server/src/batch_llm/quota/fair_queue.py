"""Waiting in turn, fair between those who share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class Waiter:
    """One who waits.

    Args:
        future: done when its turn has come.
        tokens: an estimate of its prompt's tokens.
    """

    __slots__ = ("future", "tokens")

    def __init__(self, future: asyncio.Future[None], tokens: int) -> None:
        self.future = future
        self.tokens = tokens


class FairQueue:
    """Waiters, each of a tenant; tenants take turns, and those of one tenant come in the order they came.

    A batch is a tenant and so is a single call: a large batch does not starve a small one.
    """

    __slots__ = ("_queues", "_turns")

    def __init__(self) -> None:
        self._queues: dict[Hashable, deque[Waiter]] = {}
        self._turns: deque[Hashable] = deque()

    def add(self, tenant: Hashable, tokens: int = 0) -> Waiter:
        """Wait in the running event loop: await `waiter.future`."""
        waiter = Waiter(asyncio.get_running_loop().create_future(), tokens)
        queue = self._queues.get(tenant)
        if queue is None:
            queue = self._queues[tenant] = deque()
            self._turns.append(tenant)
        queue.append(waiter)
        return waiter

    def first(self) -> Waiter | None:
        """Whose turn it is; those who gave up are passed over."""
        while self._turns:
            tenant = self._turns[0]
            queue = self._queues[tenant]
            while queue and queue[0].future.done():
                queue.popleft()
            if queue:
                return queue[0]
            self._turns.popleft()
            del self._queues[tenant]
        return None

    def admit_first(self) -> None:
        """Let the first one go; the turn passes to the next tenant."""
        waiter = self.first()
        if waiter is None:
            return
        tenant = self._turns.popleft()
        queue = self._queues[tenant]
        queue.popleft()
        if queue:
            self._turns.append(tenant)
        else:
            del self._queues[tenant]
        waiter.future.set_result(None)

    def __bool__(self) -> bool:
        return self.first() is not None
