"""Which context caches exist, remembered over restarts."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from batch_llm.model import ProviderError
from batch_llm.sync import Lock

from .account import CacheLedger, Charge
from .condition import CacheCondition


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A context cache as the registry knows it.

    Args:
        provider: the provider that holds it: its name, and "@" and what tells its credentials from others', if caches
            depend on that.
        fingerprint: its identity, see `fingerprint()`.
        name: what the provider calls it.
        model: the model it was made for.
        strategy: name of the strategy that created it.
        create_time: seconds since the epoch.
        expire_time: seconds since the epoch, by the provider's word.
        total_token_count: tokens it holds.
        accounted_until: seconds since the epoch up to which batches have paid for its storage; None: nothing has been
            paid, its creation neither. A cache that was found at its provider starts with the time of first sight.
    """

    provider: str
    fingerprint: str
    name: str
    model: str
    strategy: str
    create_time: float
    expire_time: float
    total_token_count: int
    accounted_until: float | None = None

    @property
    def provider_name(self) -> str:
        """The provider's name."""
        return self.provider.partition("@")[0]


Rows = list[tuple[Any, ...]]

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
        # Used from event loops in several threads, one statement at a time; the garbage collector closes it in any.
        self._db = sqlite3.connect(
            path or ":memory:", isolation_level=None, timeout=_LOCK_SECONDS, check_same_thread=False
        )
        self._mutex = threading.Lock()
        self._owner = uuid.uuid4().hex
        self._create_tables()
        weakref.finalize(self, self._db.close)
        self._known: dict[tuple[str, str], CacheRecord] = {}
        self._clock = clock
        self._checked_at = clock()
        self._version = self._data_version()
        self._conditions: dict[tuple[str, str], CacheCondition] = {}
        self._ledgers: dict[tuple[str, str], CacheLedger] = {}

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
        rows = self._rows("SELECT * FROM caches WHERE provider = ? AND fingerprint = ?", (provider, fingerprint))
        if not rows:
            self._known.pop((provider, fingerprint), None)
            return None
        record = CacheRecord(*rows[0])
        self._known[provider, fingerprint] = record
        return record

    def put(self, record: CacheRecord) -> None:
        """Add or replace a record. One of the same cache keeps what batches have paid for meanwhile."""
        self._execute(
            "INSERT INTO caches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (provider, fingerprint) DO UPDATE SET"
            " name = excluded.name, model = excluded.model, strategy = excluded.strategy,"
            " create_time = excluded.create_time, expire_time = excluded.expire_time,"
            " total_token_count = excluded.total_token_count,"
            " accounted_until = CASE WHEN name = excluded.name"
            " THEN coalesce(accounted_until, excluded.accounted_until) ELSE excluded.accounted_until END",
            astuple(record),
        )
        self.reload(record.provider, record.fingerprint)

    def remove(self, provider: str, fingerprint: str) -> None:
        """Forget a record; none is no error."""
        self._execute("DELETE FROM caches WHERE provider = ? AND fingerprint = ?", (provider, fingerprint))
        self._known.pop((provider, fingerprint), None)

    def list(self) -> list[CacheRecord]:
        """All records by strategy, then by fingerprint."""
        rows = self._rows("SELECT * FROM caches ORDER BY strategy, fingerprint, provider")
        return [CacheRecord(*row) for row in rows]

    # -- what batches have to pay ------------------------------------------------------------------------------------

    def ledger(self, provider: str, fingerprint: str) -> CacheLedger:
        """The batches that are open on a cache in this process."""
        return self._ledgers.setdefault((provider, fingerprint), CacheLedger())

    def owe(self, record: CacheRecord, until: float) -> None:
        """Keep what nobody has paid for of a cache that ends now; the next batch on its fingerprint does."""
        charge = _unpaid(record, until)
        if charge is not None:
            self._execute(
                "INSERT INTO owed VALUES (?, ?, ?, ?, ?, ?)",
                (record.provider, record.fingerprint, charge.tokens, charge.since, charge.until, charge.created),
            )

    def collect(self, provider: str, fingerprint: str, now: float) -> Iterator[Charge]:
        """What nobody has paid for until now; each is given once, to whichever process asks first."""
        rows = self._rows(
            "DELETE FROM owed WHERE provider = ? AND fingerprint = ? RETURNING tokens, since, until, created",
            (provider, fingerprint),
        )
        for tokens, since, until, created in rows:
            yield Charge(tokens, since, until, bool(created))
        record = self.reload(provider, fingerprint)
        charge = _unpaid(record, now) if record is not None else None
        if record is None or charge is None:
            return
        paid = self._execute(
            "UPDATE caches SET accounted_until = ? WHERE provider = ? AND fingerprint = ? AND name = ?"
            " AND accounted_until IS ?",
            (charge.until, provider, fingerprint, record.name, record.accounted_until),
        )
        self.reload(provider, fingerprint)
        if paid:  # else another process has just taken it
            yield charge

    # -- one at a time -----------------------------------------------------------------------------------------------

    def lock(self, provider: str, fingerprint: str) -> Lock:
        """The lock under which a cache is created, renewed or deleted in this process."""
        return self.condition(provider, fingerprint).lock

    def condition(self, provider: str, fingerprint: str) -> CacheCondition:
        """What this process has found out about a cache."""
        key = (provider, fingerprint)
        condition = self._conditions.get(key)
        return condition if condition is not None else self._conditions.setdefault(key, CacheCondition())

    def claim(self, provider: str, fingerprint: str, now: float, seconds: float) -> bool:
        """Be the only process that creates a cache, for so long at most; False: another one is at it.

        Args:
            provider: name of the provider.
            fingerprint: the cache's identity.
            now: seconds since the epoch.
            seconds: after which others take over.
        """
        return (
            self._execute(
                "INSERT INTO claims VALUES (?, ?, ?, ?) ON CONFLICT (provider, fingerprint) DO UPDATE"
                " SET owner = excluded.owner, until = excluded.until WHERE owner = excluded.owner OR until < ?",
                (provider, fingerprint, self._owner, now + seconds, now),
            )
            == 1
        )

    def unclaim(self, provider: str, fingerprint: str) -> None:
        """Let others create it."""
        self._execute(
            "DELETE FROM claims WHERE provider = ? AND fingerprint = ? AND owner = ?",
            (provider, fingerprint, self._owner),
        )

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
            raise ProviderError(f"the registry of context caches cannot be used now: {error}; try again") from error

    def _data_version(self) -> int:
        return int(self._rows("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _unpaid(record: CacheRecord, now: float) -> Charge | None:
    """The part of a cache's life until now that nobody has paid for; None: all is paid."""
    created = record.accounted_until is None
    since = record.create_time if record.accounted_until is None else record.accounted_until
    until = max(since, min(now, record.expire_time))
    return Charge(record.total_token_count, since, until, created) if created or until > since else None


@cache
def shared_registry() -> CacheRegistry:
    """The registry of this process, in memory, for strategies that are given none."""
    return CacheRegistry()
