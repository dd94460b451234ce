"""Which context caches exist, remembered over restarts."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batch_llm.model import ProviderError


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A context cache as the registry knows it.

    Args:
        provider: name of the provider that holds it.
        fingerprint: its identity, see `fingerprint()`.
        name: what the provider calls it.
        model: the model it was made for.
        strategy: name of the strategy that created it.
        create_time: seconds since the epoch.
        expire_time: seconds since the epoch, by the provider's word.
        total_token_count: tokens it holds.
    """

    provider: str
    fingerprint: str
    name: str
    model: str
    strategy: str
    create_time: float
    expire_time: float
    total_token_count: int


_LOCK_SECONDS = 1.0  # the event loop stands still so long at most, while another process writes
_CHECK_SECONDS = 1.0


class CacheRegistry:
    """Records of context caches in one small SQLite file, which several sidecars on a machine may share.

    Args:
        path: the file, created with mode 0600; None keeps the records in memory only.
        clock: monotonic seconds.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        if path is not None:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=_LOCK_SECONDS)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS caches (provider TEXT, fingerprint TEXT, name TEXT NOT NULL,"
            " model TEXT NOT NULL, strategy TEXT NOT NULL, create_time REAL NOT NULL, expire_time REAL NOT NULL,"
            " total_token_count INTEGER NOT NULL, PRIMARY KEY (provider, fingerprint))"
        )
        weakref.finalize(self, self._db.close)
        self._known: dict[tuple[str, str], CacheRecord] = {}
        self._clock = clock
        self._checked_at = clock()
        self._version = self._data_version()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    def get(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """The record, expired or not. Costs a dictionary look-up once it is known."""
        now = self._clock()
        if now - self._checked_at > _CHECK_SECONDS:
            self._checked_at = now
            version = self._data_version()
            if version != self._version:  # another process has written
                self._version = version
                self._known.clear()
        known = self._known.get((provider, fingerprint))
        return known if known is not None else self.reload(provider, fingerprint)

    def reload(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """The record as the file has it now, in case another process changed it."""
        row = self._execute(
            "SELECT * FROM caches WHERE provider = ? AND fingerprint = ?", (provider, fingerprint)
        ).fetchone()
        if row is None:
            self._known.pop((provider, fingerprint), None)
            return None
        record = CacheRecord(*row)
        self._known[provider, fingerprint] = record
        return record

    def put(self, record: CacheRecord) -> None:
        """Add or replace a record."""
        self._execute(
            "INSERT OR REPLACE INTO caches VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.provider,
                record.fingerprint,
                record.name,
                record.model,
                record.strategy,
                record.create_time,
                record.expire_time,
                record.total_token_count,
            ),
        )
        self._known[record.provider, record.fingerprint] = record

    def remove(self, provider: str, fingerprint: str) -> None:
        """Forget a record; none is no error."""
        self._execute("DELETE FROM caches WHERE provider = ? AND fingerprint = ?", (provider, fingerprint))
        self._known.pop((provider, fingerprint), None)

    def list(self) -> list[CacheRecord]:
        """All records by strategy, then by fingerprint."""
        rows = self._execute("SELECT * FROM caches ORDER BY strategy, fingerprint, provider").fetchall()
        return [CacheRecord(*row) for row in rows]

    def lock(self, provider: str, fingerprint: str) -> asyncio.Lock:
        """The lock under which a cache is created, renewed or deleted in this process."""
        return self._locks.setdefault((provider, fingerprint), asyncio.Lock())

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise ProviderError(f"the registry of context caches cannot be used now: {error}; try again") from error

    def _data_version(self) -> int:
        (version,) = self._execute("PRAGMA data_version").fetchone()
        return int(version)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
