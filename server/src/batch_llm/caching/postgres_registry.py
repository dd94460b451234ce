"""The registry of context caches in PostgreSQL, so that a fleet of sidecars makes each cache once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from typing import TYPE_CHECKING, TypeVar

from batch_llm.model import ProviderError
from batch_llm.postgres import Postgres, PostgresError, Row, Tables, fetch

from .account import Charge
from .registry import CacheRecord, CacheRegistry, unusable

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger("batch_llm")

R = TypeVar("R")

TABLES = Tables(
    "caches",
    (
        """
        CREATE TABLE caches (
          provider text COLLATE "C", fingerprint text COLLATE "C", name text NOT NULL, model text NOT NULL,
          strategy text COLLATE "C" NOT NULL, create_time float8 NOT NULL, expire_time float8 NOT NULL,
          total_token_count bigint NOT NULL, accounted_until float8, PRIMARY KEY (provider, fingerprint)
        );
        CREATE TABLE cache_charges (
          provider text COLLATE "C" NOT NULL, fingerprint text COLLATE "C" NOT NULL, tokens bigint NOT NULL,
          since float8 NOT NULL, until float8 NOT NULL, created boolean NOT NULL
        );
        CREATE INDEX cache_charges_fingerprint ON cache_charges (fingerprint);
        CREATE TABLE cache_claims (
          provider text COLLATE "C", fingerprint text COLLATE "C", owner text NOT NULL, until float8 NOT NULL,
          PRIMARY KEY (provider, fingerprint)
        );
        """,
    ),
)

_NOW = "extract(epoch FROM clock_timestamp())::float8"
_OF = "provider = %s AND fingerprint = %s"
_KNOWN = "SELECT * FROM caches WHERE (provider, fingerprint) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
_PUT = (
    "INSERT INTO caches AS known VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (provider, fingerprint) "
    "DO UPDATE SET name = excluded.name, model = excluded.model, strategy = excluded.strategy, "
    "create_time = excluded.create_time, expire_time = excluded.expire_time, "
    "total_token_count = excluded.total_token_count, accounted_until = CASE WHEN known.name = excluded.name "
    "THEN coalesce(known.accounted_until, excluded.accounted_until) ELSE excluded.accounted_until END RETURNING *"
)
_REMOVE = f"DELETE FROM caches WHERE {_OF} AND name = %s RETURNING *"
_OWE = "INSERT INTO cache_charges VALUES (%s, %s, %s, %s, %s, %s) RETURNING 1"
_OWED = f"DELETE FROM cache_charges WHERE {_OF} RETURNING tokens, since, until, created"
_PAID = f"UPDATE caches SET accounted_until = %s WHERE {_OF} RETURNING *"
_CLAIM = (
    f"INSERT INTO cache_claims AS known VALUES (%s, %s, %s, {_NOW} + %s) ON CONFLICT (provider, fingerprint) "
    "DO UPDATE SET owner = excluded.owner, until = excluded.until "
    f"WHERE known.owner = excluded.owner OR known.until < {_NOW} RETURNING 1"
)
_UNCLAIM = f"DELETE FROM cache_claims WHERE {_OF} AND owner = %s RETURNING 1"

_LIMIT_SECONDS = 5.0  # of one question
_FRESH_SECONDS = 1.0
_IDLE_SECONDS = 5.0  # whoever comes after so long waits for what others have changed


class PostgresCacheRegistry(CacheRegistry):
    """Records of context caches in a schema of a PostgreSQL database that sidecars share; for one event loop.

    Needs the extra `batch-llm[postgres]`. Times of caches are by the sidecars' clocks, which should agree to some
    seconds; claims go by the server's.

    Args:
        url: see `Postgres`.
        schema: its tables live there; made when missing.
        limit_seconds: longest wait for an answer.
        clock: monotonic seconds.

    Raises:
        UnavailableError: the extra is not installed, or the url cannot be read.
    """

    def __init__(
        self,
        url: str,
        schema: str = "batch_llm",
        *,
        limit_seconds: float = _LIMIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._line = Postgres(url, schema).line(limit_seconds)
        self._clock = clock
        self._known: dict[tuple[str, str], CacheRecord] = {}
        self._asked_at = clock()
        self._asking: asyncio.Task[None] | None = None
        self._reached = True

    async def open(self) -> None:
        """Make the tables, or bring them to this program's version.

        Raises:
            PostgresError: the server cannot be reached, or has tables of a newer version.
        """
        await TABLES.move_forward(self._line)

    async def close(self) -> None:
        """Close the connection."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking
        await self._line.close()

    def get(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """See `CacheRegistry`. None also for what this process has not asked for yet."""
        return self._known.get((provider, fingerprint))

    async def look(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """See `CacheRegistry`."""
        age = self._clock() - self._asked_at
        if age > _FRESH_SECONDS and self._known:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._refresh(), name="refresh-caches")
            if age > _IDLE_SECONDS:
                await asyncio.shield(self._asking)
        return self.get(provider, fingerprint)

    async def reload(self, provider: str, fingerprint: str) -> CacheRecord | None:
        """See `CacheRegistry`."""
        with _own_errors():
            rows = await self._line.fetch(f"SELECT * FROM caches WHERE {_OF}", provider, fingerprint)
        return self._learn(provider, fingerprint, rows)

    async def put(self, record: CacheRecord) -> None:
        """See `CacheRegistry`."""
        with _own_errors():
            rows = await self._line.fetch(_PUT, *astuple(record))
        self._learn(record.provider, record.fingerprint, rows)

    async def remove(self, record: CacheRecord, until: float | None = None) -> None:
        """See `CacheRegistry`."""
        of = (record.provider, record.fingerprint)

        async def remove(connection: psycopg.AsyncConnection[Row]) -> None:
            async with connection.transaction():
                gone = await fetch(connection, _REMOVE, *of, record.name)
                charge = CacheRecord(*gone[0]).unpaid(until) if gone and until is not None else None
                if charge is not None:
                    await fetch(connection, _OWE, *of, *astuple(charge))

        await self._do(remove)
        known = self._known.get(of)
        if known is not None and known.name == record.name:
            del self._known[of]

    async def list(self) -> Sequence[CacheRecord]:
        """See `CacheRegistry`."""
        with _own_errors():
            rows = await self._line.fetch("SELECT * FROM caches ORDER BY strategy, fingerprint, provider")
        return [CacheRecord(*row) for row in rows]

    async def collect(self, provider: str, fingerprint: str, now: float) -> Sequence[Charge]:
        """See `CacheRegistry`. Where the server's answer is lost, so is a charge: rather that than paid twice."""

        async def collect(connection: psycopg.AsyncConnection[Row]) -> tuple[list[Charge], list[Row]]:
            async with connection.transaction():
                charges = [Charge(*row) for row in await fetch(connection, _OWED, provider, fingerprint)]
                rows = await fetch(connection, f"SELECT * FROM caches WHERE {_OF} FOR UPDATE", provider, fingerprint)
                charge = CacheRecord(*rows[0]).unpaid(now) if rows else None
                if charge is not None:
                    charges.append(charge)
                    rows = await fetch(connection, _PAID, charge.until, provider, fingerprint)
            return charges, rows

        charges, rows = await self._do(collect)
        self._learn(provider, fingerprint, rows)
        return charges

    async def claim(self, provider: str, fingerprint: str, now: float, seconds: float) -> bool:
        """See `CacheRegistry`. Goes by the server's clock."""
        with _own_errors():
            return bool(await self._line.fetch(_CLAIM, provider, fingerprint, self._owner, float(seconds)))

    async def unclaim(self, provider: str, fingerprint: str) -> None:
        """See `CacheRegistry`."""
        with _own_errors():
            await self._line.fetch(_UNCLAIM, provider, fingerprint, self._owner)

    async def _refresh(self) -> None:
        """Learn what others have changed of the caches that this process knows."""
        keys = list(self._known)
        try:
            with _own_errors():
                rows = await self._line.fetch(_KNOWN, [key[0] for key in keys], [key[1] for key in keys])
        except ProviderError as error:
            if self._reached:
                logger.warning("%s; known context caches go on being used", error)
            self._reached = False
        else:
            self._reached = True
            found = {row[:2]: CacheRecord(*row) for row in rows}
            for key in keys:
                self._known.pop(key, None)
            self._known.update(found)
        finally:
            self._asked_at = self._clock()

    async def _do(self, work: Callable[[psycopg.AsyncConnection[Row]], Awaitable[R]]) -> R:
        with _own_errors():
            return await self._line.do(work)

    def _learn(self, provider: str, fingerprint: str, rows: Sequence[Row]) -> CacheRecord | None:
        if not rows:
            self._known.pop((provider, fingerprint), None)
            return None
        record = self._known[provider, fingerprint] = CacheRecord(*rows[0])
        return record


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except PostgresError as error:
        raise unusable(error) from error
