"""This sidecar as one of a fleet that shares budgets."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from batch_llm.postgres import PostgresError

from .leased import LeasedBudget
from .ledger import GRANT_SECONDS
from .limits import QuotaLimits
from .store import BEAT_SECONDS, BudgetStore, Place

logger = logging.getLogger("batch_llm")

_RETRY_SECONDS = 1.0
_RETURN_SECONDS = 2 * BEAT_SECONDS  # by then all others are back, too, and have said what they used


class Holder(Protocol):
    """Has a leased budget."""

    def demand(self) -> tuple[int, int, int]:
        """Calls that wait for the budget alone, the tokens of the first, and those of each other."""

    def changing(self) -> AbstractContextManager[None]:
        """Hold the budget's lock; those who wait look at it afterwards."""


class Fleet:
    """Fetches grants for all budgets, in one task: one transaction for all that wait.

    When the store cannot be reached, each budget falls back to its slice, by the number of sidecars that were there
    when it was last reached. When it is back, the slices hold until all sidecars have had time to say what they used.

    Args:
        store: not open yet.
    """

    def __init__(self, store: BudgetStore) -> None:
        self.alone = True
        self._store = store
        self._member = uuid.uuid4().hex
        self._leases: list[tuple[str, LeasedBudget, Holder]] = []
        self._place = Place(1, 0)
        self._since = -math.inf
        self._back_at: float | None = None
        self._beat_at = 0.0
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def lease(self, name: str, limits: QuotaLimits, holder: Holder) -> LeasedBudget:
        """A budget of that name; one in each sidecar."""
        budget = LeasedBudget(limits, self)
        self._leases.append((name, budget, holder))
        return budget

    async def open(self) -> None:
        """Join the fleet.

        Raises:
            Exception: the store's, when it cannot be reached.
        """
        await self._store.open()
        self._place = await self._store.beat(self._member)
        self._loop = asyncio.get_running_loop()
        self._beat_at = self._loop.time() + BEAT_SECONDS
        self.alone = False
        self._task = self._loop.create_task(self._run(), name="batch-llm-budgets")

    async def close(self) -> None:
        """Leave the fleet."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(Exception):  # it is forgotten by itself, a little later
            await self._store.leave(self._member)
        await self._store.close()

    def wake(self) -> None:
        """See `Lessor`."""
        if self._loop is None:
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._woken.set()
        else:
            with suppress(RuntimeError):  # it has just been closed
                self._loop.call_soon_threadsafe(self._woken.set)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_at()):
                    await self._woken.wait()
            self._woken.clear()
            try:
                beat = loop.time() >= self._beat_at
                if beat:
                    await self._beat()
                await self._draw(everything=beat)
            except Exception as error:  # whatever it is, calls must go on
                self._lose(error)

    def _next_at(self) -> float:
        if self.alone:
            return self._beat_at
        return min((self._beat_at, *(budget.next_at for _, budget, _ in self._leases)))

    async def _beat(self) -> None:
        place = await self._store.beat(self._member)
        now = asyncio.get_running_loop().time()
        if not self.alone:
            self._place = place
            self._beat_at = now + BEAT_SECONDS
            return
        self._beat_at = now + _RETRY_SECONDS
        if self._back_at is None:
            self._back_at = now + _RETURN_SECONDS
        if now < self._back_at:
            self._fall_back(now)
            return
        logger.info("the store of shared budgets is back: the fleet shares them again, %d sidecars", place.members)
        self.alone, self._back_at, self._place = False, None, place
        for _, budget, holder in self._leases:
            with holder.changing():
                budget.restore()

    async def _draw(self, *, everything: bool) -> None:
        """Ask for the budgets that wait; or say everything that there is to say. Alone, ask for nothing."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self.alone and self._back_at is None:
            return
        asked = []
        for name, budget, holder in self._leases:
            if everything or budget.next_at <= now:
                with holder.changing():
                    ask = budget.ask(now, *holder.demand())
                if ask is not None:
                    asked.append((name, budget, holder, ask))
        if not asked:
            return
        try:
            answers = await self._store.draw(self._member, {name: ask for name, _, _, ask in asked})
        except BaseException:
            for _, budget, holder, ask in asked:
                with holder.changing():
                    budget.failed(loop.time(), ask)
            raise
        for name, budget, holder, _ in asked:
            with holder.changing():
                budget.answered(loop.time(), answers[name])
        if (seconds := loop.time() - now) > GRANT_SECONDS:
            raise TimeoutError(f"it took {seconds:.1f} s, longer than a grant is of use")

    def _lose(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        self._back_at = None
        self._beat_at = now + _RETRY_SECONDS
        if not self.alone:
            self.alone, self._since = True, now
            logger.warning(
                "the store of shared budgets cannot be reached: each falls back to this sidecar's slice, 1 of %d: %s",
                self._place.members,
                error,
                exc_info=not isinstance(error, PostgresError | TimeoutError),  # a bug
            )
        self._fall_back(now)

    def _fall_back(self, now: float) -> None:
        for _, budget, holder in self._leases:
            with holder.changing():
                budget.fall_back(now, self._since, self._place)
