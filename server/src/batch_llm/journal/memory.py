"""A journal for those who want none: in memory, gone with the process."""

from __future__ import annotations

import time
from bisect import bisect_right, insort
from collections.abc import AsyncIterator, Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import count

from .records import Batch, Transaction, batch_ids, claimed, single_keys, unpack
from .store import (
    BatchRecord,
    BatchState,
    Damaged,
    Items,
    JournalStore,
    Registration,
    Results,
    SingleRecord,
    StrategyExistsError,
    Write,
)


@dataclass(slots=True)
class _Held:
    batch: Batch
    items: list[tuple[int, int, bytes]] = field(default_factory=list)
    results: dict[int, tuple[int, bytes, bytes]] = field(default_factory=dict)
    """By highest sequence."""
    order: list[int] = field(default_factory=list)
    starts: list[tuple[int, ...]] = field(default_factory=list)


class MemoryStore(JournalStore):
    """Keeps batches in memory.

    Args:
        clock: seconds since the epoch.
    """

    durable = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._keys = count(1)
        self._held: dict[str, _Held] = {}
        self._singles: dict[str, tuple[SingleRecord, float]] = {}
        self._strategies: dict[str, Registration] = {}

    async def open(self, *, inspect: bool = False) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def write(self, writes: Sequence[Write]) -> None:
        """See `JournalStore`."""
        now = self._clock()
        batches = {
            batch_id: copy(self._held[batch_id].batch) for batch_id in batch_ids(writes) if batch_id in self._held
        }
        singles = {key: self._singles[key][0] for key in single_keys(writes) if key in self._singles}
        done = Transaction(batches, singles, self._keys, now).apply(writes)
        by_key = {batch.key: self._held.get(batch_id) for batch_id, batch in batches.items()}
        places = {(key, last) for key, last, *_ in done.results}
        if len(places) < len(done.results) or any(
            (held := by_key[key]) and last in held.results for key, last in places
        ):
            raise ValueError("a result's sequence is there already")
        for name, registration in done.registrations.items():
            if name in self._strategies:
                raise StrategyExistsError(registration)
        stored: dict[int, _Held] = {}
        for batch_id, batch in batches.items():
            held = stored[batch.key] = self._held.setdefault(batch_id, _Held(batch))
            held.batch = batch
        for key, first_index, number, _, payload in done.items:
            stored[key].items.append((first_index, number, payload))
        for key, last, failed, _, numbers, payload in done.results:
            stored[key].results[last] = failed, numbers, payload
            insort(stored[key].order, last)
        for key, _, _, indexes in done.starts:
            stored[key].starts.append(unpack(indexes))
        for single in done.singles.values():
            self._singles[single.key] = single, now
        self._strategies.update(done.registrations)

    async def claim(self, batch_id: str, owner: str, lease_seconds: float) -> BatchRecord | None:
        """See `JournalStore`."""
        held = self._held.get(batch_id)
        if held is None or not claimed(held.batch, owner, lease_seconds, self._clock()):
            return None
        return held.batch.record

    async def get(self, batch_id: str) -> BatchRecord | None:
        """See `JournalStore`."""
        held = self._held.get(batch_id)
        return held.batch.record if held else None

    async def list(
        self, limit: int, after: str = "", states: Sequence[BatchState] = (), damaged: Damaged | None = None
    ) -> Sequence[BatchRecord]:
        """See `JournalStore`."""
        records = (self._held[batch_id].batch.record for batch_id in sorted(self._held) if batch_id > after)
        return [record for record in records if not states or record.state in states][:limit]

    async def resumable(self) -> Sequence[str]:
        """See `JournalStore`: none but those that were let go of."""
        now = self._clock()
        records = (held.batch.record for held in self._held.values())
        return sorted(
            record.batch_id
            for record in records
            if record.detach and not record.state.ended and (not record.owner or record.lease_until <= now)
        )

    async def now(self) -> float:
        """See `JournalStore`."""
        return self._clock()

    async def items(self, batch_id: str, from_index: int = 0, damaged: Damaged | None = None) -> AsyncIterator[Items]:
        """See `JournalStore`."""
        for first_index, number, payload in self._of(batch_id).items:
            if first_index + number > from_index:
                yield Items(batch_id, 0, first_index, number, payload)

    async def results(
        self, batch_id: str, after_sequence: int = 0, damaged: Damaged | None = None
    ) -> AsyncIterator[Results]:
        """See `JournalStore`."""
        held = self._of(batch_id)
        while (place := bisect_right(held.order, after_sequence)) < len(held.order):
            after_sequence = held.order[place]
            failed, numbers, payload = held.results[after_sequence]
            both = unpack(numbers)
            half = len(both) // 2
            yield Results(batch_id, 0, both[:half], both[half:], failed, payload)

    async def starts(self, batch_id: str, damaged: Damaged | None = None) -> AsyncIterator[Sequence[int]]:
        """See `JournalStore`."""
        for indexes in self._of(batch_id).starts:
            yield indexes

    async def single(self, key: str) -> SingleRecord | None:
        """See `JournalStore`."""
        single, _ = self._singles.get(key, (None, 0.0))
        return single

    async def strategies(
        self, names: Sequence[str] | None = None, damaged: Damaged | None = None
    ) -> Sequence[Registration]:
        """See `JournalStore`."""
        wanted = sorted(self._strategies if names is None else self._strategies.keys() & names)
        return [self._strategies[name] for name in wanted]

    async def unregister(self, name: str) -> bool:
        """See `JournalStore`."""
        return self._strategies.pop(name, None) is not None

    async def delete(self, batch_id: str) -> bool:
        """See `JournalStore`."""
        return self._held.pop(batch_id, None) is not None

    async def expire(self, seconds: float) -> int:
        """See `JournalStore`."""
        before = self._clock() - seconds
        self._singles = {key: (single, at) for key, (single, at) in self._singles.items() if at >= before}
        records = [held.batch.record for held in self._held.values()]
        over = [record.batch_id for record in records if record.state.ended and record.update_time < before]
        for batch_id in over:
            del self._held[batch_id]
        return len(over)

    def _of(self, batch_id: str) -> _Held:
        return self._held.get(batch_id) or _NONE


_NONE = _Held(Batch(0, BatchRecord("", b"", BatchState.OPEN, 0, 0, False, 0, 0, 0, b"", "", 0, 0)))
