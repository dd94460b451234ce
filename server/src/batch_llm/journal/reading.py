"""Reading records back, page by page, the same for every store that has them in tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from .records import BATCH_COLUMNS, Batch, checksum, registration_row, single_checksum, unpack
from .store import (
    BatchRecord,
    BatchState,
    Damaged,
    DamagedError,
    Items,
    JournalStore,
    Registration,
    Results,
    SingleRecord,
)

PAGE_ROWS = 256
PAGE_BYTES = 2**20

AFTER_EXPORT = "restore a backup, or start with another journal.url and send again what is missing"
AFTER_CHECK = f"save what can be read with `batch-llm-sidecar journal export`, then {AFTER_EXPORT}"
WAY_ON = f"see what is damaged with `batch-llm-sidecar journal check`, {AFTER_CHECK}"

_LAST = 2**32 - 1
"""The highest number of a record."""

COLUMNS = {
    "items": "count, checksum, payload",
    "results": "failed, checksum, numbers, payload",
    "starts": "checksum, indexes",
}
"""Tables of records with their columns, after those that say whose and which a record is; the last is the largest."""

BATCH_SELECT = f"SELECT {', '.join(BATCH_COLUMNS)} FROM batches"
SINGLE_COLUMNS = "idempotency_key, digest, result, time, checksum, owner, lease_until"
Row = tuple[Any, ...]


class TableStore(JournalStore):
    """What a store of tables need not do itself: it gives rows, this checks them and makes records of them."""

    name: str
    """What to call it in messages: a path or an address without its password."""

    @abstractmethod
    async def _batch_row(self, batch_id: str) -> Row | None:
        """The row of a batch, by `BATCH_COLUMNS`."""

    @abstractmethod
    async def _batch_rows(
        self, limit: int, after: str, states: Sequence[BatchState], damaged: Damaged | None
    ) -> Sequence[Row]:
        """Rows of batches by id; with `damaged`, around what cannot be read if the store knows a way."""

    @abstractmethod
    async def _rows(self, table: str, key: int, start: int, *, backwards: bool = False) -> Sequence[Row]:
        """Rows (number, *COLUMNS) of a batch from `start` on, up to PAGE_ROWS and about PAGE_BYTES; none: the end.

        Raises:
            DamagedError: the store itself cannot read them.
        """

    @abstractmethod
    async def _strategy_rows(self, names: Sequence[str] | None, damaged: Damaged | None) -> Sequence[Row]:
        """Rows of registered strategies by name; none from a schema that had no place for them yet.

        With `damaged`, around what cannot be read if the store knows a way.

        Raises:
            DamagedError: the store itself cannot read them.
        """

    async def get(self, batch_id: str) -> BatchRecord | None:
        """See `JournalStore`."""
        row = await self._batch_row(batch_id)
        return self._checked(row, None).record if row else None

    async def list(
        self, limit: int, after: str = "", states: Sequence[BatchState] = (), damaged: Damaged | None = None
    ) -> Sequence[BatchRecord]:
        """See `JournalStore`."""
        return [self._checked(row, damaged).record for row in await self._batch_rows(limit, after, states, damaged)]

    async def items(self, batch_id: str, from_index: int = 0, damaged: Damaged | None = None) -> AsyncIterator[Items]:
        """See `JournalStore`."""
        if (batch := await self._find(batch_id, damaged)) is None:
            return
        start = following = 0
        if from_index and (floor := await self._rows("items", batch.key, from_index, backwards=True)):
            start = following = floor[0][0]
        async for number, count, check, payload in self._all("items", batch, start, damaged):
            payload = bytes(payload)
            if check != checksum(b"i", batch.key, number, count, payload):
                self._damaged(f"items from {number} on do not have their checksum", damaged, batch_id)
                continue
            if number > following:
                self._damaged(f"items {following} to {number - 1} are missing", damaged, batch_id)
            following = number + count
            if following > from_index:
                yield Items(batch_id, 0, number, count, payload)
        if following < batch.record.items and from_index < batch.record.items:
            await self._missing(batch, f"items {following} to {batch.record.items - 1}", damaged)

    async def results(
        self, batch_id: str, after_sequence: int = 0, damaged: Damaged | None = None
    ) -> AsyncIterator[Results]:
        """See `JournalStore`."""
        if (batch := await self._find(batch_id, damaged)) is None:
            return
        seen = 0
        async for number, failed, check, numbers, payload in self._all("results", batch, after_sequence + 1, damaged):
            numbers, payload = bytes(numbers), bytes(payload)
            if check != checksum(b"r", batch.key, number, failed, numbers, payload):
                self._damaged(f"results to {number} do not have their checksum", damaged, batch_id)
                continue
            both = unpack(numbers)
            half = len(both) // 2
            seen += half
            yield Results(batch_id, 0, both[:half], both[half:], failed, payload)
        if not after_sequence and seen < batch.record.results:
            lost = batch.record.results - seen
            await self._missing(batch, f"{lost} of {batch.record.results} results", damaged)

    async def starts(self, batch_id: str, damaged: Damaged | None = None) -> AsyncIterator[Sequence[int]]:
        """See `JournalStore`."""
        if (batch := await self._find(batch_id, damaged)) is None:
            return
        seen = 0
        async for number, check, indexes in self._all("starts", batch, 0, damaged):
            indexes = bytes(indexes)
            if check != checksum(b"s", batch.key, number, 0, indexes):
                self._damaged(f"starts {number} do not have their checksum", damaged, batch_id)
                continue
            seen += 1
            yield unpack(indexes)
        if seen < batch.starts:
            await self._missing(batch, f"{batch.starts - seen} records of starts", damaged)

    async def strategies(
        self, names: Sequence[str] | None = None, damaged: Damaged | None = None
    ) -> Sequence[Registration]:
        """See `JournalStore`."""
        try:
            rows = await self._strategy_rows(names, damaged)
        except DamagedError as error:
            if damaged is None:
                raise
            damaged(f"strategies cannot be read: {without_way_on(error)}")
            return []
        found = []
        for name, spec, check in rows:
            registration = Registration(name, bytes(spec))
            if registration_row(registration)[-1] == check:
                found.append(registration)
            else:
                self._damaged(f"the record of strategy {name!r} does not have its checksum", damaged)
        return found

    async def _find(self, batch_id: str, damaged: Damaged | None) -> Batch | None:
        row = await self._batch_row(batch_id)
        return self._checked(row, damaged) if row else None

    def _checked(self, row: Row, damaged: Damaged | None) -> Batch:
        batch, whole = Batch.of(row)
        if not whole:
            what = "does not have its checksum" if row[-1] is not None else "cannot be read"
            self._damaged(f"its record {what}", damaged, batch.record.batch_id)
            batch.record = replace(batch.record, whole=False)
        return batch

    def _single(self, row: Row) -> SingleRecord:
        key, digest, result, written, check, owner, lease_until = row
        single = SingleRecord(key, bytes(digest), bytes(result), owner, lease_until)
        if check != single_checksum(single, written):
            self._damaged(f"the record of idempotency key {key!r} does not have its checksum", None)
        return single

    async def _missing(self, batch: Batch, what: str, damaged: Damaged | None) -> None:
        """Tell of damage, unless the batch was erased while it was read."""
        row = await self._batch_row(batch.record.batch_id)
        if row is not None and row[0] == batch.key:
            self._damaged(f"{what} are missing", damaged, batch.record.batch_id)

    def _damaged(self, what: str, damaged: Damaged | None, batch_id: str | None = None) -> None:
        if batch_id is not None:
            what = f"batch {batch_id!r}: {what}"
        if damaged is None:
            raise DamagedError(f"{self.name} is damaged: {what}; {WAY_ON}", batch_id=batch_id)
        damaged(what)

    async def _all(self, table: str, batch: Batch, start: int, damaged: Damaged | None) -> AsyncIterator[Row]:
        key, batch_id = batch.key, batch.record.batch_id
        while True:
            try:
                rows = await self._rows(table, key, start)
            except DamagedError as error:
                if damaged is None:
                    raise DamagedError(f"batch {batch_id!r}: {error}", batch_id=batch_id) from error
                beyond = await self._beyond(table, key, start)
                which = f"from {start} on" if beyond is None else f"{start} to {beyond - 1}"
                self._damaged(f"{table} {which} cannot be read: {without_way_on(error)}", damaged, batch_id)
                if beyond is None:
                    return
                start = beyond
                continue
            if not rows:
                return
            for row in rows:
                yield row
            start = rows[-1][0] + 1

    async def _beyond(self, table: str, key: int, start: int) -> int | None:
        """Where reading goes on behind `start`, from where it cannot; None: nowhere."""
        bad, step = start, 1
        good: int | None = None
        while good is None or good - bad > 1:
            probe = min(bad + step, _LAST) if good is None else (bad + good) // 2
            try:
                await self._rows(table, key, probe)
            except DamagedError:
                if probe == _LAST:
                    return None
                bad, step = probe, 2 * step
            else:
                good = probe
        return good


def without_way_on(error: DamagedError) -> str:
    """What it says is damaged, for those who are on that way."""
    return str(error).removesuffix(f"; {WAY_ON}")
