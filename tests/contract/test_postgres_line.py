"""A connection that comes back, bounded in time, and tables with versions of their own."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from batch_llm.postgres import Line, Postgres, SchemaError, Tables, UnavailableError

from .postgres import PostgresServer, running_server, stalled

ONE = Tables("one", ("CREATE TABLE one (x int)",))
TWO = Tables("two", ("CREATE TABLE two (x int)", "ALTER TABLE two ADD y int"))


@pytest.fixture
def server(postgres: PostgresServer) -> Postgres:
    return Postgres(postgres.url, f"test_{uuid.uuid4().hex}")


@pytest.fixture
async def line(server: Postgres) -> AsyncIterator[Line]:
    line = server.line()
    yield line
    await line.close()


@contextmanager
def limited(line: Line) -> Iterator[None]:
    """Its uses meanwhile may take two seconds; before and after, a slow machine may take longer."""
    line._limit_seconds = 2.0
    yield
    line._limit_seconds = None


async def test_rooms_have_versions_of_their_own(server: Postgres, line: Line) -> None:
    assert await TWO.version(line) == 0
    lines = [server.line() for _ in range(8)]
    await asyncio.gather(*((ONE, TWO)[number % 2].move_forward(each) for number, each in enumerate(lines)))
    for each in lines:
        await each.close()
    assert (await ONE.version(line), await TWO.version(line)) == (1, 2)
    assert await line.fetch("SELECT x, y FROM two") == []
    with pytest.raises(SchemaError, match="schema version 2, newer than the 1 "):
        await Tables("two", TWO.steps[:1]).move_forward(line)
    assert await line.fetch("SELECT part, version FROM version ORDER BY part") == [("one", 1), ("two", 2)]


async def test_a_step_that_fails_leaves_nothing(server: Postgres, line: Line) -> None:
    with pytest.raises(UnavailableError, match="must own schema"):
        await Tables("two", (TWO.steps[0], "ALTER TABLE nonsense ADD y int")).move_forward(line)
    assert await TWO.version(line) == 0
    await TWO.move_forward(line)


@pytest.mark.parametrize("known", [True, False])
async def test_a_server_that_stalls_is_waited_for_so_long_and_then_used_again(
    postgres: PostgresServer, server: Postgres, known: bool
) -> None:
    line = server.line()
    if known:
        await line.fetch("SELECT 1")
    with stalled(postgres), limited(line):
        asks = [line.fetch("SELECT 1") for _ in range(3)]
        for outcome in await asyncio.gather(*asks, return_exceptions=True):
            assert isinstance(outcome, UnavailableError)
            assert "no answer within 2 s: see that the server runs" in str(outcome)
    assert await line.fetch("SELECT 1") == [(1,)]
    await line.close()


async def test_a_wait_for_those_before_counts(server: Postgres) -> None:
    line, begun, over = server.line(), asyncio.Event(), asyncio.Event()

    async def hold(_: object) -> None:
        begun.set()
        await over.wait()

    held = asyncio.create_task(line.do(hold))
    await begun.wait()
    with limited(line), pytest.raises(UnavailableError, match="no answer within 2 s"):
        await line.fetch("SELECT 1")
    over.set()
    await asyncio.wait([held])
    assert await line.fetch("SELECT 1") == [(1,)]
    await line.close()


async def test_a_connection_that_was_lost_is_made_anew(postgres: PostgresServer, server: Postgres, line: Line) -> None:
    (before,) = await line.fetch("SELECT pg_backend_pid()")
    beside = server.line()
    await beside.fetch("SELECT pg_terminate_backend(%s, 10000)", before[0])
    await beside.close()
    assert await line.fetch("SELECT pg_backend_pid()") != [before]


@pytest.fixture(scope="module")
def guarded() -> Iterator[PostgresServer]:
    """A server that asks for passwords, and lets only some in."""
    with running_server() as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE known LOGIN PASSWORD 'right'")
            connection.execute("CREATE ROLE idle")
            users = "local all known scram-sha-256\nlocal all batch,missing,idle trust\n"
            (server.data / "pg_hba.conf").write_text(users)
            connection.execute("SELECT pg_reload_conf()")
        yield server


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "known:wrong@/postgres?host={socket}",
            'password authentication failed for user "known": correct the user in .*, or the password .PGPASSWORD',
        ),
        ("known@/postgres?host={socket}", "no password supplied: give the password, in PGPASSWORD"),
        ("batch@/missing?host={socket}", 'database "missing" does not exist: make it with CREATE DATABASE, or name'),
        ("missing@/postgres?host={socket}", 'role "missing" does not exist: make it with CREATE ROLE'),
        ("idle@/postgres?host={socket}", 'role "idle" is not permitted to log in: permit it with ALTER ROLE'),
        ("other@/postgres?host={socket}", "no pg_hba.conf entry for .*: permit it in the server's pg_hba.conf"),
        ("batch@/postgres?host={socket}&port=1", "nothing listens there: start the server, or correct host and port"),
        ("batch@127.0.0.1:1/postgres", "refused.* nothing listens there: start the server, or correct host and port"),
        ("batch@none.invalid/postgres", "failed to resolve host 'none.invalid'.*: correct the host in journal.url"),
    ],
)
async def test_what_keeps_from_connecting_is_named_with_its_way_out(
    guarded: PostgresServer, url: str, said: str
) -> None:
    line = Postgres(f"postgresql://{url.format(socket=guarded.folder)}").line()
    with pytest.raises(UnavailableError, match=said) as refused:
        await line.fetch("SELECT 1")
    assert "wrong@" not in str(refused.value)
    await line.close()
