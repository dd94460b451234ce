"""A connection to PostgreSQL that comes back by itself."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .errors import CorruptError, PostgresError, UnavailableError

if TYPE_CHECKING:
    import psycopg

R = TypeVar("R")
Row = tuple[Any, ...]
Work = Callable[["psycopg.AsyncConnection[Row]"], Awaitable[R]]

# A stalled network is noticed; the URL may say otherwise. https://www.postgresql.org/docs/current/libpq-connect.html
_CONNECTION: dict[str, str | int] = {
    "application_name": "batch-llm",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_LOCK_TIMEOUT = "10s"
_IDLE_TIMEOUT = "10s"  # of a transaction whose sidecar is gone and has said nothing; it holds locks
# What libpq says of a connection that was not made; it keeps the server's code to itself. The first that fits.
_NOT_CONNECTED = {
    r"password authentication failed": "correct the user in journal.url, or the password (PGPASSWORD, or libpq's file)",
    r"no password supplied": "give the password, in PGPASSWORD or in libpq's password file",
    r'database ".*" does not exist': "make it with CREATE DATABASE, or name another one in journal.url",
    r'role ".*" does not exist': "make it with CREATE ROLE … LOGIN, or name another user in journal.url",
    r"is not permitted to log in": "permit it with ALTER ROLE … LOGIN, or name another user in journal.url",
    r"no pg_hba.conf entry": "permit it in the server's pg_hba.conf, or name another user or host in journal.url",
    r"failed to resolve host": "correct the host in journal.url, or see that its name is known here",
    r"Connection refused|No such file or directory": "nothing listens there: start the server, or correct host and "
    "port in journal.url",
}
_CHANGE_SERVER = {"25006"}  # read-only: after a failover another server may be the primary


class Postgres:
    """A schema of a PostgreSQL database (13 or later) that sidecars share. Needs the extra `batch-llm[postgres]`.

    Args:
        url: a libpq URL, `postgresql://user@host:5432/database`; what it does not say comes from libpq's environment
            variables, e.g. PGPASSWORD.
        schema: the tables live there.

    Raises:
        UnavailableError: the extra is not installed, or the url cannot be read.
    """

    def __init__(self, url: str, schema: str = "batch_llm") -> None:
        try:
            import psycopg
        except ImportError:
            raise UnavailableError("PostgreSQL needs an extra: pip install 'batch-llm[postgres]'") from None
        try:
            given = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise UnavailableError(
                f"the url of PostgreSQL cannot be read: {one_line(error)}; write postgresql://host/database"
            ) from None
        self.psycopg = psycopg
        self.schema = schema
        self.name = "PostgreSQL " + " ".join(
            f"{key}={given[key]}" for key in ("host", "port", "dbname") if key in given
        )
        """What to call it in messages: its address without a password."""
        self._conninfo = psycopg.conninfo.make_conninfo(**cast("dict[str, Any]", _CONNECTION | given))

    def line(self, limit_seconds: float | None = None) -> Line:
        """A connection of its own, made when it is first used.

        Args:
            limit_seconds: longest wait for one use, with connecting and those before it; None: as long as the network
                holds the connection up.
        """
        return Line(self, limit_seconds)

    async def connect(self) -> psycopg.AsyncConnection[Row]:
        """A new connection, each statement a transaction of its own; see `Line`."""
        connection = await self.psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        try:
            await connection.execute(
                "SELECT set_config('search_path', quote_ident(%s), false), "
                "set_config('default_transaction_isolation', 'read committed', false), "
                "set_config('lock_timeout', %s, false), "
                "set_config('idle_in_transaction_session_timeout', %s, false), "
                "CASE current_setting('synchronous_commit') WHEN 'off' "
                "THEN set_config('synchronous_commit', 'on', false) END",
                (self.schema, _LOCK_TIMEOUT, _IDLE_TIMEOUT),
            )
        except BaseException:
            await connection.close()
            raise
        return connection

    def explain(self, error: psycopg.Error) -> PostgresError | ValueError:
        """The error that one of psycopg's stands for, with the way out; ValueError: what was asked cannot be.

        The codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
        """
        state = error.sqlstate or ""
        said = f"{self.name}: {one_line(error)}"
        if state.startswith("XX0") and state != "XX000":
            return CorruptError(said)
        if isinstance(error, self.psycopg.IntegrityError | self.psycopg.DataError):
            return ValueError(said)
        if state == "53100":
            return UnavailableError(f"{said}: make room on the server's disk", full=True)
        if state == "25006":
            return UnavailableError(f"{said}: the server takes no writes; name the primary in journal.url")
        if state.startswith("42"):
            return UnavailableError(f"{said}: the user of journal.url must own schema {self.schema!r}")
        ways_out = (way_out for sign, way_out in _NOT_CONNECTED.items() if re.search(sign, said))
        return UnavailableError(f"{said}: {next(ways_out, 'see that the server runs and can be reached')}")


class Line:
    """A connection, one user at a time, in one event loop. A lost one is made anew at its next use.

    Args:
        server: whose.
        limit_seconds: see `Postgres.line`.
    """

    def __init__(self, server: Postgres, limit_seconds: float | None = None) -> None:
        self.server = server
        self._limit_seconds = limit_seconds
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self._cut_off = False

    async def do(self, work: Work[R]) -> R:
        """Do work on the connection; again on a new one, if the one at hand was lost: it must bear that.

        Raises:
            UnavailableError: the server cannot be reached, does not answer in time, or will not do it now.
            CorruptError: its data are damaged.
            ValueError: what is asked contradicts what is there.
            Exception: what `work` raises.
        """
        limit = asyncio.timeout(self._limit_seconds)
        try:
            async with limit, self._lock:
                return await self._do(work, limit)
        except TimeoutError as error:
            if limit.expired():
                raise self._no_answer() from error
            raise

    async def fetch(self, ask: str, *values: Any) -> list[Row]:
        """What a statement gives; see `do`."""
        return await self.do(lambda connection: fetch(connection, ask, *values))

    async def drop(self) -> None:
        """Let go of the connection; the next user gets a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        """Close it, once nobody uses it."""
        async with self._lock:
            await self.drop()

    async def _do(self, work: Work[R], limit: asyncio.Timeout) -> R:
        while True:
            known = self._connection
            try:
                if self._connection is None:
                    self._connection = await self.server.connect()
                return await self._until_cut(work, self._connection, limit)
            except self.server.psycopg.Error as error:
                if self._cut_off:
                    raise self._no_answer() from error
                lost = self._connection is None or self._connection.closed
                if lost or error.sqlstate in _CHANGE_SERVER:
                    await self.drop()
                    if known is not None:
                        continue  # it may have been lost long ago
                raise self.server.explain(error) from error
            finally:
                if self._connection is not None and self._connection.closed:
                    await self.drop()

    async def _until_cut(self, work: Work[R], connection: psycopg.AsyncConnection[Row], limit: asyncio.Timeout) -> R:
        # psycopg that is cancelled asks the server to cancel, and waits for its answer: one that is stalled gives none.
        # The connection's end wakes it at once.
        self._cut_off = False
        when = limit.when()
        if when is None:
            return await work(connection)
        limit.reschedule(None)
        cut = asyncio.get_running_loop().call_at(when, self._cut, connection)
        try:
            return await work(connection)
        finally:
            cut.cancel()
            limit.reschedule(when)

    def _cut(self, connection: psycopg.AsyncConnection[Row]) -> None:
        self._cut_off = True
        if not connection.closed:
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

    def _no_answer(self) -> UnavailableError:
        return UnavailableError(
            f"{self.server.name}: no answer within {self._limit_seconds:g} s: see that the server runs and can be "
            "reached"
        )


async def fetch(connection: psycopg.AsyncConnection[Row], ask: str, *values: Any) -> list[Row]:
    """What a statement of ours gives; values come and go in binary."""
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(ask.encode(), values)
        return await cursor.fetchall()


def one_line(error: Exception) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split())
