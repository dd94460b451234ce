"""What the pages of a damaged SQLite journal still tell."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from .reading import BATCH_SELECT, COLUMNS, Row, without_way_on
from .sqlite_files import explain
from .store import BatchState, DamagedError

# Keys and ids of batches from either of the places that have them, and keys of batches that have records in a table.
_BY_KEY = "SELECT key, batch_id FROM batches NOT INDEXED ORDER BY key {order}"
_BY_ID = "SELECT key, batch_id FROM batches INDEXED BY sqlite_autoindex_batches_1 ORDER BY batch_id {order}"
_OWNERS = """WITH RECURSIVE owners(key) AS (
  SELECT {most}(place) >> 32 FROM {table}
  UNION SELECT (SELECT {most}(place) >> 32 FROM {table} WHERE place {behind}) FROM owners WHERE key IS NOT NULL
) SELECT key FROM owners"""
_ERASING = "SELECT key FROM erasing ORDER BY key {order}"
_STRATEGIES = "SELECT name, spec, checksum FROM strategies NOT INDEXED ORDER BY rowid {order}"
_FORWARDS = {"order": "", "most": "min", "behind": "> key << 32 | 0xFFFFFFFF"}
_BACKWARDS = {"order": "DESC", "most": "max", "behind": "< key << 32"}


class Salvage:
    """Finds what can be read around the damage; call it from the thread of its connection.

    Args:
        db: the journal, open.
        path: its file.
    """

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._keys: dict[str, int] = {}

    def survey(self) -> list[str]:
        """Find all batches that any page still tells of; what cannot be read of the pages that tell."""
        faults: list[str] = []
        self._db.execute("BEGIN")
        try:
            found = {key: batch_id for key, batch_id in self._both_ways(faults, "batches", _BY_KEY) if key}
            for key, batch_id in self._both_ways(faults, "ids of batches", _BY_ID):
                if key:
                    found[key] = found.get(key) or batch_id
            for table in COLUMNS:
                for (key,) in self._both_ways(faults, table, _OWNERS, table=table):
                    if key:
                        found.setdefault(key, "")
            for (key,) in self._both_ways(faults, "erasing", _ERASING):
                found.pop(key, None)
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._keys = {}
        for key, batch_id in found.items():
            known = batch_id and batch_id not in self._keys
            self._keys[batch_id if known else f"(unreadable batch_id, key {key})"] = key
        return faults

    @property
    def ids(self) -> list[str]:
        """Those that the last survey found, in order."""
        return sorted(self._keys)

    def knows(self, batch_id: str) -> bool:
        """Whether it is one of these."""
        return batch_id in self._keys

    def batch(self, batch_id: str) -> Row | None:
        """The row of one of these; without a checksum if it cannot be read, None if it was erased or is not known."""
        key = self._keys.get(batch_id)
        if key is None:
            return None
        try:
            row: Row | None = self._db.execute(f"{BATCH_SELECT} WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            if not isinstance(explain(error, self._path), DamagedError):
                raise
            row = None
        else:
            if row is None:
                self.survey()
        if row is None and self._keys.get(batch_id) == key:
            row = (key, batch_id, b"", "", 0.0, 0.0, 0, 0, 0, 0, b"", "", 0, 0.0, 0, None)
        return row

    def batches(self, limit: int, after: str, states: Sequence[BatchState]) -> list[Row]:
        """Rows of batches by id; what has no checksum is of any state."""
        self.survey()
        found: list[Row] = []
        for batch_id in self.ids:
            row = self.batch(batch_id) if batch_id > after else None
            if row is not None and (not states or row[-1] is None or row[3] in states):
                found.append(row)
            if len(found) == limit:
                break
        return found

    def strategies(self) -> list[Row]:
        """Rows of registered strategies by name."""
        return sorted(self._both_ways([], "strategies", _STRATEGIES), key=itemgetter(0))

    def _both_ways(self, faults: list[str], what: str, ask: str, **values: str) -> list[Row]:
        """All rows; where one cannot be read, those before it and those behind it."""
        rows: list[Row] = []
        for way in (_FORWARDS, _BACKWARDS):
            try:
                rows.extend(each_row(self._db, ask.format(**way, **values)))
            except sqlite3.DatabaseError as error:
                fault = explain(error, self._path)
                if not isinstance(fault, DamagedError):
                    raise
                faults.append(f"not all {what} can be read: {without_way_on(fault)}")
            else:
                break
        return rows


def each_row(db: sqlite3.Connection, ask: str, values: Sequence[object] = ()) -> Iterator[Row]:
    """Rows up to the first that cannot be read."""
    seen = 0
    try:
        for row in db.execute(ask, values):
            seen += 1
            yield row
    except sqlite3.DatabaseError:
        # Python reads a row ahead; when that fails, it drops the one it has.
        yield from db.execute(f"{ask} LIMIT 1 OFFSET {seen}", values).fetchall()
        raise
