"""The tables of one room in the schema that the rooms share, and the version they are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import SchemaError
from .line import Line, Postgres, Row, fetch

if TYPE_CHECKING:
    import psycopg

_VERSIONS = "CREATE TABLE IF NOT EXISTS version (part text PRIMARY KEY, version integer NOT NULL)"
_SET_VERSION = (
    "INSERT INTO version VALUES (%s, %s) ON CONFLICT (part) DO UPDATE SET version = excluded.version RETURNING version"
)


@dataclass(frozen=True, slots=True)
class Tables:
    """One room's tables. Each room has a version of its own, so that they change apart.

    Args:
        part: the room's name in the table of versions.
        steps: statements by version, each what leads from the one before to it; the first makes the tables. A step
            that was released is never changed.
    """

    part: str
    steps: tuple[str, ...]

    async def move_forward(self, line: Line) -> None:
        """Make the schema and the tables, or bring them to this program's version. Sidecars take turns.

        Raises:
            UnavailableError: see `Line.do`.
            SchemaError: they are of a newer version.
        """

        async def move(connection: psycopg.AsyncConnection[Row]) -> None:
            server = line.server
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"batch-llm {server.schema}",))
                version = await self._version(server, connection)
                if version == len(self.steps):
                    return
                # Not IF NOT EXISTS: that asks for the right to make one, though it is there.
                if not await fetch(connection, "SELECT 1 FROM pg_namespace WHERE nspname = %s", server.schema):
                    name = server.psycopg.sql.Identifier(server.schema)
                    await connection.execute(server.psycopg.sql.SQL("CREATE SCHEMA {}").format(name))
                await connection.execute(_VERSIONS.encode())
                for step in self.steps[version:]:
                    await connection.execute(step.encode())
                await fetch(connection, _SET_VERSION, self.part, len(self.steps))

        await line.do(move)

    async def version(self, line: Line) -> int:
        """The tables' version; 0: there are none. Changes nothing.

        Raises:
            UnavailableError: see `Line.do`.
            SchemaError: it is newer than this program's.
        """
        return await line.do(lambda connection: self._version(line.server, connection))

    async def _version(self, server: Postgres, connection: psycopg.AsyncConnection[Row]) -> int:
        ask = "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'version'"
        if not await fetch(connection, ask, server.schema):
            return 0
        found = await fetch(connection, "SELECT version FROM version WHERE part = %s", self.part)
        version = int(found[0][0]) if found else 0
        if version > len(self.steps):
            raise SchemaError(
                f"{server.name}, schema {server.schema!r}, has {self.part} schema version {version}, newer than the "
                f"{len(self.steps)} that this batch-llm knows; run the newer batch-llm, or name another database"
            )
        return version
