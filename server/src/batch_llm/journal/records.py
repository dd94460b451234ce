"""What writes come to, the same for every store: counters, fences, checksums."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never
from zlib import crc32

from .store import (
    BatchExistsError,
    BatchRecord,
    BatchState,
    Begin,
    Change,
    FencedError,
    Items,
    Registration,
    Results,
    Single,
    SingleExistsError,
    SingleRecord,
    Starts,
    StrategyExistsError,
    Write,
)

MOST_ITEMS = 2**32 - 1
"""In a batch; indexes and sequences are packed as 32 bits."""

_NO_TEXT = "\0"  # PostgreSQL's text cannot hold it, and a batch must be able to move


@dataclass(slots=True)
class Batch:
    """A batch within a transaction.

    Args:
        key: its number in the store.
        record: as it will be.
        starts: how many records of starts it has.
        changed: whether it is to be written.
    """

    key: int
    record: BatchRecord
    starts: int = 0
    changed: bool = False

    @property
    def row(self) -> tuple[Any, ...]:
        """Its columns, by the names in `BATCH_COLUMNS`."""
        record = self.record
        fields = (
            *(self.key, record.batch_id, record.opening, record.state.value, record.create_time, record.update_time),
            *(record.detach, record.items, record.results, record.failed, record.result),
            *(record.owner, record.fence, record.lease_until, self.starts),
        )
        return (*fields, crc32(repr(fields).encode()))

    @classmethod
    def of(cls, row: Sequence[Any]) -> tuple[Batch, bool]:
        """The batch of a row, and whether the row has its checksum."""
        key, batch_id, opening, state, created, updated, detach, items, results, failed, *rest = row
        result, owner, fence, lease_until, starts, _ = rest
        known = BatchState(state) if state in BatchState.__members__ else BatchState.OPEN
        record = BatchRecord(
            *(batch_id, bytes(opening), known, created, updated, bool(detach), items, results, failed),
            *(bytes(result), owner, fence, lease_until),
        )
        batch = cls(key, record, starts)
        return batch, state == known and batch.row[-1] == row[-1]


BATCH_COLUMNS = (
    *("key", "batch_id", "opening", "state", "create_time", "update_time", "detach", "items", "results", "failed"),
    *("result", "owner", "fence", "lease_until", "starts", "checksum"),
)


class Transaction:
    """Applies writes to the batches they are about, and collects the rows to add.

    Args:
        batches: those of the writes' ids that there are.
        singles: those of the writes' keys that there are.
        new_keys: numbers for new batches.
        now: the store's time.
    """

    def __init__(
        self, batches: dict[str, Batch], singles: Mapping[str, SingleRecord], new_keys: Iterator[int], now: float
    ) -> None:
        self.batches = batches
        self.singles: dict[str, SingleRecord] = {}
        self.items: list[tuple[int, int, int, int, bytes]] = []
        """key, first index, count, checksum, payload"""
        self.results: list[tuple[int, int, int, int, bytes, bytes]] = []
        """key, highest sequence, failed, checksum, sequences and indexes, payload"""
        self.registrations: dict[str, Registration] = {}
        """By name; the store refuses those that it has."""
        self._started: dict[int, tuple[Batch, list[int]]] = {}
        self._known = singles
        self._new_keys = new_keys
        self._now = float(now)  # as it is read back, for the checksum

    @property
    def starts(self) -> list[tuple[int, int, int, bytes]]:
        """Key, number, checksum, indexes: one row for each batch, however many writes there were."""
        rows = []
        for key, (batch, indexes) in self._started.items():
            packed = pack(indexes)
            rows.append((key, batch.starts, checksum(b"s", key, batch.starts, 0, packed), packed))
        return rows

    def apply(self, writes: Sequence[Write]) -> Transaction:
        """Take the writes in, in order.

        Raises:
            RefusedError: one cannot be.
            ValueError: one contradicts what is there.
        """
        for write in writes:
            match write:
                case Results():
                    self._results(write)
                case Starts():
                    self._starts(write)
                case Items():
                    self._items(write)
                case Change():
                    self._change(write)
                case Begin():
                    self._begin(write)
                case Single():
                    self._single(write)
                case Registration():
                    self._register(write)
                case _:
                    assert_never(write)
        return self

    def _fenced(self, write: Items | Starts | Results | Change) -> Batch:
        batch = self.batches.get(write.batch_id)
        if batch is None or batch.record.fence != write.fence:
            raise FencedError(write)
        batch.changed = True
        return batch

    def _begin(self, write: Begin) -> None:
        if write.batch_id in self.batches:
            raise BatchExistsError(write)
        _check_text("batch_id", write.batch_id)
        record = BatchRecord(
            batch_id=write.batch_id,
            opening=write.opening,
            state=BatchState.OPEN,
            create_time=self._now,
            update_time=self._now,
            detach=write.detach,
            items=0,
            results=0,
            failed=0,
            result=b"",
            owner=write.owner,
            fence=write.fence,
            lease_until=self._now + write.lease_seconds,
        )
        self.batches[write.batch_id] = Batch(next(self._new_keys), record, changed=True)

    def _items(self, write: Items) -> None:
        batch = self._fenced(write)
        if write.first_index != batch.record.items or write.count < 1 or write.first_index + write.count > MOST_ITEMS:
            raise ValueError(
                f"batch {write.batch_id!r}: {write.count} items from {write.first_index} on do not follow the "
                f"{batch.record.items} that it has, or exceed the {MOST_ITEMS:,} that it may have"
            )
        batch.record = replace(batch.record, items=write.first_index + write.count, update_time=self._now)
        check = checksum(b"i", batch.key, write.first_index, write.count, write.payload)
        self.items.append((batch.key, write.first_index, write.count, check, write.payload))

    def _starts(self, write: Starts) -> None:
        batch = self._fenced(write)
        if not write.indexes:
            return
        if batch.key not in self._started:
            self._started[batch.key] = batch, []
            batch.starts += 1
        self._started[batch.key][1].extend(write.indexes)

    def _results(self, write: Results) -> None:
        batch = self._fenced(write)
        if not write.sequences or len(write.sequences) != len(write.indexes):
            raise ValueError(
                f"batch {write.batch_id!r}: {len(write.sequences)} sequences for {len(write.indexes)} results"
            )
        record = batch.record
        batch.record = replace(
            record,
            results=record.results + len(write.sequences),
            failed=record.failed + write.failed,
            update_time=self._now,
        )
        last = max(write.sequences)
        numbers = pack((*write.sequences, *write.indexes))
        check = checksum(b"r", batch.key, last, write.failed, numbers, write.payload)
        self.results.append((batch.key, last, write.failed, check, numbers, write.payload))

    def _change(self, write: Change) -> None:
        batch = self._fenced(write)
        given: dict[str, Any] = {
            name: value
            for name in ("state", "detach", "opening", "result", "owner")
            if (value := getattr(write, name)) is not None
        }
        if given.keys() - {"owner"}:
            given["update_time"] = self._now
        if write.lease_seconds is not None:
            given["lease_until"] = self._now + float(write.lease_seconds)
        batch.record = replace(batch.record, **given)

    def _single(self, write: Single) -> None:
        _check_text("idempotency_key", write.key)
        known = self.singles.get(write.key) or self._known.get(write.key)
        if known is not None and (
            known.result
            or known.digest != write.digest
            or _is_held(known.owner, known.lease_until, by_others_than=write.owner, now=self._now)
        ):
            raise SingleExistsError(write)
        lease_until = float(self._now + write.lease_seconds)
        self.singles[write.key] = SingleRecord(write.key, write.digest, write.result, write.owner, lease_until)

    def _register(self, write: Registration) -> None:
        _check_text("strategy", write.name)
        if write.name in self.registrations:
            raise StrategyExistsError(write)
        self.registrations[write.name] = write


def claimed(batch: Batch, owner: str, lease_seconds: float, now: float) -> bool:
    """Make it the owner's, with a new fence, if it may be."""
    record = batch.record
    if _is_held(record.owner, record.lease_until, by_others_than=owner, now=now):
        return False
    batch.record = replace(record, owner=owner, fence=record.fence + 1, lease_until=float(now + lease_seconds))
    return True


def batch_ids(writes: Sequence[Write]) -> list[str]:
    """The batches that writes are about, sorted, each once."""
    return sorted({write.batch_id for write in writes if not isinstance(write, Single | Registration)})


def single_keys(writes: Sequence[Write]) -> list[str]:
    """The idempotency keys that writes are about, sorted, each once."""
    return sorted({write.key for write in writes if isinstance(write, Single)})


def checksum(kind: bytes, key: int, number: int, count: int, *parts: bytes) -> int:
    """CRC-32 of a record and its place, so that one that was moved is noticed too."""
    value = crc32(struct.pack("<cqqq", kind, key, number, count))
    for part in parts:
        value = crc32(part, value)
    return value


def single_checksum(single: SingleRecord, written: float) -> int:
    """CRC-32 of a single and its time."""
    # Before version 3 of the schema they had no owner.
    lease = (single.owner, single.lease_until) if single.owner else ()
    return crc32(repr((single.key, single.digest, single.result, written, *lease)).encode())


def registration_row(registration: Registration) -> tuple[str, bytes, int]:
    """Name, spec, CRC-32 of both."""
    name, spec = registration.name, registration.spec
    return name, spec, crc32(repr((name, spec)).encode())


def pack(numbers: Sequence[int]) -> bytes:
    """Numbers below 2^32 as bytes."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def unpack(packed: bytes) -> tuple[int, ...]:
    """What `pack` packed."""
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def _is_held(owner: str, lease_until: float, *, by_others_than: str, now: float) -> bool:
    return owner not in {"", by_others_than} and lease_until > now


def _check_text(name: str, value: str) -> None:
    if _NO_TEXT in value:
        raise ValueError(f"{name} {value!r} holds a NUL character; leave it out")
