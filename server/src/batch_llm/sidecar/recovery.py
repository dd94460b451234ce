"""What the journal says of a batch that is taken up again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from batch_llm.journal.store import BatchRecord, JournalStore
from batch_llm.model import BatchLLMError, BatchTotals, ErrorReason, Receipt
from batchllm.v1 import batch_service_pb2, work_pb2

from . import mapping

_DONE = 1


@dataclass(slots=True)
class Recovery:
    """A batch as far as it had come.

    Args:
        done: for each item 1 where it has a result; empty where there is nothing left to run.
        released: sequence up to which all results are there.
        beyond: results after that, which wait for others before them.
        maybe_billed: indexes of items that were begun and have no result.
        totals: sums over all results.
        account: what its context caches have cost it.
    """

    done: bytearray = field(default_factory=bytearray)
    released: int = 0
    beyond: list[work_pb2.WorkItemResult] = field(default_factory=list)
    maybe_billed: frozenset[int] = frozenset()
    totals: BatchTotals = field(default_factory=BatchTotals)
    account: Receipt = field(default_factory=Receipt)


def checkpoint(totals: BatchTotals, account: Receipt) -> bytes:
    """What `BatchRecord.result` holds until a batch has ended: its sums so far."""
    spent = account.dump()
    spent.pop("storage_until_expiry_nano_usd", None)  # a look ahead, of which only the last is true
    return json.dumps({"totals": totals.dump(), "account": spent}, separators=(",", ":")).encode()


async def recover(store: JournalStore, record: BatchRecord, *, ordered: bool) -> Recovery:
    """Read what is needed to go on with a batch that has not ended; a byte an item is held.

    Args:
        store: the journal.
        record: the batch, claimed.
        ordered: whether its results are in the order of submission.
    """
    recovery = Recovery(released=record.results)
    if record.result:
        sums = json.loads(record.result)
        recovery.totals = BatchTotals.load(sums["totals"])
        recovery.account = Receipt.load(sums["account"])
    counted = recovery.totals.total_items
    if counted == record.results == record.items:
        return recovery
    if ordered and counted != record.results:
        recovery.totals, counted = BatchTotals(), 0  # which ones were counted is not known
    done = bytearray(record.items)
    async for results in store.results(record.batch_id):
        for index in results.indexes:
            done[index] = _DONE
        if counted < record.results and max(results.sequences) > counted:
            for message in batch_service_pb2.WorkItemResults.FromString(results.payload).results:
                if message.sequence > counted:
                    recovery.totals.add(mapping.counted_result(message))
    recovery.maybe_billed = await _begun(store, record.batch_id, done)
    if record.results < record.items:
        recovery.done = done
    if ordered:
        recovery.released = len(done) if (first := done.find(0)) < 0 else first
        recovery.beyond = await _beyond(store, record.batch_id, recovery.released)
    return recovery


async def replay(
    store: JournalStore, batch_id: str, after: int, to: int
) -> AsyncIterator[list[work_pb2.WorkItemResult]]:
    """Results of a sequence above `after` up to `to`, in its order."""
    following = after + 1
    early: dict[int, work_pb2.WorkItemResult] = {}
    if following > to:
        return
    stored = store.results(batch_id, after)
    async with aclosing(stored):  # type: ignore[type-var]
        async for results in stored:
            for message in batch_service_pb2.WorkItemResults.FromString(results.payload).results:
                if following <= message.sequence <= to:
                    message.replayed = True
                    early[message.sequence] = message
            ready = []
            while following in early:
                ready.append(early.pop(following))
                following += 1
            yield ready
            if following > to:
                return
    if await store.get(batch_id) is None:
        raise BatchLLMError(
            f"batch {batch_id!r} was erased while its results were read",
            reason=ErrorReason.BATCH_NOT_FOUND,
            metadata={"batch_id": batch_id},
        )
    raise RuntimeError(f"result {following} of batch {batch_id!r} is not in the journal")


async def _begun(store: JournalStore, batch_id: str, done: bytearray) -> frozenset[int]:
    begun: set[int] = set()
    async for indexes in store.starts(batch_id):
        begun.update([index for index in indexes if not done[index]])
    return frozenset(begun)


async def _beyond(store: JournalStore, batch_id: str, released: int) -> list[work_pb2.WorkItemResult]:
    beyond = []
    async for results in store.results(batch_id, released):
        for message in batch_service_pb2.WorkItemResults.FromString(results.payload).results:
            if message.sequence > released:
                message.replayed = True
                beyond.append(message)
    return beyond
