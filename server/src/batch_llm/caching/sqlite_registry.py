"""The registry of context caches in one small SQLite file, or in memory."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

from .account import Charge
from .registry import CacheRecord, CacheRegistry, unusable

Rows = list[tuple[Any, ...]]

_LOCK_SECONDS = 1.0  # the event loop stands still so long at most, while another process writes
_CHECK_SECONDS = 1.0


class SqliteCacheRegistry(CacheRegistry):
    """Records of context caches in a file, which several sidecars on a machine may share.

    Args:
        path: the file, created with mode 0600; None keeps the records in memory only.
        clock: monotonic seconds.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        if path is not None:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        # Used from event loops in several threads, one statement at a time; the garbage collector closes it in any.
        self._db = sqlite3.connect(
            path or ":memory:", isolation_level=None, timeout=_LOCK_SECONDS, check_same_thread=False
        )
        self._mutex = threading.Lock()
        self._create_tables()
        weakref.finalize(self, self._db.close)
        self._known: dict[tuple[str, str], CacheRecord] = {}
        self._clock = clock
        self._checked_at = clock()
        self._version = self._data_version()

    def get(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """See `CacheRegistry`. What is not known is looked up in the file."""
        now = self._clock()
        if now - self._checked_at > _CHECK_SECONDS:
            self._checked_at = now
            version = self._data_version()
            if version != self._version:  # another process has written
                self._version = version
                self._known.clear()
        known = self._known.get((provider, fingerprint))
        return known if known is not None else self._read(provider, fingerprint)

    async def look(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """See `CacheRegistry`."""
        return self.get(provider, fingerprint)

    async def reload(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """See `CacheRegistry`."""
        return self._read(provider, fingerprint)

    async def put(self, record: CacheRecord) -> None:
        """See `CacheRegistry`."""
        self._execute(
            "INSERT INTO caches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (provider, fingerprint) DO UPDATE SET"
            " name = excluded.name, model = excluded.model, strategy = excluded.strategy,"
            " create_time = excluded.create_time, expire_time = excluded.expire_time,"
            " total_token_count = excluded.total_token_count,"
            " accounted_until = CASE WHEN name = excluded.name"
            " THEN coalesce(accounted_until, excluded.accounted_until) ELSE excluded.accounted_until END",
            astuple(record),
        )
        self._read(record.provider, record.fingerprint)

    async def remove(self, record: CacheRecord, until: float | None = None) -> None:
        """See `CacheRegistry`."""
        gone = self._rows(
            "DELETE FROM caches WHERE provider = ? AND fingerprint = ? AND name = ? RETURNING *",
            (record.provider, record.fingerprint, record.name),
        )
        if gone:
            self._known.pop((record.provider, record.fingerprint), None)
        charge = CacheRecord(*gone[0]).unpaid(until) if gone and until is not None else None
        if charge is not None:
            self._execute(
                "INSERT INTO owed VALUES (?, ?, ?, ?, ?, ?)", (record.provider, record.fingerprint, *astuple(charge))
            )

    async def list(self) -> Sequence[CacheRecord]:
        """See `CacheRegistry`."""
        rows = self._rows("SELECT * FROM caches ORDER BY strategy, fingerprint, provider")
        return [CacheRecord(*row) for row in rows]

    async def collect(self, provider: str, fingerprint: str, now: float) -> Sequence[Charge]:
        """See `CacheRegistry`."""
        rows = self._rows(
            "DELETE FROM owed WHERE provider = ? AND fingerprint = ? RETURNING tokens, since, until, created",
            (provider, fingerprint),
        )
        charges = [Charge(tokens, since, until, bool(created)) for tokens, since, until, created in rows]
        record = await self.reload(provider, fingerprint)
        charge = record.unpaid(now) if record is not None else None
        if record is None or charge is None:
            return charges
        paid = self._execute(
            "UPDATE caches SET accounted_until = ? WHERE provider = ? AND fingerprint = ? AND name = ?"
            " AND accounted_until IS ?",
            (charge.until, provider, fingerprint, record.name, record.accounted_until),
        )
        self._read(provider, fingerprint)
        return [*charges, charge] if paid else charges  # not paid: another process has just taken it

    async def claim(self, provider: str, fingerprint: str, now: float, seconds: float) -> bool:
        """See `CacheRegistry`. Goes by the machine's clock."""
        return (
            self._execute(
                "INSERT INTO claims VALUES (?, ?, ?, ?) ON CONFLICT (provider, fingerprint) DO UPDATE"
                " SET owner = excluded.owner, until = excluded.until WHERE owner = excluded.owner OR until < ?",
                (provider, fingerprint, self._owner, now + seconds, now),
            )
            == 1
        )

    async def unclaim(self, provider: str, fingerprint: str) -> None:
        """See `CacheRegistry`."""
        self._execute(
            "DELETE FROM claims WHERE provider = ? AND fingerprint = ? AND owner = ?",
            (provider, fingerprint, self._owner),
        )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _read(self, provider: str, fingerprint: str) -> CacheRecord | None:
        rows = self._rows("SELECT * FROM caches WHERE provider = ? AND fingerprint = ?", (provider, fingerprint))
        if not rows:
            self._known.pop((provider, fingerprint), None)
            return None
        record = CacheRecord(*rows[0])
        self._known[provider, fingerprint] = record
        return record

    def _create_tables(self) -> None:
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS caches (provider TEXT, fingerprint TEXT, name TEXT NOT NULL,"
            " model TEXT NOT NULL, strategy TEXT NOT NULL, create_time REAL NOT NULL, expire_time REAL NOT NULL,"
            " total_token_count INTEGER NOT NULL, accounted_until REAL, PRIMARY KEY (provider, fingerprint))"
        )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS owed (provider TEXT NOT NULL, fingerprint TEXT NOT NULL,"
            " tokens INTEGER NOT NULL, since REAL NOT NULL, until REAL NOT NULL, created INTEGER NOT NULL)"
        )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS claims (provider TEXT, fingerprint TEXT, owner TEXT NOT NULL,"
            " until REAL NOT NULL, PRIMARY KEY (provider, fingerprint))"
        )
        columns = [row[1] for row in self._db.execute("PRAGMA table_info(caches)")]
        if "accounted_until" not in columns:  # a file of a version before receipts
            try:
                self._db.execute("ALTER TABLE caches ADD COLUMN accounted_until REAL")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):  # another process was faster
                    raise

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> int:
        """Change something; how many rows were changed."""
        return self._run(statement, values)[1]

    def _rows(self, statement: str, values: tuple[object, ...] = ()) -> Rows:
        return self._run(statement, values)[0]

    def _run(self, statement: str, values: tuple[object, ...]) -> tuple[Rows, int]:
        try:
            with self._mutex:
                cursor = self._db.execute(statement, values)
                return cursor.fetchall(), cursor.rowcount
        except sqlite3.OperationalError as error:
            raise unusable(error) from error

    def _data_version(self) -> int:
        return int(self._rows("PRAGMA data_version")[0][0])


@cache
def shared_registry() -> CacheRegistry:
    """The registry of this process, in memory, for strategies that are given none."""
    return SqliteCacheRegistry()
