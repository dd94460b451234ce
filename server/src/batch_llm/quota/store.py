"""Where budgets are kept that a fleet of sidecars shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from .ledger import Answer, Ask, Ledger

BEAT_SECONDS = 5.0
"""How often a sidecar says that it is there."""
ALIVE_SECONDS = 4 * BEAT_SECONDS
"""How long one that says nothing counts."""


@dataclass(frozen=True, slots=True)
class Place:
    """A sidecar's place in its fleet.

    Args:
        members: sidecars that are there.
        rank: how many of them come before it, in an order that all agree on.
    """

    members: int
    rank: int

    def slice(self, limit: int) -> int:
        """Its part of a limit; the parts of all sidecars add up to the limit, so some may be 0."""
        whole, rest = divmod(limit, self.members)
        return whole + (self.rank < rest)


class BudgetStore(Protocol):
    """Keeps budgets by name, and who shares them. Each method may fail, with any error, when it cannot be reached."""

    async def open(self) -> None:
        """Get ready."""

    async def beat(self, member: str) -> Place:
        """Say that a sidecar is there, at least every `BEAT_SECONDS`."""

    async def draw(self, member: str, asks: Mapping[str, Ask]) -> Mapping[str, Answer]:
        """Ask of each budget as by `Ledger.draw`, all or none. An error leaves open whether it was done."""

    async def leave(self, member: str) -> None:
        """Say that a sidecar is there no more."""

    async def close(self) -> None:
        """Let go of the store."""


class MemoryBudgets:
    """Budgets that only this process has, for tests.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ledgers: dict[str, Ledger] = {}
        self._seen: dict[str, float] = {}

    async def open(self) -> None:
        """See `BudgetStore`."""

    async def beat(self, member: str) -> Place:
        """See `BudgetStore`."""
        now = self._seen[member] = self._clock()
        alive = sorted(each for each, seen in self._seen.items() if seen > now - ALIVE_SECONDS)
        return Place(len(alive), alive.index(member))

    async def draw(self, member: str, asks: Mapping[str, Ask]) -> Mapping[str, Answer]:
        """See `BudgetStore`."""
        now = self._clock()
        return {key: self._ledgers.setdefault(key, Ledger()).draw(now, member, ask) for key, ask in asks.items()}

    async def leave(self, member: str) -> None:
        """See `BudgetStore`."""
        self._seen.pop(member, None)

    async def close(self) -> None:
        """See `BudgetStore`."""
