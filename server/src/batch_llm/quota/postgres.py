"""Budgets of a fleet in PostgreSQL: a row for each, which a draw locks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from batch_llm.postgres import Postgres, Row, Tables, fetch

from .ledger import Answer, Ask, Ledger
from .store import ALIVE_SECONDS, BEAT_SECONDS, Place

if TYPE_CHECKING:
    import psycopg

_NOW = "extract(epoch FROM clock_timestamp())::float8"
TABLES = Tables(
    "budgets",
    (
        """
CREATE TABLE budgets (name text COLLATE "C" PRIMARY KEY, state text NOT NULL, time float8 NOT NULL)
  WITH (fillfactor = 50);
CREATE TABLE members (id text COLLATE "C" PRIMARY KEY, seen float8 NOT NULL);
""",
    ),
)
# In one order for all, so that two sidecars do not wait for each other.
_LOCK = f"SELECT name, state, {_NOW} FROM budgets WHERE name = ANY(%s) ORDER BY name FOR UPDATE"
_MAKE = (
    f"INSERT INTO budgets SELECT name, '', {_NOW} FROM unnest(%s::text[]) AS name ORDER BY name COLLATE \"C\" "
    "ON CONFLICT DO NOTHING"
)
_SET = (
    "UPDATE budgets SET state = new.state, time = new.time FROM "
    "unnest(%s::text[], %s::text[], %s::float8[]) AS new (name, state, time) WHERE budgets.name = new.name"
)
_BEAT = f"INSERT INTO members VALUES (%s, {_NOW}) ON CONFLICT (id) DO UPDATE SET seen = excluded.seen"
_PLACE = f"SELECT count(*), count(*) FILTER (WHERE id < %s) FROM members WHERE seen > {_NOW} - %s OR id = %s"
_FORGET_MEMBERS = f"DELETE FROM members WHERE seen < {_NOW} - %s"
_FORGET_BUDGETS = f"DELETE FROM budgets WHERE time < {_NOW} - %s"
_FORGET_SECONDS = 86_400.0


class PostgresBudgets:
    """See `BudgetStore`. Time is the server's.

    Args:
        server: with the schema for its tables.
    """

    def __init__(self, server: Postgres) -> None:
        self._line = server.line(limit_seconds=BEAT_SECONDS)

    async def open(self) -> None:
        """See `BudgetStore`."""
        await TABLES.move_forward(self._line)

        async def forget(connection: psycopg.AsyncConnection[Row]) -> None:
            for statement in (_FORGET_MEMBERS, _FORGET_BUDGETS):
                await connection.execute(statement.encode(), (_FORGET_SECONDS,))

        await self._line.do(forget)

    async def beat(self, member: str) -> Place:
        """See `BudgetStore`."""

        async def beat(connection: psycopg.AsyncConnection[Row]) -> Place:
            await connection.execute(_BEAT.encode(), (member,))
            ((members, rank),) = await fetch(connection, _PLACE, member, ALIVE_SECONDS, member)
            return Place(members, rank)

        return await self._line.do(beat)

    async def draw(self, member: str, asks: Mapping[str, Ask]) -> Mapping[str, Answer]:
        """See `BudgetStore`."""
        by_name = {key.replace("\0", "\\0"): (key, ask) for key, ask in asks.items()}  # PostgreSQL's text has no NUL
        tries = 0

        async def draw(connection: psycopg.AsyncConnection[Row]) -> dict[str, Answer]:
            nonlocal tries
            tries += 1
            while (answers := await once(connection)) is None:
                # By itself, so that nobody who holds some of them waits for others that are being made.
                await connection.execute(_MAKE.encode(), (list(by_name),))
            return answers

        async def once(connection: psycopg.AsyncConnection[Row]) -> dict[str, Answer] | None:
            """The answers; None: there is no row yet for some."""
            async with connection.transaction():
                rows = await fetch(connection, _LOCK, list(by_name))
                if len(rows) < len(by_name):
                    return None
                answers, states = {}, []
                for name, state, now in rows:
                    key, ask = by_name[name]
                    ledger = Ledger(json.loads(state) if state else None)
                    answers[key] = ledger.draw(now, member, ask if tries == 1 else ask.again())
                    states.append((name, json.dumps(ledger.state, separators=(",", ":")), now))
                await connection.execute(_SET.encode(), [list(column) for column in zip(*states, strict=True)])
            return answers

        return await self._line.do(draw)

    async def leave(self, member: str) -> None:
        """See `BudgetStore`."""
        await self._line.do(lambda connection: connection.execute(b"DELETE FROM members WHERE id = %s", (member,)))

    async def close(self) -> None:
        """See `BudgetStore`."""
        await self._line.close()
