"""Waiting in turn, fair between those who share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class Waiter:
    """One who waits, in an event loop of its own choice.

    Args:
        future: done when its turn has come.
        tokens: an estimate of its prompt's tokens.
    """

    __slots__ = ("future", "grant", "tokens")

    def __init__(self, future: asyncio.Future[None], tokens: int) -> None:
        self.future = future
        self.tokens = tokens
        self.grant: object = None
        """What it was given; still set when it was cancelled in that very moment, so that it can give it back."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits here any more."""
        return self.future.done() or self.future.get_loop().is_closed()

    def wake(self, grant: object) -> bool:
        """Give it what it waited for; False if its event loop has just been closed."""
        self.grant = grant
        loop = self.future.get_loop()
        try:
            if loop is asyncio.get_running_loop():
                self.future.set_result(None)
                return True
        except RuntimeError:
            pass  # called without an event loop, e.g. by a coroutine that is thrown away
        try:
            loop.call_soon_threadsafe(_set, self.future)
        except RuntimeError:
            return False
        return True


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():  # else it was cancelled meanwhile
        future.set_result(None)


class FairQueue:
    """Waiters, each of a tenant; tenants take turns, and those of one tenant come in the order they came.

    A batch is a tenant and so is a single call: a large batch does not starve a small one. Waiters may be in event
    loops of several threads; whoever uses the queue holds its owner's lock.
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
            while queue and queue[0].gone:
                queue.popleft()
            if queue:
                return queue[0]
            self._turns.popleft()
            del self._queues[tenant]
        return None

    def admit_first(self, grant: object) -> bool:
        """Let the first one go, with what it waited for; the turn passes to the next tenant. False: nobody waits."""
        while (waiter := self.first()) is not None:
            tenant = self._turns.popleft()
            queue = self._queues[tenant]
            queue.popleft()
            if queue:
                self._turns.append(tenant)
            else:
                del self._queues[tenant]
            if waiter.wake(grant):
                return True
        return False

    def __len__(self) -> int:
        """Who waits, and some that gave up."""
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._turns) and self.first() is not None
