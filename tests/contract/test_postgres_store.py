"""The PostgreSQL store: lost connections, unknown commits, a server that is killed, read-only or full."""

import asyncio
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from batch_llm.journal.check import problems
from batch_llm.journal.postgres import TABLES, PostgresStore
from batch_llm.journal.store import (
    BatchExistsError,
    DamagedError,
    OutcomeUnknownError,
    Registration,
    Starts,
    StoreError,
)
from batch_llm.journal.writer import JournalWriter

from .postgres import PostgresServer, running_server
from .test_journal_store import all_items, all_results, begin, items, results


@pytest.fixture
def schema() -> str:
    return f"test_{uuid.uuid4().hex}"


@asynccontextmanager
async def opened(url: str, schema: str, *, inspect: bool = False) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, schema)
    try:
        await store.open(inspect=inspect)
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(postgres: PostgresServer, schema: str) -> AsyncIterator[PostgresStore]:
    async with opened(postgres.url, schema) as store:
        yield store


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with running_server() as server:
        yield server


def tell(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


class Proxy:
    """Stands before a server's socket. Once told, it cuts a connection at its next COMMIT, passed on or not."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._folder = tempfile.TemporaryDirectory(prefix="batch-llm-proxy-")
        self.url = f"postgresql://batch@/postgres?host={self._folder.name}"
        self.cut: str | None = None
        self._connections: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Proxy":
        path = Path(self._folder.name, ".s.PGSQL.5432")
        self._listening = await asyncio.start_unix_server(self._connected, path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        await asyncio.gather(*self._connections)
        self._folder.cleanup()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.append(task)
        if self.cut == "connections":
            writer.close()
            return
        there, onward = await asyncio.open_unix_connection(self._server.folder / ".s.PGSQL.5432")
        ways = [
            asyncio.create_task(self._pass(reader, onward)),
            asyncio.create_task(self._pass(there, writer, answers=True)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        for end in (writer, onward):
            end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        while data := await reader.read(2**16):
            if not answers and self.cut and b"COMMIT" in data:
                if self.cut == "after":
                    writer.write(data)
                    await writer.drain()
                    # The server has done it when it says so.
                    self.cut = "answer"
                    continue
                self.cut = None
                break
            if answers and self.cut == "answer" and b"COMMIT" in data:
                self.cut = None
                break
            writer.write(data)
            await writer.drain()


@pytest.mark.parametrize(("cut", "committed"), [("before", False), ("after", True)])
async def test_a_commit_whose_answer_was_lost_is_written_once(
    postgres: PostgresServer, schema: str, cut: str, committed: bool
) -> None:
    async with Proxy(postgres) as proxy, opened(proxy.url, schema) as store, opened(postgres.url, schema) as beside:
        begun = begin()
        await store.write([begun])
        writes = [items(begun, 0, 2), Starts("batch", begun.fence, (0,)), results(begun, 1)]
        proxy.cut = cut
        with pytest.raises(OutcomeUnknownError, match="mid-commit"):
            await store.write(writes)
        assert len(await all_results(beside)) == committed
        proxy.cut = "connections"
        with pytest.raises(OutcomeUnknownError):
            await store.write(writes)
        proxy.cut = None
        await store.write(writes)
        await store.write([results(begun, 2)])
        assert [record.sequences for record in await all_results(beside)] == [(1,), (2,)]
        record = await beside.get("batch")
        assert record is not None
        assert (record.items, record.results) == (2, 2)
        assert [problem async for problem in problems(beside)] == []


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_the_writer_rides_a_lost_commit_out(postgres: PostgresServer, schema: str, cut: str) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async with Proxy(postgres) as proxy, opened(proxy.url, schema) as store:
        writer, begun = JournalWriter(store, sleep=sleep), begin()
        await writer.offer(begun)
        proxy.cut = cut
        offered = asyncio.create_task(writer.offer(items(begun, 0)))
        await asyncio.sleep(0)
        await asyncio.gather(offered, writer.record(results(begun, 1)), writer.record(results(begun, 2)))
        assert pauses
        assert len(await all_items(store)) == 1
        assert [record.sequences for record in await all_results(store)] == [(1,), (2,)]


async def test_it_reconnects_to_a_server_that_was_restarted(own_server: PostgresServer, schema: str) -> None:
    async with opened(own_server.url, schema) as store:
        begun = begin()
        await store.write([begun])
        assert await store.get("batch")
        for number, mode in enumerate(("fast", "immediate", "kill"), 1):
            own_server.kill() if mode == "kill" else own_server.stop(mode)
            with pytest.raises(StoreError, match=r"PostgreSQL host=.*nothing listens there: start the server"):
                await store.get("batch")
            with pytest.raises(StoreError):
                await store.write([results(begun, number)])
            own_server.start()
            await store.write([results(begun, number)])
            assert len(await all_results(store)) == number
            own_server.stop()
            own_server.start()
            await store.write([items(begun, number - 1)])
            assert len(await all_items(store)) == number, "a restart that nobody saw is no error"


async def test_what_was_promised_survives_a_killed_server(own_server: PostgresServer, schema: str) -> None:
    async def restart(_: float) -> None:
        if own_server.down:
            await asyncio.to_thread(own_server.start)

    async with opened(own_server.url, schema) as store:
        writer, begun = JournalWriter(store, sleep=restart), begin()
        await writer.offer(begun)
        sequence = 0
        for kill in range(5):
            promised = [writer.record(results(begun, sequence + number)) for number in range(1, 301)]
            sequence += 300
            await promised[10 * kill]
            more = [writer.record(results(begun, sequence + number)) for number in range(1, 301)]
            sequence += 300
            await asyncio.to_thread(own_server.kill)
            await asyncio.gather(*promised, *more)
        await restart(0)  # all may have been written when the last kill came
        assert [record.sequences for record in await all_results(store)] == [(each,) for each in range(1, sequence + 1)]
        assert [problem async for problem in problems(store)] == []


async def test_a_batch_that_is_being_written_is_not_waited_for(
    store: PostgresStore, postgres: PostgresServer, schema: str
) -> None:
    """By a sidecar that was stopped in mid-transaction, for instance: others have more to do."""
    await store.write([begin(owner="other", lease_seconds=0)])
    with psycopg.connect(postgres.url) as stopped:
        stopped.execute(f"SELECT * FROM {schema}.batches FOR UPDATE".encode())
        assert await store.claim("batch", "me", 60) is None, "its lock would be waited for, and that is an error"
    assert await store.claim("batch", "me", 60)


async def test_many_sidecars_may_open_it_at_once(postgres: PostgresServer, schema: str) -> None:
    stores = [PostgresStore(postgres.url, schema) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].write([begin()])
    assert await stores[7].get("batch")
    for store in stores:
        await store.close()


async def test_a_read_only_server_is_an_error_that_passes(postgres: PostgresServer, store: PostgresStore) -> None:
    begun = begin()
    await store.write([begun])
    tell(postgres.url, "ALTER ROLE batch SET default_transaction_read_only = on")
    try:
        await store._writing.drop()
        with pytest.raises(StoreError, match=r"read-only transaction.*name the primary") as refused:
            await store.write([results(begun, 1)])
        assert not refused.value.full
    finally:
        tell(postgres.url, "SET default_transaction_read_only = off", "ALTER ROLE batch RESET ALL")
    await store.write([results(begun, 1)])


@contextmanager
def small_disk(server: PostgresServer) -> Iterator[Path]:
    path = server.folder / f"disk-{uuid.uuid4().hex}"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=2m,mode=0700,uid={server.folder.stat().st_uid}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"this process may not mount: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk_is_an_error_that_passes(postgres: PostgresServer, schema: str) -> None:
    with small_disk(postgres) as disk:
        tell(postgres.url, f"CREATE TABLESPACE {schema} LOCATION '{disk}'")
        async with opened(f"{postgres.url}&options=-c%20default_tablespace%3D{schema}", schema) as store:
            begun = begin()
            await store.write([begun])
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(200_000))
            big = "".join(uuid.uuid4().hex for _ in range(60_000)).encode()
            with pytest.raises(StoreError, match="make room on the server's disk") as full:
                await store.write([results(begun, 1, payload=big)])
            assert full.value.full
            ballast.unlink()
            await store.write([results(begun, 1, payload=big[:100_000])])
        tell(postgres.url, f"DROP SCHEMA {schema} CASCADE", "CHECKPOINT", f"DROP TABLESPACE {schema}")


async def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    store = PostgresStore(f"postgresql://batch:hidden@/postgres?host={tmp_path}")
    with pytest.raises(StoreError, match="nothing listens there: start the server") as refused:
        await store.open()
    assert "hidden" not in str(refused.value) + store.name


@pytest.mark.parametrize("url", ["postgresql://%zz", "postgresql://h/d?nonsense=1"])
def test_a_bad_url_is_an_error(url: str) -> None:
    with pytest.raises(StoreError, match="write postgresql://host/database"):
        PostgresStore(url)


def test_without_the_extra_the_error_names_it() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from batch_llm.journal.postgres import PostgresStore\n"
        "PostgresStore('postgresql://')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install 'batch-llm[postgres]'" in done.stderr


async def test_a_newer_schema_is_refused(postgres: PostgresServer, store: PostgresStore, schema: str) -> None:
    tell(postgres.url, f"UPDATE {schema}.version SET version = 99")
    for inspect in (False, True):
        with pytest.raises(DamagedError, match=r"schema version 99, newer than the 3 .* run the newer batch-llm"):
            async with opened(postgres.url, schema, inspect=inspect):
                pass


async def test_an_older_schema_moves_forward(
    postgres: PostgresServer, store: PostgresStore, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin()
    await store.write([begun, items(begun, 0)])
    longer = replace(TABLES, steps=(*TABLES.steps, "CREATE TABLE one (x int)", "ALTER TABLE one ADD y int"))
    monkeypatch.setattr("batch_llm.journal.postgres.TABLES", longer)
    for _ in range(2):
        async with opened(postgres.url, schema) as again:
            assert len(await all_items(again)) == 1
            assert await again._ask("SELECT version FROM version") == [(5,)]
            assert await again._ask("SELECT x, y FROM one") == []


async def test_a_schema_of_version_1_moves_forward(
    postgres: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("batch_llm.journal.postgres.TABLES", replace(TABLES, steps=TABLES.steps[:1]))
        async with opened(postgres.url, schema) as old:
            begun = begin()
            await old.write([begun, items(begun, 0)])
            assert await old._ask("SELECT version FROM version") == [(1,)]
    async with opened(postgres.url, schema, inspect=True) as store:
        assert await store.strategies() == [], "an older one can be looked into"
    registration = Registration("triage", b"spec")
    async with opened(postgres.url, schema) as store:
        await store.write([registration])
        assert await store.strategies(["triage"]) == [registration]
        assert len(await all_items(store)) == 1


async def test_a_damaged_strategy_is_found_where_it_is_read(
    postgres: PostgresServer, store: PostgresStore, schema: str
) -> None:
    await store.write([Registration("triage", b"spec"), Registration("whole", b"spec")])
    tell(postgres.url, f"UPDATE {schema}.strategies SET spec = spec || '\\x00' WHERE name = 'triage'")
    with pytest.raises(DamagedError, match="the record of strategy 'triage' does not have its checksum"):
        await store.strategies(["triage"])
    found: list[str] = []
    assert await store.strategies(damaged=found.append) == [Registration("whole", b"spec")]
    assert len(found) == 1


async def test_inspecting_a_database_without_a_journal_makes_none(postgres: PostgresServer, schema: str) -> None:
    for _ in range(2):
        with pytest.raises(DamagedError, match="has no journal in schema"):
            async with opened(postgres.url, schema, inspect=True):
                pass


@pytest.mark.parametrize("table", ["batches", "items", "starts", "results"])
@pytest.mark.parametrize("how", ["changed", "missing"])
async def test_damage_is_found_where_it_is_read(
    postgres: PostgresServer, store: PostgresStore, schema: str, table: str, how: str
) -> None:
    begun = begin()
    await store.write([begun])
    for number in range(3):
        await store.write([items(begun, number), Starts("batch", begun.fence, (number,)), results(begun, number + 1)])
    if (table, how) == ("batches", "missing"):
        return  # no one can tell that a batch was there
    column = {"batches": "opening", "items": "payload", "starts": "indexes", "results": "payload"}[table]
    which = "true" if table == "batches" else f"number = (SELECT max(number) - 1 FROM {schema}.{table})"
    change = f"UPDATE {schema}.{table} SET {column} = {column} || '\\x00'"
    tell(postgres.url, f"{change if how == 'changed' else f'DELETE FROM {schema}.{table}'} WHERE {which}")
    found = [problem async for problem in problems(store)]
    assert found
    assert all(re.match("batch 'batch': ", problem) for problem in found)
    readers = {"items": store.items, "starts": store.starts, "results": store.results}
    with pytest.raises(DamagedError, match=r"batch 'batch'.*journal check"):
        async for _ in readers.get(table, store.items)("batch"):
            pass


async def test_damage_in_the_way_of_a_write_is_told_from_a_store_that_is_away(
    postgres: PostgresServer, store: PostgresStore, schema: str
) -> None:
    begun = begin()
    await store.write([begun])
    tell(postgres.url, f"UPDATE {schema}.batches SET opening = opening || '\\x00'")
    with pytest.raises(DamagedError, match=r"batch 'batch'.*journal check") as damage:
        await store.write([items(begun, 0)])
    assert damage.value.metadata["batch_id"] == "batch"


async def test_erased_rows_are_gone(postgres: PostgresServer, store: PostgresStore, schema: str) -> None:
    begun = begin()
    await store.write([begun, items(begun, 0), Starts("batch", begun.fence, (0,)), results(begun, 1)])
    assert await store.delete("batch")
    with psycopg.connect(postgres.url) as connection:
        for table in ("batches", "items", "starts", "results"):
            assert connection.execute(f"SELECT count(*) FROM {schema}.{table}".encode()).fetchone() == (0,)


async def test_batches_begun_at_two_sidecars_in_another_order_do_not_wait_for_each_other(
    postgres: PostgresServer, schema: str
) -> None:
    async with opened(postgres.url, schema) as one, opened(postgres.url, schema) as two:
        async with await psycopg.AsyncConnection.connect(postgres.url) as other:
            # A third one is beginning "m", and holds up the first after its own "b".
            await other.execute(f"SET search_path = {schema}".encode())
            await other.execute(
                "INSERT INTO batches VALUES (-1, 'm', '', 'OPEN', 0, 0, false, 0, 0, 0, '', '', 0, 0, 0, 0)"
            )
            first = asyncio.create_task(one.write([begin(batch_id) for batch_id in "bma"]))
            await until_waiting(postgres, 1)
            second = asyncio.create_task(two.write([begin(batch_id) for batch_id in "ab"]))
            await until_waiting(postgres, 2)
            await other.rollback()
        await first
        with pytest.raises(BatchExistsError):
            await second


async def until_waiting(server: PostgresServer, count: int) -> None:
    """Wait until so many sessions of batch-llm wait for another's transaction."""
    ask = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = 'batch-llm' AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO batches%'"
    )
    async with asyncio.timeout(60), await psycopg.AsyncConnection.connect(server.url, autocommit=True) as connection:
        while (await (await connection.execute(ask.encode())).fetchone()) != (count,):  # noqa: ASYNC110  the server tells nobody
            await asyncio.sleep(0.01)
