"""What a batch writes to the journal as it runs, and the results that may be sent because they are written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from batch_llm.journal.store import Change, Items, JournalStore, Results, Starts, Write
from batch_llm.journal.writer import JournalWriter
from batch_llm.model import AnyResult
from batch_llm.processor import Outbox
from batchllm.v1 import batch_service_pb2, work_pb2

from . import mapping

_RECORD_BYTES = 1024 * 1024


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(frozen=True, slots=True)
class Journal:
    """A store that is open, its writer, and the sidecar's name in it.

    Args:
        store: it.
        writer: to it.
        owner: this sidecar's name.
        lease_seconds: how long leases are.
        settled: cleared from when the store is lost until all who hold leases have had time to renew them; what others
            held is not taken over meanwhile.
    """

    store: JournalStore
    writer: JournalWriter
    owner: str
    lease_seconds: float
    settled: asyncio.Event = field(default_factory=_set)


class Ended(NamedTuple):
    """A result on its way through the journal, and its bytes."""

    message: work_pb2.WorkItemResult
    size: int


class BatchLog:
    """One batch's writes. All that happens in a turn of the event loop goes out together, results before starts.

    A worker that ends an item and begins the next has its result in the journal no later than that beginning, so the
    items that were begun and have no result are never more than there are workers.

    Args:
        journal: where to.
        batch_id: the batch.
        fence: from its `Begin` or `claim`.
        on_recorded: gets results that are durable, in the order they ended.
        on_failure: told once that the journal refuses this batch's writes, e.g. because another sidecar runs it.
        checkpoint: the batch's sums after all results that were given to `end`.
    """

    def __init__(
        self,
        journal: Journal,
        batch_id: str,
        fence: int,
        *,
        on_recorded: Callable[[Sequence[Ended]], None],
        on_failure: Callable[[BaseException], None],
        checkpoint: Callable[[], bytes],
    ) -> None:
        self.unwritten = 0
        """Results that are not durable yet."""
        self._writer = journal.writer
        self._durable = journal.store.durable
        self._batch_id = batch_id
        self._fence = fence
        self._on_recorded = on_recorded
        self._on_failure = on_failure
        self._checkpoint = checkpoint
        self._ended: list[Ended] = []
        self._starting: list[int] = []
        self._may_start: list[asyncio.Future[None]] = []
        self._scheduled = False
        self._failed = False
        self._loop = asyncio.get_running_loop()

    async def accept(self, first_index: int, count: int, payload: bytes) -> None:
        """Record items.

        Raises:
            StoreError: they are not recorded, the journal cannot be written now.
        """
        await self._writer.offer(Items(self._batch_id, self._fence, first_index, count, payload))

    async def begin(self, index: int) -> None:
        """Wait until it is recorded that a call for an item is begun, so that the batch is still this sidecar's."""
        if not self._durable:
            return
        may_start = self._loop.create_future()
        self._starting.append(index)
        self._may_start.append(may_start)
        self._soon()
        await may_start

    def end(self, ended: Ended) -> None:
        """Record a result."""
        self._ended.append(ended)
        self.unwritten += 1
        self._soon()

    async def change(self, **fields: Any) -> None:
        """Record a change of the batch, after all before; see `Change`.

        Raises:
            RefusedError: the batch is another sidecar's.
            StoreError: the journal was closed first.
        """
        self._flush()
        await self._writer.record(Change(self._batch_id, self._fence, **fields))

    def note(self, **fields: Any) -> None:
        """Have a change of the batch recorded, after all before; see `Change`."""
        self._flush()
        self._record(Change(self._batch_id, self._fence, **fields), lambda: None)

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._ended:
            ended, self._ended = self._ended, []
            for group in _groups(ended):
                self._record(self._results(group), partial(self._recorded, group))
            self._record(Change(self._batch_id, self._fence, result=self._checkpoint()), lambda: None)
        if self._starting:
            starts = Starts(self._batch_id, self._fence, tuple(self._starting))
            self._record(starts, partial(_let_start, self._may_start))
            self._starting, self._may_start = [], []

    def _results(self, group: list[Ended]) -> Results:
        messages = [ended.message for ended in group]
        return Results(
            self._batch_id,
            self._fence,
            tuple([message.sequence for message in messages]),
            tuple([message.submission_index for message in messages]),
            sum([message.HasField("error") for message in messages]),
            batch_service_pb2.WorkItemResults(results=messages).SerializeToString(),
        )

    def _recorded(self, group: list[Ended]) -> None:
        self.unwritten -= len(group)
        self._on_recorded(group)

    def _record(self, write: Write, then: Callable[[], None]) -> None:
        self._writer.record(write).add_done_callback(partial(self._done, then))

    def _done(self, then: Callable[[], None], written: asyncio.Future[None]) -> None:
        failure = written.exception()
        if failure is None:
            then()
        elif not self._failed:
            self._failed = True
            self._on_failure(failure)


class JournaledOutbox(Outbox[work_pb2.WorkItemResult]):
    """Results as messages, ready once they are in the journal.

    Args:
        ordered: see `Outbox`.
        released: see `Outbox`.
    """

    def __init__(self, *, ordered: bool, released: int) -> None:
        super().__init__(ordered=ordered, released=released)
        self.dropping = True
        """Nobody takes results: what is ready is dropped, the journal has it."""
        self.maybe_billed: frozenset[int] = frozenset()
        """Indexes of items that an earlier life may have had with their provider."""
        self.on_end: Callable[[Ended], None] = lambda ended: None

    def put(self, result: AnyResult, reserved: int) -> None:
        """See `Outbox`."""
        self.number(result)
        message = mapping.result_message(result)
        if result.submission_index in self.maybe_billed:
            message.maybe_billed = True
        size = message.ByteSize()
        self.swap(reserved, size)
        self.on_end(Ended(message, size))

    def recorded(self, group: Sequence[Ended]) -> None:
        """Let results that are in the journal be taken."""
        for ended in group:
            self.release(ended.message.sequence, ended.message, ended.size)
        if self.dropping:
            self.drop()

    def drop(self) -> None:
        """Drop what is ready."""
        self.dropping = True
        if self.has_ready:
            self.take_ready(self.sequence)


def _groups(ended: list[Ended]) -> list[list[Ended]]:
    """Groups for one record each, each about as large as `_RECORD_BYTES` at most; one result may exceed it."""
    groups: list[list[Ended]] = []
    size = _RECORD_BYTES + 1
    for one in ended:
        if size + one.size > _RECORD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += one.size
    return groups


def _let_start(may_start: Sequence[asyncio.Future[None]]) -> None:
    for one in may_start:
        if not one.done():
            one.set_result(None)
