"""Reads all of a journal and says what is damaged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from .store import BatchRecord, BatchState, Damaged, JournalStore

_PAGE = 100


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
    async for record in batches(store, states, found.append):
        for reader in (store.items, store.starts, store.results):
            async for _ in reader(record.batch_id, damaged=found.append):
                pass
        # A batch's own record is read by each reader; one line of it is enough.
        for problem in dict.fromkeys(found):
            yield problem
        found.clear()


async def batches(store: JournalStore, states: Sequence[BatchState], damaged: Damaged) -> AsyncIterator[BatchRecord]:
    """All batches of these states (none: all), by id."""
    after = ""
    while page := await store.list(_PAGE, after, states, damaged):
        for record in page:
            yield record
        if page[-1].batch_id == after:
            break  # a damaged id does not sort as it reads
        after = page[-1].batch_id
