"""Reads all of a journal and says what is damaged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from .store import BatchState, JournalStore


async def problems(store: JournalStore, states: Sequence[BatchState] = ()) -> AsyncIterator[str]:
    """Records that are missing or do not have their checksum, a line each: strategies, and of batches.

    Args:
        store: an open store.
        states: only batches of these; none: all.
    """
    found: list[str] = []
    await store.strategies(damaged=found.append)
    for problem in found:
        yield problem
    found.clear()
    async for batch_id in store.ids(states, found.append):
        for reader in (store.items, store.starts, store.results):
            async for _ in reader(batch_id, damaged=found.append):
                pass
        # A batch's own record is read by each reader; one line of it is enough.
        for problem in dict.fromkeys(found):
            yield problem
        found.clear()
    for problem in found:
        yield problem
