"""The journal in one SQLite file."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import ParamSpec, TypeVar

from .check import problems
from .reading import (
    BATCH_SELECT,
    COLUMNS,
    PAGE_BYTES,
    PAGE_ROWS,
    SINGLE_COLUMNS,
    WAY_ON,
    Row,
    TableStore,
    without_way_on,
)
from .records import (
    BATCH_COLUMNS,
    Batch,
    Transaction,
    batch_ids,
    claimed,
    registration_row,
    single_checksum,
    single_keys,
)
from .salvage import Salvage, each_row
from .sqlite_files import Lock, check_log, check_presence, explain, text_of, typed
from .store import (
    ENDED,
    BatchRecord,
    BatchState,
    Damaged,
    DamagedError,
    SingleRecord,
    StoreError,
    StrategyExistsError,
    Write,
)

logger = logging.getLogger("batch_llm.journal")

P = ParamSpec("P")
R = TypeVar("R")

VERSION = 3
_STRATEGIES_SINCE = 2
_APPLICATION_ID = 0x624C4C4A  # "bLLJ": says that the file is a journal of ours
_APPLICATION_AT = 68  # in the file
_BUSY_SECONDS = 2.0
_SLICE_BYTES = 4 * 2**20
_SLICE_ROWS = 4096
_SLICE_PAGES = 1024

# `place` is the batch's key and the record's number within it, 32 bits each: a batch lies together and in order, and
# needs no second index. This is version 1.
_SCHEMA = """
CREATE TABLE batches (
  key INTEGER PRIMARY KEY, batch_id TEXT NOT NULL UNIQUE, opening BLOB NOT NULL, state TEXT NOT NULL,
  create_time REAL NOT NULL, update_time REAL NOT NULL, detach INTEGER NOT NULL, items INTEGER NOT NULL,
  results INTEGER NOT NULL, failed INTEGER NOT NULL, result BLOB NOT NULL, owner TEXT NOT NULL, fence INTEGER NOT NULL,
  lease_until REAL NOT NULL, starts INTEGER NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE items (
  place INTEGER PRIMARY KEY, count INTEGER NOT NULL, checksum INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE results (
  place INTEGER PRIMARY KEY, failed INTEGER NOT NULL, checksum INTEGER NOT NULL, numbers BLOB NOT NULL,
  payload BLOB NOT NULL
);
CREATE TABLE starts (place INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, indexes BLOB NOT NULL);
CREATE TABLE singles (
  idempotency_key TEXT PRIMARY KEY, digest BLOB NOT NULL, result BLOB NOT NULL, time REAL NOT NULL,
  checksum INTEGER NOT NULL
);
CREATE INDEX singles_time ON singles (time);
CREATE TABLE erasing (key INTEGER PRIMARY KEY);
"""
# What moves a file from the version that is its index + 1 to the next.
_STEPS: tuple[str, ...] = (
    "CREATE TABLE strategies (name TEXT PRIMARY KEY, spec BLOB NOT NULL, checksum INTEGER NOT NULL)",
    "ALTER TABLE singles ADD owner TEXT NOT NULL DEFAULT '';\n"
    "ALTER TABLE singles ADD lease_until REAL NOT NULL DEFAULT 0",
)

_PUT_BATCH = f"INSERT OR REPLACE INTO batches VALUES ({', '.join('?' * len(BATCH_COLUMNS))})"
_PUT_ITEMS = "INSERT INTO items VALUES ((?1 << 32) | ?2, ?3, ?4, ?5)"
_PUT_RESULTS = "INSERT INTO results VALUES ((?1 << 32) | ?2, ?3, ?4, ?5, ?6)"
_PUT_STARTS = "INSERT INTO starts VALUES ((?1 << 32) | ?2, ?3, ?4)"
_PUT_SINGLE = "INSERT OR REPLACE INTO singles VALUES (?, ?, ?, ?, ?, ?, ?)"
_PUT_STRATEGY = "INSERT OR IGNORE INTO strategies VALUES (?, ?, ?)"


class SqliteStore(TableStore):
    """Keeps batches in a SQLite file of mode 0600, for one sidecar.

    Its thread does all the work, so that the event loop never waits for the disk. A commit is synced before the
    write-ahead log takes the next one.

    Args:
        path: the file; beside it lie `-wal` and `-shm` (SQLite's) and `-lock`.
        clock: seconds since the epoch.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.name = str(path)
        # The file itself: through a link, its lock and write-ahead log would be sought beside the link.
        self._path = Path(os.path.realpath(path))
        self._clock = clock
        self._thread: ThreadPoolExecutor | None = None
        self._lock: Lock | None = None
        self._db: sqlite3.Connection | None = None
        self._salvage: Salvage | None = None
        """Where it is only inspected: finds batches by whatever page tells of them."""

    async def open(self, *, inspect: bool = False) -> None:
        """See `JournalStore`."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        try:
            if inspect:
                await self._run(self._open_to_read)
                return
            if dropped := await self._run(self._open):
                logger.warning("%s", dropped)
            async for problem in problems(self, [state for state in BatchState if state not in ENDED]):
                raise DamagedError(f"{self.name} is damaged: {problem}; {WAY_ON}")  # noqa: TRY301  the handler closes
            await self._run(self._settle)
            await self._erase()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See `JournalStore`."""
        if self._thread is not None:
            await self._run(self._close)
            self._thread.shutdown()
            self._thread = None

    async def write(self, writes: Sequence[Write]) -> None:
        """See `JournalStore`."""
        await self._run(self._write, writes)

    async def faults(self) -> Sequence[str]:
        """See `JournalStore`: SQLite's own check of its pages, and what it would drop of its write-ahead log."""
        return await self._run(self._faults)

    async def ids(self, states: Sequence[BatchState] = (), damaged: Damaged | None = None) -> AsyncIterator[str]:
        """See `JournalStore`."""
        if damaged is None or self._salvage is None:
            async for batch_id in super().ids(states, damaged):
                yield batch_id
            return
        for fault in await self._run(self._salvage.survey):
            damaged(fault)
        for batch_id in self._salvage.ids:
            yield batch_id

    async def claim(self, batch_id: str, owner: str, lease_seconds: float) -> BatchRecord | None:
        """See `JournalStore`."""
        return await self._run(self._claim, batch_id, owner, lease_seconds)

    async def resumable(self) -> Sequence[str]:
        """See `JournalStore`."""
        return await self._run(self._resumable)

    async def now(self) -> float:
        """See `JournalStore`."""
        return self._clock()

    async def single(self, key: str) -> SingleRecord | None:
        """See `JournalStore`."""
        return (await self._run(self._load_singles, [key])).get(key)

    async def unregister(self, name: str) -> bool:
        """See `JournalStore`."""
        if not await self._run(self._forget_strategy, name):
            return False
        await self._erase()
        return True

    async def delete(self, batch_id: str) -> bool:
        """See `JournalStore`."""
        if not await self._run(self._forget, "batch_id = ?", (batch_id,)):
            return False
        await self._erase()
        return True

    async def expire(self, seconds: float) -> int:
        """See `JournalStore`."""
        before = self._clock() - seconds
        ended = f"state IN ({', '.join('?' * len(ENDED))}) AND update_time < ?"
        batches = await self._run(self._forget, ended, (*(state.value for state in ENDED), before))
        singles = 0
        while gone := await self._run(self._forget_singles, before):
            singles += gone
        if batches or singles:
            await self._erase()
        return batches

    async def _batch_row(self, batch_id: str) -> Row | None:
        if self._salvage is not None and self._salvage.knows(batch_id):
            return await self._run(self._salvage.batch, batch_id)
        return (await self._run(self._load, [batch_id])).get(batch_id)

    async def _batch_rows(
        self, limit: int, after: str, states: Sequence[BatchState], damaged: Damaged | None
    ) -> Sequence[Row]:
        wanted = f" AND state IN ({', '.join('?' * len(states))})" if states else ""
        ask = f"{BATCH_SELECT} WHERE batch_id > ?{wanted} ORDER BY batch_id LIMIT ?"
        try:
            return await self._run(self._all_rows, ask, (after, *(state.value for state in states), limit))
        except DamagedError as error:
            if damaged is None:
                raise
            damaged(without_way_on(error))
        return await self._run(Salvage(self._open_db, self._path).batches, limit, after, states)

    async def _strategy_rows(self, names: Sequence[str] | None, damaged: Damaged | None) -> Sequence[Row]:
        try:
            return await self._run(self._load_strategies, names)
        except DamagedError as error:
            if damaged is None or names is not None:
                raise
            damaged(f"not all strategies can be read: {without_way_on(error)}")
        return await self._run(Salvage(self._open_db, self._path).strategies)

    async def _rows(self, table: str, key: int, start: int, *, backwards: bool = False) -> Sequence[Row]:
        return await self._run(self._page, table, key, start, backwards)

    async def _erase(self) -> None:
        # In slices, so that other batches' results need not wait for a large one to be overwritten.
        more = True
        while more:
            more = await self._run(self._erase_slice)
            while await self._run(self._vacuum_slice):
                pass
        if not await self._run(self._checkpoint):
            logger.warning(
                "%s: a reader is at work; erased bytes leave the write-ahead log with the next erasure", self.name
            )

    async def _run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def run() -> R:
            try:
                return function(*args, **kwargs)
            except (sqlite3.Error, OSError) as error:
                raise explain(error, self._path) from error

        if self._thread is None:
            raise StoreError(f"{self.name} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    # What follows runs in the thread.

    @property
    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"{self.name} is not open")
        return self._db

    def _open(self) -> str | None:
        if not self._path.parent.is_dir():
            raise StoreError(f"{self._path.parent} is no directory; make it, or name another in server.state_dir")
        self._lock = Lock(self._path)
        check_presence(self._path, marked=self._lock.marked)
        file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if not os.fstat(file).st_size or os.pread(file, 4, _APPLICATION_AT) == _APPLICATION_ID.to_bytes(4, "big"):
                os.fchmod(file, 0o600)  # not of a file that is another's, and is refused below
        finally:
            os.close(file)
        dropped = check_log(self._path)
        self._db = db = self._connect("rw")
        version = self._version()
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        if not version:
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                db.execute("PRAGMA user_version = 1")
        self._move_forward(version or 1)
        self._lock.mark()
        return dropped

    def _open_to_read(self) -> None:
        if not self._path.exists():
            raise StoreError(f"{self._path} does not exist; name the journal's file")
        self._db = self._connect("ro")
        self._db.execute("PRAGMA writable_schema = ON")  # else SQLite reads nothing of a file that was cut short
        if not self._version():
            raise DamagedError(f"{self._path} is empty: no journal was ever written to it")
        tables = {name for (name,) in self._open_db.execute("SELECT name FROM sqlite_schema")}
        if not tables.issuperset({"batches", "erasing", *COLUMNS}):
            raise DamagedError(f"{self._path} is damaged: it does not have all of its tables; {WAY_ON}")
        self._salvage = Salvage(self._db, self._path)
        self._salvage.survey()

    def _connect(self, mode: str) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"{self._path.as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=_BUSY_SECONDS
        )
        db.row_factory, db.text_factory = typed, text_of
        return db

    def _version(self) -> int:
        """The schema's; 0: there is none yet."""
        (application,) = self._open_db.execute("PRAGMA application_id").fetchone()
        (version,) = self._open_db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._open_db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not tables and not version:
            return 0
        if application != _APPLICATION_ID or version < 1:
            raise DamagedError(f"{self._path} is a SQLite database, but no journal; name another file")
        if version > VERSION:
            raise DamagedError(
                f"{self._path} has schema version {version}, newer than the {VERSION} that this batch-llm knows; "
                "run the newer batch-llm, or name another file"
            )
        return int(version)

    def _move_forward(self, found: int) -> None:
        for version, step in enumerate(_STEPS[found - 1 :], found + 1):
            with self._transaction() as db:
                for statement in step.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {version}")

    def _settle(self) -> None:
        with self._transaction() as db:
            for row in db.execute(f"{BATCH_SELECT} WHERE owner <> ''").fetchall():
                batch, whole = Batch.of(row)
                if not whole:
                    continue  # with a new checksum it would pass for whole
                # The lock says that whoever had it is dead.
                batch.record = replace(batch.record, owner="", lease_until=0.0)
                db.execute(_PUT_BATCH, batch.row)

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._open_db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            # Some errors have rolled it back already.
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _faults(self) -> list[str]:
        try:
            found = [line for (line,) in self._open_db.execute("PRAGMA integrity_check") if line != "ok"]
        except sqlite3.DatabaseError as error:
            found = [f"{self._path}: {error}"]
        try:
            lock = Lock(self._path)
        except (StoreError, OSError):
            # A running sidecar writes to the log, and noticed at its start what there is to notice.
            return found
        try:
            dropped = check_log(self._path)
            return [*found, dropped.replace("dropped", "will drop")] if dropped else found
        except DamagedError as error:
            return [*found, without_way_on(error)]
        finally:
            lock.close()

    def _write(self, writes: Sequence[Write]) -> None:
        now = self._clock()
        with self._transaction() as db:
            batches = {batch_id: self._batch(row) for batch_id, row in self._load(batch_ids(writes)).items()}
            singles = self._load_singles(single_keys(writes))
            done = Transaction(batches, singles, self._new_keys(), now).apply(writes)
            db.executemany(_PUT_BATCH, [batch.row for batch in done.batches.values() if batch.changed])
            db.executemany(_PUT_ITEMS, done.items)
            db.executemany(_PUT_STARTS, done.starts)
            db.executemany(_PUT_RESULTS, done.results)
            for single in done.singles.values():
                check = single_checksum(single, now)
                row = (single.key, single.digest, single.result, now, check, single.owner, single.lease_until)
                db.execute(_PUT_SINGLE, row)
            for registration in done.registrations.values():
                if not db.execute(_PUT_STRATEGY, registration_row(registration)).rowcount:
                    raise StrategyExistsError(registration)

    def _claim(self, batch_id: str, owner: str, lease_seconds: float) -> BatchRecord | None:
        with self._transaction() as db:
            row = self._load([batch_id]).get(batch_id)
            if row is None or not claimed(batch := self._batch(row), owner, lease_seconds, self._clock()):
                return None
            db.execute(_PUT_BATCH, batch.row)
        return batch.record

    def _resumable(self) -> list[str]:
        ended = ", ".join(f"'{state.value}'" for state in ENDED)
        rows = self._open_db.execute(
            f"SELECT batch_id FROM batches WHERE detach AND state NOT IN ({ended}) "
            "AND (owner = '' OR lease_until <= ?) ORDER BY batch_id",
            (self._clock(),),
        )
        return [batch_id for (batch_id,) in rows]

    def _new_keys(self) -> Iterator[int]:
        # Lazily: most transactions begin no batch. A key whose records are not erased yet is not free.
        ask = "SELECT max(key) FROM (SELECT key FROM batches UNION ALL SELECT key FROM erasing)"
        yield from count((self._open_db.execute(ask).fetchone()[0] or 0) + 1)

    def _batch(self, row: Row) -> Batch:
        return self._checked(row, None)

    def _load(self, wanted: Sequence[str]) -> dict[str, Row]:
        ask = f"{BATCH_SELECT} WHERE batch_id = ?"
        rows = (self._open_db.execute(ask, (batch_id,)).fetchone() for batch_id in wanted)
        return {row[1]: row for row in rows if row}

    def _load_singles(self, keys: Sequence[str]) -> dict[str, SingleRecord]:
        singles = {}
        ask = f"SELECT {SINGLE_COLUMNS} FROM singles WHERE idempotency_key = ?"
        for key in keys:
            row = self._open_db.execute(ask, (key,)).fetchone()
            if row is not None:
                singles[key] = self._single(row)
        return singles

    def _load_strategies(self, names: Sequence[str] | None) -> list[Row]:
        if self._version() < _STRATEGIES_SINCE:
            return []
        ask = "SELECT name, spec, checksum FROM strategies"
        if names is None:
            return self._open_db.execute(f"{ask} ORDER BY name").fetchall()
        rows = (self._open_db.execute(f"{ask} WHERE name = ?", (name,)).fetchone() for name in sorted(set(names)))
        return [row for row in rows if row]

    def _all_rows(self, ask: str, values: Sequence[object]) -> list[Row]:
        return self._open_db.execute(ask, values).fetchall()

    def _page(self, table: str, key: int, start: int, backwards: bool) -> list[Row]:
        reach, order = (
            ("BETWEEN ?1 << 32 AND ?1 << 32 | ?2", "DESC")
            if backwards
            else ("BETWEEN ?1 << 32 | ?2 AND ?1 << 32 | 0xFFFFFFFF", "")
        )
        ask = f"SELECT place & 0xFFFFFFFF, {COLUMNS[table]} FROM {table} WHERE place {reach} ORDER BY place {order}"
        rows: list[Row] = []
        size = 0
        try:
            for row in each_row(self._open_db, ask, (key, start)):
                if not backwards and row[0] < (rows[-1][0] + 1 if rows else start):
                    raise DamagedError(f"{self._path} is damaged: a page is out of order; {WAY_ON}")  # noqa: TRY301  handled as SQLite's own
                rows.append(row)
                size += len(row[-1])
                if len(rows) == PAGE_ROWS or size >= PAGE_BYTES:
                    break
        except (sqlite3.DatabaseError, DamagedError):
            # Those before the damage are whole; the next page begins with it.
            if not rows:
                raise
        return rows

    def _forget(self, which: str, values: Sequence[object]) -> int:
        with self._transaction() as db:
            db.execute(f"INSERT INTO erasing SELECT key FROM batches WHERE {which}", values)
            return db.execute(f"DELETE FROM batches WHERE {which}", values).rowcount

    def _forget_strategy(self, name: str) -> int:
        with self._transaction() as db:
            return db.execute("DELETE FROM strategies WHERE name = ?", (name,)).rowcount

    def _forget_singles(self, before: float) -> int:
        ask = "DELETE FROM singles WHERE rowid IN (SELECT rowid FROM singles WHERE time < ? LIMIT ?)"
        with self._transaction() as db:
            return db.execute(ask, (before, _SLICE_ROWS)).rowcount

    def _erase_slice(self) -> bool:
        with self._transaction() as db:
            found = db.execute("SELECT key FROM erasing LIMIT 1").fetchone()
            if found is None:
                return False
            gone = 0
            for table, columns in COLUMNS.items():
                # The newest of each table first: they lie at the file's end, where pages are given back for nothing.
                reach = "place BETWEEN ?1 << 32 AND ?1 << 32 | 0xFFFFFFFF"
                largest = columns.rpartition(" ")[2]
                ask = f"SELECT place, length({largest}) FROM {table} WHERE {reach} ORDER BY place DESC"
                first = size = 0
                for number, (place, length) in enumerate(db.execute(ask, found), 1):
                    first, size = place, size + length
                    if size >= _SLICE_BYTES or number == _SLICE_ROWS:
                        break
                if first:
                    ask = f"DELETE FROM {table} WHERE place BETWEEN ?2 AND ?1 << 32 | 0xFFFFFFFF"
                    gone += db.execute(ask, (*found, first)).rowcount
            if gone:
                return True
            db.execute("DELETE FROM erasing WHERE key = ?", found)
            return True

    def _vacuum_slice(self) -> bool:
        db = self._open_db
        # By `executescript`: `execute` takes one step of the statement, which frees one page.
        db.executescript(f"PRAGMA incremental_vacuum({_SLICE_PAGES})")
        return bool(db.execute("PRAGMA freelist_count").fetchone()[0])

    def _checkpoint(self) -> bool:
        """Move the write-ahead log into the file and empty it; False: a reader stands in the way."""
        (busy, _, _) = self._open_db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy
