"""The journal in PostgreSQL, for fleets of sidecars."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from batch_llm.postgres import CorruptError, Postgres, SchemaError, Tables, UnavailableError, fetch, one_line

from .reading import BATCH_SELECT, COLUMNS, PAGE_BYTES, PAGE_ROWS, SINGLE_COLUMNS, WAY_ON, Row, TableStore
from .records import BATCH_COLUMNS, Transaction, batch_ids, claimed, registration_row, single_checksum, single_keys
from .store import (
    ENDED,
    YIELD_SECONDS,
    Ask,
    BatchRecord,
    BatchState,
    Begin,
    Damaged,
    DamagedError,
    OutcomeUnknownError,
    Single,
    SingleExistsError,
    SingleRecord,
    StoreError,
    StrategyExistsError,
    Write,
)

if TYPE_CHECKING:
    import psycopg

R = TypeVar("R")

_CREATE = """
CREATE SEQUENCE batch_keys;
CREATE TABLE batches (
  key bigint PRIMARY KEY, batch_id text COLLATE "C" NOT NULL CONSTRAINT batches_batch_id UNIQUE, opening bytea NOT NULL,
  state text NOT NULL, create_time float8 NOT NULL, update_time float8 NOT NULL, detach boolean NOT NULL,
  items bigint NOT NULL, results bigint NOT NULL, failed bigint NOT NULL, result bytea NOT NULL, owner text NOT NULL,
  fence bigint NOT NULL, lease_until float8 NOT NULL, starts bigint NOT NULL, checksum bigint NOT NULL
);
CREATE TABLE items (
  key bigint, number bigint, count bigint NOT NULL, checksum bigint NOT NULL, payload bytea NOT NULL,
  PRIMARY KEY (key, number)
);
CREATE TABLE results (
  key bigint, number bigint, failed bigint NOT NULL, checksum bigint NOT NULL, numbers bytea NOT NULL,
  payload bytea NOT NULL, PRIMARY KEY (key, number)
);
CREATE TABLE starts (
  key bigint, number bigint, checksum bigint NOT NULL, indexes bytea NOT NULL, PRIMARY KEY (key, number)
);
CREATE TABLE singles (
  idempotency_key text COLLATE "C" PRIMARY KEY, digest bytea NOT NULL, result bytea NOT NULL, time float8 NOT NULL,
  checksum bigint NOT NULL
);
CREATE INDEX singles_time ON singles (time);
CREATE TABLE writers (id text PRIMARY KEY, number bigint NOT NULL, time float8 NOT NULL);
"""
_STRATEGIES_SINCE = 2
_ADD_STRATEGIES = """
CREATE TABLE strategies (name text COLLATE "C" PRIMARY KEY, spec bytea NOT NULL, checksum bigint NOT NULL)
"""
_ADD_OWNERS_AND_ASKS = """
ALTER TABLE singles ADD owner text NOT NULL DEFAULT '', ADD lease_until float8 NOT NULL DEFAULT 0;
CREATE TABLE asks (batch_id text COLLATE "C" PRIMARY KEY, ask text NOT NULL, time float8 NOT NULL);
"""
TABLES = Tables("journal", (_CREATE, _ADD_STRATEGIES, _ADD_OWNERS_AND_ASKS))

_NOW = "extract(epoch FROM clock_timestamp())::float8"
_VALUES = ", ".join(["%b"] * len(BATCH_COLUMNS))
_NEW_BATCH = f"INSERT INTO batches VALUES ({_VALUES})"
_SET_BATCH = f"UPDATE batches SET ({', '.join(BATCH_COLUMNS)}) = ({_VALUES}) WHERE key = %b"
_PUT_ITEMS = "INSERT INTO items VALUES (%b, %b, %b, %b, %b)"
_PUT_RESULTS = "INSERT INTO results VALUES (%b, %b, %b, %b, %b, %b)"
_PUT_STARTS = "INSERT INTO starts VALUES (%b, %b, %b, %b)"
# Another sidecar may have put the key since it was read.
_PUT_SINGLE = (
    "INSERT INTO singles AS known VALUES (%b, %b, %b, %b, %b, %b, %b) ON CONFLICT (idempotency_key) DO UPDATE SET "
    "result = excluded.result, owner = excluded.owner, lease_until = excluded.lease_until, time = excluded.time, "
    "checksum = excluded.checksum WHERE known.digest = excluded.digest AND known.result = '' "
    "AND (known.owner IN ('', excluded.owner) OR known.lease_until <= excluded.time)"
)
_PUT_STRATEGY = "INSERT INTO strategies VALUES (%b, %b, %b) ON CONFLICT (name) DO NOTHING"
_STRATEGIES = "SELECT name, spec, checksum FROM strategies WHERE %s OR name = ANY(%s) ORDER BY name"

_COUNT = (
    f"INSERT INTO writers VALUES (%s, %s, {_NOW}) ON CONFLICT (id) "
    "DO UPDATE SET number = excluded.number, time = excluded.time RETURNING time"
)
# A CANCEL outlasts a YIELD.
_ASK = (
    f"INSERT INTO asks AS known VALUES (%s, %s, {_NOW}) ON CONFLICT (batch_id) DO UPDATE SET time = excluded.time, "
    f"ask = CASE known.ask WHEN '{Ask.CANCEL}' THEN known.ask ELSE excluded.ask END RETURNING 1"
)
_REFUSE = f"DELETE FROM asks WHERE batch_id = %s AND ask = '{Ask.YIELD}' RETURNING 1"
_RESUMABLE = (
    f"SELECT batch_id FROM batches LEFT JOIN asks USING (batch_id) WHERE (detach OR ask = '{Ask.CANCEL}') "
    f"AND state <> ALL(%s) AND (owner = '' OR lease_until <= {_NOW}) "
    f"AND (ask IS DISTINCT FROM '{Ask.YIELD}' OR asks.time <= {_NOW} - {YIELD_SECONDS}) ORDER BY batch_id"
)
_WRITER_SECONDS = 30 * 86_400  # how long the row of a writer that has ended is kept
_NEW_KEYS = "SELECT nextval('batch_keys') FROM generate_series(1, %s)"
_SINGLES = f"SELECT {SINGLE_COLUMNS} FROM singles WHERE idempotency_key = ANY(%s)"
_BATCH_ID = "batches_batch_id"


class PostgresStore(TableStore):
    """Keeps batches in a schema of a PostgreSQL database (13 or later) that sidecars share.

    It reconnects by itself. Needs the extra `batch-llm[postgres]`.

    Args:
        url: a libpq URL, `postgresql://user@host:5432/database`; what it does not say comes from libpq's environment
            variables, e.g. PGPASSWORD.
        schema: its tables live there; made when missing.
    """

    shared = True

    def __init__(self, url: str, schema: str = "batch_llm") -> None:
        with _own_errors():
            self._server = Postgres(url, schema)
        self.name = self._server.name
        self._psycopg = self._server.psycopg
        self._writing = self._server.line()
        self._reading = self._server.line()
        self._writer = secrets.token_hex(16)
        self._found = len(TABLES.steps)  # an older one where it is only inspected
        self._tries = 0
        self._doubt: tuple[int, list[Write]] | None = None

    async def open(self, *, inspect: bool = False) -> None:
        """See `JournalStore`. Damage is noticed when records are read: a fleet has too many to read at each start."""
        with _own_errors():
            if inspect:
                self._found = await TABLES.version(self._writing)
                if not self._found:
                    raise DamagedError(
                        f"{self.name} has no journal in schema {self._server.schema!r}; name another database"
                    )
                return
            await TABLES.move_forward(self._writing)
            # Its row must be there before the first try: what is not there cannot be locked.
            await self._writing.fetch(_COUNT, self._writer, 0)

    async def close(self) -> None:
        """See `JournalStore`."""
        await self._writing.close()
        await self._reading.close()

    async def write(self, writes: Sequence[Write]) -> None:
        """See `JournalStore`."""
        try:
            await self._write_by(lambda connection: self._write(connection, list(writes)))
        except (StoreError, DamagedError) as error:
            if self._doubt is not None:
                raise OutcomeUnknownError(str(error)) from error
            raise

    async def claim(self, batch_id: str, owner: str, lease_seconds: float) -> BatchRecord | None:
        """See `JournalStore`."""

        async def claim(connection: psycopg.AsyncConnection[Row]) -> BatchRecord | None:
            async with connection.transaction():
                # A row that is locked is being written by its owner, or by one that was stopped in mid-transaction:
                # waiting for it would hold up all other writes of this sidecar.
                row = (await self._load(connection, [batch_id], "FOR UPDATE SKIP LOCKED")).get(batch_id)
                ((now,),) = await fetch(connection, f"SELECT {_NOW}")
                if row is None or not claimed(batch := self._checked(row, None), owner, lease_seconds, now):
                    return None
                await connection.execute(_SET_BATCH.encode(), (*batch.row, batch.key))
                await connection.execute(_REFUSE.encode(), (batch_id,))
            return batch.record

        return await self._write_by(claim)

    async def resumable(self) -> Sequence[str]:
        """See `JournalStore`."""
        return [batch_id for (batch_id,) in await self._ask(_RESUMABLE, [state.value for state in ENDED])]

    async def ask(self, batch_id: str, ask: Ask) -> None:
        """See `JournalStore`."""
        await self._ask(_ASK, batch_id, ask.value)

    async def asked(self, batch_ids: Sequence[str]) -> Mapping[str, Ask]:
        """See `JournalStore`."""
        rows = await self._ask("SELECT batch_id, ask FROM asks WHERE batch_id = ANY(%s)", list(batch_ids))
        return {batch_id: Ask(ask) for batch_id, ask in rows}

    async def refuse(self, batch_id: str) -> None:
        """See `JournalStore`."""
        await self._ask(_REFUSE, batch_id)

    async def now(self) -> float:
        """See `JournalStore`."""
        return float((await self._ask(f"SELECT {_NOW}"))[0][0])

    async def single(self, key: str) -> SingleRecord | None:
        """See `JournalStore`."""
        rows = await self._ask(_SINGLES, [key]) if "\0" not in key else []
        return self._single(rows[0]) if rows else None

    async def unregister(self, name: str) -> bool:
        """See `JournalStore`."""
        ask = "DELETE FROM strategies WHERE name = %s RETURNING 1"
        return bool(await self._ask(ask, name)) if "\0" not in name else False

    async def delete(self, batch_id: str) -> bool:
        """See `JournalStore`."""
        return bool(await self._erase("batch_id = %s", batch_id)) if "\0" not in batch_id else False

    async def expire(self, seconds: float) -> int:
        """See `JournalStore`."""
        await self._ask(f"DELETE FROM singles WHERE time < {_NOW} - %s RETURNING 1", float(seconds))
        await self._ask(f"DELETE FROM writers WHERE time < {_NOW} - %s RETURNING 1", float(_WRITER_SECONDS))
        ended = [state.value for state in ENDED]
        return await self._erase(f"state = ANY(%s) AND update_time < {_NOW} - %s", ended, float(seconds))

    async def _erase(self, which: str, *values: Any) -> int:
        async def erase(connection: psycopg.AsyncConnection[Row]) -> int:
            async with connection.transaction():
                gone = await fetch(connection, f"DELETE FROM batches WHERE {which} RETURNING key, batch_id", *values)
                keys = [key for key, _ in gone]
                asks = b"DELETE FROM asks WHERE batch_id = ANY(%s)"
                await connection.execute(asks, ([batch_id for _, batch_id in gone],))
                for table in COLUMNS:
                    await connection.execute(f"DELETE FROM {table} WHERE key = ANY(%s)".encode(), (keys,))
            return len(keys)

        return await self._write_by(erase)

    async def _batch_row(self, batch_id: str) -> Row | None:
        rows = await self._ask(f"{BATCH_SELECT} WHERE batch_id = %s", batch_id) if "\0" not in batch_id else []
        return rows[0] if rows else None

    async def _batch_rows(
        self, limit: int, after: str, states: Sequence[BatchState], damaged: Damaged | None
    ) -> Sequence[Row]:
        wanted = [state.value for state in states or BatchState]
        ask = f"{BATCH_SELECT} WHERE batch_id > %s AND (%s OR state = ANY(%s)) ORDER BY batch_id LIMIT %s"
        return await self._ask(ask, after, not states, wanted, limit)

    async def _strategy_rows(self, names: Sequence[str] | None, damaged: Damaged | None) -> Sequence[Row]:
        if self._found < _STRATEGIES_SINCE:
            return []
        wanted = [name for name in names or () if "\0" not in name]
        return await self._ask(_STRATEGIES, names is None, wanted)

    async def _rows(self, table: str, key: int, start: int, *, backwards: bool = False) -> Sequence[Row]:
        sign, order = ("<=", "DESC") if backwards else (">=", "ASC")
        largest = COLUMNS[table].rpartition(" ")[2]
        # Lengths are known without reading the payloads, so a page of large ones is cut before they are read.
        return await self._ask(
            f"SELECT number, {COLUMNS[table]} FROM (SELECT *, sum(octet_length({largest})) "
            f"OVER (ORDER BY number {order}) - octet_length({largest}) AS before "
            f"FROM (SELECT * FROM {table} WHERE key = %s AND number {sign} %s "
            f"ORDER BY number {order} LIMIT {PAGE_ROWS}) AS page) AS summed WHERE before < {PAGE_BYTES} "
            f"ORDER BY number {order}",
            key,
            start,
        )

    async def _ask(self, ask: str, *values: Any) -> list[Row]:
        with _own_errors():
            return await self._reading.fetch(ask, *values)

    async def _write(self, connection: psycopg.AsyncConnection[Row], writes: list[Write]) -> None:
        if self._doubt is not None and await self._was_committed(connection, writes):
            return
        # Each try has a number, which its transaction leaves in the writer's row. The server's own transaction ids
        # would not do: one that was never flushed is given again after a crash.
        self._tries += 1
        await self._in_transaction(connection, writes)
        try:
            await connection.execute("COMMIT")
        except self._psycopg.OperationalError as error:
            if not connection.closed:
                raise
            self._doubt = self._tries, writes
            raise OutcomeUnknownError(
                f"{self.name}: {one_line(error)}: the connection was lost in mid-commit"
            ) from error

    async def _in_transaction(self, connection: psycopg.AsyncConnection[Row], writes: list[Write]) -> None:
        """Do it all but commit."""
        await connection.execute("BEGIN")
        try:
            ((now,),) = await fetch(connection, _COUNT, self._writer, self._tries)
            rows = await self._load(connection, batch_ids(writes))
            batches = {batch_id: self._checked(row, None) for batch_id, row in rows.items()}
            new = len({write.batch_id for write in writes if isinstance(write, Begin)} - batches.keys())
            keys = [key for (key,) in await fetch(connection, _NEW_KEYS, new)] if new else []
            asked = single_keys(writes)
            found = await fetch(connection, _SINGLES, asked) if asked else []
            singles = {row[0]: self._single(row) for row in found}
            done = Transaction(batches, singles, iter(keys), now).apply(writes)
            await self._put(connection, done, rows, now, writes)
        except BaseException as error:
            if not connection.closed:
                await connection.execute("ROLLBACK")
            if isinstance(error, self._psycopg.errors.UniqueViolation) and error.diag.constraint_name == _BATCH_ID:
                # Another sidecar has begun it since this one looked; it is found now, and refused.
                return await self._in_transaction(connection, writes)
            raise

    async def _put(
        self,
        connection: psycopg.AsyncConnection[Row],
        done: Transaction,
        known: Container[str],
        now: float,
        writes: Sequence[Write],
    ) -> None:
        # Sorted, so that two sidecars that begin the same ones do not wait for each other.
        changed = [(batch_id, batch) for batch_id, batch in sorted(done.batches.items()) if batch.changed]
        rows = {
            _NEW_BATCH: [batch.row for batch_id, batch in changed if batch_id not in known],
            _SET_BATCH: [(*batch.row, batch.key) for batch_id, batch in changed if batch_id in known],
            _PUT_ITEMS: done.items,
            _PUT_STARTS: done.starts,
            _PUT_RESULTS: done.results,
        }
        async with connection.cursor() as cursor:
            for statement, values in rows.items():
                if values:
                    await cursor.executemany(statement.encode(), values)
            for key, single in sorted(done.singles.items()):
                check = single_checksum(single, now)
                row = (key, single.digest, single.result, now, check, single.owner, single.lease_until)
                await cursor.execute(_PUT_SINGLE.encode(), row)
                if not cursor.rowcount:
                    raise SingleExistsError(next(w for w in writes if isinstance(w, Single) and w.key == key))
            for _, registration in sorted(done.registrations.items()):
                await cursor.execute(_PUT_STRATEGY.encode(), registration_row(registration))
                if not cursor.rowcount:
                    raise StrategyExistsError(registration)

    async def _was_committed(self, connection: psycopg.AsyncConnection[Row], writes: list[Write]) -> bool:
        assert self._doubt is not None  # noqa: S101  for mypy; the caller has looked
        number, doubtful = self._doubt
        # The lock waits for a transaction of the lost connection that has not ended yet.
        rows = await fetch(connection, "SELECT number FROM writers WHERE id = %s FOR UPDATE", self._writer)
        self._doubt = None
        return rows == [(number,)] and writes == doubtful

    async def _load(
        self, connection: psycopg.AsyncConnection[Row], wanted: Sequence[str], lock: str = "FOR UPDATE"
    ) -> dict[str, Row]:
        # In one order for all, so that two sidecars do not wait for each other.
        ask = f"{BATCH_SELECT} WHERE batch_id = ANY(%s) ORDER BY batch_id {lock}"
        asked = [batch_id for batch_id in wanted if "\0" not in batch_id]
        return {row[1]: row for row in await fetch(connection, ask, asked)} if asked else {}

    async def _write_by(self, work: Callable[[psycopg.AsyncConnection[Row]], Awaitable[R]]) -> R:
        with _own_errors():
            return await self._writing.do(work)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Say what PostgreSQL's errors mean for the journal."""
    try:
        yield
    except UnavailableError as error:
        raise StoreError(str(error), full=error.full) from error
    except CorruptError as error:
        raise DamagedError(f"{error}; {WAY_ON}") from error
    except SchemaError as error:
        raise DamagedError(str(error)) from error
