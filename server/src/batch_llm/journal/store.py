"""What a journal's store keeps, and how it is asked. Every store passes tests/contract/test_journal_store.py."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from batch_llm.model import BatchLLMError, ErrorReason


class BatchState(StrEnum):
    """How far a batch is; the same names as `BatchState` in proto/batchllm/v1/batch_service.proto."""

    OPEN = "OPEN"
    """Items may still come."""
    SEALED = "SEALED"
    """The client has sent all items."""
    FINISHED = "FINISHED"
    """Every item has its result, and the totals are there."""
    CANCELLED = "CANCELLED"
    """Cancelled by CancelBatch: every item has its result."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self in ENDED


ENDED = frozenset({BatchState.FINISHED, BatchState.CANCELLED})


class Ask(StrEnum):
    """What a sidecar may ask of the one that owns a batch."""

    CANCEL = "CANCEL"
    """End it. Stands until the batch is erased, and for whoever takes it up."""
    YIELD = "YIELD"
    """Let go of it, for a client that has come to another sidecar; unless a client has it there. It goes with the next
    `claim`, and after `YIELD_SECONDS`."""


YIELD_SECONDS = 10.0
"""How long a batch that was asked for waits for its client to come back before others may go on with it."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as the store knows it.

    Args:
        batch_id: the client's name for it.
        opening: the `OpenBatch` message, serialized.
        state: how far it is.
        create_time: seconds since the epoch by the store's clock, as all times here.
        update_time: of the last write, those of owner and lease apart; retention counts from it.
        detach: whether it goes on without a client.
        items: items accepted.
        results: results recorded.
        failed: of these, failed ones.
        result: the `BatchResult` message, serialized; empty until the batch has ended.
        owner: the sidecar that runs it; empty: none.
        fence: grows with every `claim`; a write with another one is refused.
        lease_until: until when the owner has it.
        whole: whether it has its checksum; else its fields are as they could be read.
    """

    batch_id: str
    opening: bytes
    state: BatchState
    create_time: float
    update_time: float
    detach: bool
    items: int
    results: int
    failed: int
    result: bytes
    owner: str
    fence: int
    lease_until: float
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Begin:
    """A new batch, owned by the writer. Refused with `BatchExistsError` if there is one of that id.

    Args:
        batch_id: the client's name for it.
        opening: the `OpenBatch` message, serialized.
        detach: whether it goes on without a client.
        owner: the sidecar that writes this.
        lease_seconds: how long the owner has it from the write on, by the store's clock.
        fence: for the writes that follow. Drawn by lot, so that a sidecar that slept through the deletion of a batch
            cannot write into a new one of the same id.
    """

    batch_id: str
    opening: bytes
    detach: bool
    owner: str
    lease_seconds: float
    fence: int = field(default_factory=lambda: secrets.randbits(60))


@dataclass(frozen=True, slots=True)
class Items:
    """Accepted items: a `WorkItems` message as bytes, its items `first_index` and following.

    A batch's items are numbered from 0 without a gap: `first_index` is the count of those before.
    """

    batch_id: str
    fence: int
    first_index: int
    count: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Starts:
    """Items of which a call may begin once this is durable, by their index."""

    batch_id: str
    fence: int
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """Results: a `WorkItemResults` message as bytes.

    Args:
        batch_id: the batch.
        fence: the writer's.
        sequences: of its results, in the message's order; from 1, each once in a batch, in any order.
        indexes: their items' indexes, likewise.
        failed: how many failed.
        payload: the message.
    """

    batch_id: str
    fence: int
    sequences: tuple[int, ...]
    indexes: tuple[int, ...]
    failed: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a batch's record; what is None stays."""

    batch_id: str
    fence: int
    state: BatchState | None = None
    detach: bool | None = None
    opening: bytes | None = None
    result: bytes | None = None
    lease_seconds: float | None = None
    """From the write on, by the store's clock."""
    owner: str | None = None
    """Empty: let go of it."""


@dataclass(frozen=True, slots=True)
class Single:
    """A `ProcessItem` with an idempotency key: begun (`result` empty), or ended (the `WorkItemResult` as bytes).

    Refused with `SingleExistsError` if the key has a result, or another digest, or another owner whose lease has not
    ended.

    Args:
        key: the client's name for the call.
        digest: of the item.
        result: see above.
        owner: the sidecar that runs it.
        lease_seconds: how long the owner has it from the write on, by the store's clock; again and again while it runs.
    """

    key: str
    digest: bytes
    result: bytes
    owner: str = ""
    lease_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SingleRecord:
    """A `Single` as the store knows it; `lease_until`: until when the owner has it, by the store's clock."""

    key: str
    digest: bytes
    result: bytes
    owner: str
    lease_until: float


@dataclass(frozen=True, slots=True)
class Registration:
    """A strategy that a client registered: the `StrategySpec` message as it gave it, serialized.

    Refused with `StrategyExistsError` if there is one of that name.
    """

    name: str
    spec: bytes


Write = Begin | Items | Starts | Results | Change | Single | Registration


class StoreError(BatchLLMError):
    """The store cannot be written or read now; nothing of the transaction was kept. Trying again may succeed.

    Args:
        message: what is wrong and the way out.
        full: the disk or quota is full.
    """

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message, reason=ErrorReason.JOURNAL_FULL if full else ErrorReason.JOURNAL_UNAVAILABLE)
        self.full = full


class OutcomeUnknownError(StoreError):
    """The store went away in mid-commit. Call `write` with the same writes again: it finds out, or writes them."""


class RefusedError(BatchLLMError):
    """One write cannot be; nothing of the transaction was kept. Trying again fails again.

    Args:
        message: why.
        reason: what to branch on.
        write: the one that was refused.
        metadata: see `BatchLLMError`.
    """

    def __init__(self, message: str, *, reason: ErrorReason, write: Write, metadata: dict[str, str]) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.write = write


class FencedError(RefusedError):
    """Another sidecar has taken the batch over, or it was erased; the writer must stop running it."""

    def __init__(self, write: Items | Starts | Results | Change) -> None:
        super().__init__(
            f"batch {write.batch_id!r} was taken over by another sidecar, or erased",
            reason=ErrorReason.BATCH_IN_USE,
            write=write,
            metadata={"batch_id": write.batch_id},
        )
        self.batch_id = write.batch_id


class BatchExistsError(RefusedError):
    """There is a batch of that id; `claim` it."""

    def __init__(self, write: Begin) -> None:
        super().__init__(
            f"batch {write.batch_id!r} exists",
            reason=ErrorReason.BATCH_IN_USE,
            write=write,
            metadata={"batch_id": write.batch_id},
        )
        self.batch_id = write.batch_id


class SingleExistsError(RefusedError):
    """The idempotency key has a result, stands for another item, or is run by another sidecar; `single` tells."""

    def __init__(self, write: Single) -> None:
        super().__init__(
            f"idempotency key {write.key!r} has a result already, stands for another item, or is run elsewhere",
            reason=ErrorReason.IDEMPOTENCY_CONFLICT,
            write=write,
            metadata={"idempotency_key": write.key},
        )
        self.key = write.key


class StrategyExistsError(RefusedError):
    """There is a strategy of that name; `strategies` tells."""

    def __init__(self, write: Registration) -> None:
        super().__init__(
            f"strategy {write.name!r} is registered already",
            reason=ErrorReason.STRATEGY_EXISTS,
            write=write,
            metadata={"strategy": write.name},
        )
        self.name = write.name


class DamagedError(BatchLLMError):
    """A record does not have its checksum, or the file is no journal; names what and the way on.

    Args:
        message: see above.
        batch_id: the batch whose records are damaged; None: that is not known, or they are none's.
    """

    def __init__(self, message: str, *, batch_id: str | None = None) -> None:
        metadata = {"error": "DamagedError"} | ({} if batch_id is None else {"batch_id": batch_id})
        super().__init__(message, reason=ErrorReason.INTERNAL, metadata=metadata)


PAGE_BATCHES = 100

Damaged = Callable[[str], None]
"""Told of each damaged record, in words; the reader goes on with what can be read."""


class JournalStore(ABC):
    """Keeps batches and registered strategies. Transactions are durable (synced) when `write` returns.

    Its clock decides when a lease has ended: the machine's for a store of one sidecar, the server's where several
    sidecars share it, so that their clocks need not agree.
    """

    durable: bool = True
    """Whether it outlives the process."""
    shared: bool = False
    """Whether several sidecars may use it at a time. One that is not shared keeps others out while it is open, and lets
    go of all batches when it is opened: whoever had them is dead."""

    @abstractmethod
    async def open(self, *, inspect: bool = False) -> None:
        """Open it: create or move the schema forward, notice damage.

        Args:
            inspect: only to read, also beside a running sidecar; damage is left for the reads to find.

        Raises:
            DamagedError: it is damaged beyond the tail of the last write, or of a newer schema.
            StoreError: it cannot be reached, or another sidecar has it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close it."""

    @abstractmethod
    async def write(self, writes: Sequence[Write]) -> None:
        """One durable transaction, in order.

        Raises:
            StoreError: nothing of it was kept; the same may be tried again.
            OutcomeUnknownError: try the very same again before anything else.
            RefusedError: nothing of it was kept; its `write` cannot be: FencedError, BatchExistsError,
                SingleExistsError, StrategyExistsError.
            DamagedError: nothing of it was kept; what is damaged is in the way of one write, or of all.
            ValueError: nothing of it was kept; a write contradicts what is there, which no sidecar should do.
        """

    @abstractmethod
    async def claim(self, batch_id: str, owner: str, lease_seconds: float) -> BatchRecord | None:
        """Become the owner of a batch that is nobody's, one's own, or whose lease has ended; None: another's, or none.

        The record has the new fence. A batch that has ended is claimed like any other.
        """

    @abstractmethod
    async def get(self, batch_id: str) -> BatchRecord | None:
        """A batch; None if there is none.

        Raises:
            DamagedError: its record does not have its checksum.
        """

    @abstractmethod
    async def list(
        self, limit: int, after: str = "", states: Sequence[BatchState] = (), damaged: Damaged | None = None
    ) -> Sequence[BatchRecord]:
        """Batches by id (by code point), those after `after`, of these states (none: all), up to `limit`.

        Raises:
            DamagedError: a record does not have its checksum, and `damaged` is None; with it, the record is there and
                not `whole`.
        """

    async def ids(self, states: Sequence[BatchState] = (), damaged: Damaged | None = None) -> AsyncIterator[str]:
        """Ids of all batches of these states (none: all), by id.

        Raises:
            DamagedError: as `list` does. With `damaged`, a batch whose record cannot be read is among them all the same
                if the store can tell that there is one; where its id is lost too, its name says so.
        """
        after = ""
        while page := await self.list(PAGE_BATCHES, after, states, damaged):
            for record in page:
                yield record.batch_id
            if page[-1].batch_id == after:
                break  # a damaged id does not sort as it reads
            after = page[-1].batch_id

    @abstractmethod
    async def resumable(self) -> Sequence[str]:
        """Ids of batches that have not ended and that nobody owns, or whose lease has ended: those that are to be
        cancelled, and detached ones that no client has asked for."""

    async def ask(self, batch_id: str, ask: Ask) -> None:
        """Leave word for the owner of a batch.

        Raises:
            RuntimeError: the store is not shared, so there is nobody to ask.
        """
        raise RuntimeError(f"a store that is not shared was to ask for {ask} of batch {batch_id!r}")

    async def asked(self, batch_ids: Sequence[str]) -> Mapping[str, Ask]:
        """Which of these batches something is asked of."""
        return {}

    async def refuse(self, batch_id: str) -> None:
        """Say no to a YIELD.

        Raises:
            RuntimeError: the store is not shared.
        """
        raise RuntimeError(f"a store that is not shared was to refuse batch {batch_id!r}")

    @abstractmethod
    async def now(self) -> float:
        """The store's clock, by which leases end: seconds since the epoch."""

    @abstractmethod
    def items(self, batch_id: str, from_index: int = 0, damaged: Damaged | None = None) -> AsyncIterator[Items]:
        """Records of accepted items in order, from the one that holds `from_index`; `fence` is 0.

        Raises:
            DamagedError: a record is missing or does not have its checksum, and `damaged` is None.
        """

    @abstractmethod
    def results(self, batch_id: str, after_sequence: int = 0, damaged: Damaged | None = None) -> AsyncIterator[Results]:
        """Records with results of a sequence above `after_sequence`, by their highest sequence; `fence` is 0.

        Raises:
            DamagedError: a record is missing or does not have its checksum, and `damaged` is None.
        """

    @abstractmethod
    def starts(self, batch_id: str, damaged: Damaged | None = None) -> AsyncIterator[Sequence[int]]:
        """Indexes of items that were begun, in the order of the writes.

        Raises:
            DamagedError: a record is missing or does not have its checksum, and `damaged` is None.
        """

    async def faults(self) -> Sequence[str]:
        """What is damaged of the store itself, beside its records."""
        return ()

    @abstractmethod
    async def single(self, key: str) -> SingleRecord | None:
        """A `ProcessItem` by its idempotency key; None if there is none."""

    @abstractmethod
    async def strategies(
        self, names: Sequence[str] | None = None, damaged: Damaged | None = None
    ) -> Sequence[Registration]:
        """Registered strategies of these names (None: all), by name.

        Raises:
            DamagedError: a record does not have its checksum, and `damaged` is None; with it, the record is left out.
        """

    @abstractmethod
    async def unregister(self, name: str) -> bool:
        """Erase a registered strategy, as `delete` does a batch; False: there is none."""

    @abstractmethod
    async def delete(self, batch_id: str) -> bool:
        """Erase a batch; False: there is none.

        SQLite: its bytes are overwritten and have left the file when this returns. PostgreSQL: its rows are gone; when
        their bytes leave the server's files, write-ahead log and backups is the server's business.
        """

    @abstractmethod
    async def expire(self, seconds: float) -> int:
        """Erase batches that ended, and singles that were written, longer ago than this; how many batches."""
