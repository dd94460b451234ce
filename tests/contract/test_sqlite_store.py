"""The SQLite store's file: crashes, damage, full and read-only disks, erasure."""

import asyncio
import logging
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from batch_llm.journal import sqlite
from batch_llm.journal.check import problems
from batch_llm.journal.sqlite import SqliteStore
from batch_llm.journal.store import (
    BatchState,
    Change,
    DamagedError,
    Registration,
    Results,
    Single,
    SingleRecord,
    Starts,
    StoreError,
)

from .test_journal_store import all_items, all_results, all_starts, begin, everything, finish, items, results

FRAME = 24 + 4096
LOG_HEADER = 32


@asynccontextmanager
async def opened(path: Path, *, inspect: bool = False) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open(inspect=inspect)
    try:
        yield store
    finally:
        await store.close()


async def filled(path: Path, records: int = 40) -> None:
    """A journal with an open batch, cleanly closed."""
    async with opened(path) as store:
        begun = begin()
        await store.write([begun])
        for number in range(records):
            payload = f"payload {number} ".encode() * 500
            await store.write(
                [
                    items(begun, number, payload=payload),
                    Starts("batch", begun.fence, (number,)),
                    results(begun, number + 1),
                ]
            )


CRASH = """
import asyncio, os, sys
from pathlib import Path
from batch_llm.journal.sqlite import SqliteStore
from batch_llm.journal.store import Begin, Items, Results, Starts

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    if await store.get("batch") is None:
        await store.write([Begin("batch", b"", True, "me", 60)])
    record = await store.claim("batch", "me", 60)
    number = record.items
    while True:
        await store.write([
            Items("batch", record.fence, number, 1, b"i" * 9000),
            Starts("batch", record.fence, (number,)),
            Results("batch", record.fence, (number + 1,), (number,), 0, b"r" * 9000),
        ])
        os.write(1, b"%d\\n" % number)
        number += 1

asyncio.run(main())
"""


async def test_what_was_promised_survives_kill_9(sqlite_path: Path) -> None:
    promised = -1
    for kill in range(20):
        child = subprocess.Popen([sys.executable, "-c", CRASH, str(sqlite_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        # Killed at any point of a transaction: after a count of promises, which differs from time to time.
        for _ in range(30 + 37 * kill % 101):
            assert child.stdout.readline()
        child.kill()
        promised = max(promised, *(int(line) for line in child.stdout.read().split()), -1)
        child.stdout.close()
        child.wait()
        async with opened(sqlite_path) as store:
            record = await store.get("batch")
            assert record is not None
            assert record.items > promised
            found = await all_items(store), await all_results(store), await all_starts(store)
            assert [len(records) for records in found] == [record.items] * 3, "each transaction is there whole or not"
            assert [problem async for problem in problems(store)] == []
            promised = record.items - 1
    assert promised > 1000


async def crashed(path: Path) -> Path:
    """A copy of a journal as a crash leaves it, with ten commits in the write-ahead log; each holds a result."""
    copy = path.with_name("crashed.db")
    async with opened(path) as store:
        begun = begin()
        await store.write([begun])
        assert await store._run(store._checkpoint)
        for number in range(1, 11):
            await store.write([results(begun, number, payload=b"p" * 9000)])
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    return copy


def commits(path: Path) -> list[int]:
    """Where the frames of the log begin that end a commit."""
    log = Path(f"{path}-wal").read_bytes()
    return [at for at in range(LOG_HEADER, len(log), FRAME) if log[at + 4 : at + 8] != bytes(4)]


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


async def test_a_whole_log_is_taken_without_a_word(sqlite_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = await crashed(sqlite_path)
    async with opened(copy) as store:
        assert len(await all_results(store)) == 10
    assert caplog.records == []


@pytest.mark.parametrize("cut", [1, 100, FRAME, FRAME + 1, 2 * FRAME])
async def test_an_unfinished_last_write_is_dropped_with_a_log_line(
    sqlite_path: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    copy = await crashed(sqlite_path)
    log = Path(f"{copy}-wal")
    os.truncate(log, log.stat().st_size - cut)
    async with opened(copy) as store:
        assert len(await all_results(store)) == 9
        begun = await store.claim("batch", "me", 60)
        assert begun is not None
    (said,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "dropped" in said.getMessage()
    assert "crashed.db-wal" in said.getMessage()
    caplog.clear()
    async with opened(copy):
        pass
    assert caplog.records == []


async def test_a_torn_last_write_is_dropped(sqlite_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = await crashed(sqlite_path)
    overwrite(Path(f"{copy}-wal"), commits(copy)[-1] - FRAME + 500, b"torn")
    async with opened(copy) as store:
        assert len(await all_results(store)) == 9
    assert "dropped" in caplog.text


@pytest.mark.parametrize("commit", [0, 4, 8])
async def test_damage_before_the_last_write_is_refused(sqlite_path: Path, commit: int) -> None:
    copy = await crashed(sqlite_path)
    overwrite(Path(f"{copy}-wal"), commits(copy)[commit] + 24 + 100, b"damage")
    before = copy.read_bytes(), Path(f"{copy}-wal").read_bytes()
    for _ in range(2):
        with pytest.raises(DamagedError, match=rf"{10 - commit} commits that were promised.*journal check"):
            await SqliteStore(copy).open()
    assert (copy.read_bytes(), Path(f"{copy}-wal").read_bytes()) == before, "nothing is lost by trying"


@pytest.mark.parametrize("at", [0, 10, 17, 28])
async def test_a_damaged_log_header_is_refused(sqlite_path: Path, at: int) -> None:
    copy = await crashed(sqlite_path)
    overwrite(Path(f"{copy}-wal"), at, b"\xa5\x5a")
    with pytest.raises(DamagedError, match="commits that were promised"):
        await SqliteStore(copy).open()


@pytest.mark.parametrize("table", ["batches", "items", "starts", "results"])
@pytest.mark.parametrize("how", ["changed", "missing", "moved"])
async def test_each_record_has_a_checksum(sqlite_path: Path, table: str, how: str) -> None:
    await filled(sqlite_path)
    number = "(SELECT max(place) FROM {0}) - 10" if table != "batches" else "1"
    key = "place" if table != "batches" else "key"
    column = {"batches": "opening", "items": "payload", "starts": "indexes", "results": "payload"}[table]
    change = {
        "changed": f"UPDATE {{0}} SET {column} = cast({column} || x'00' AS BLOB) WHERE {key} = {number}",
        "missing": f"DELETE FROM {{0}} WHERE {key} = {number}",
        "moved": f"UPDATE {{0}} SET {key} = {key} + (5 << 20) WHERE {key} = {number}",
    }[how]
    with sqlite3.connect(sqlite_path) as db:
        assert db.execute(change.format(table)).rowcount == 1
    db.close()
    if (table, how) != ("batches", "missing"):  # only records that are nobody's tell that a batch was there
        with pytest.raises(DamagedError, match=r"is damaged: batch 'batch'.*journal check.*journal export"):
            await SqliteStore(sqlite_path).open()
    async with opened(sqlite_path, inspect=True) as store:
        assert [problem async for problem in problems(store)]


@pytest.mark.parametrize("wrong", ["'text'", "x'ff'", "1.5", "-1", "1 << 40", "CAST(x'ff80' AS TEXT)", "x''"])
@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("batches", column) for column in ("batch_id", "opening", "state", "items", "results", "starts")),
        *(("items", column) for column in ("count", "checksum", "payload")),
        *(("results", column) for column in ("checksum", "numbers", "payload")),
        *(("starts", column) for column in ("checksum", "indexes")),
    ],
)
async def test_damage_that_makes_a_value_another_kind_is_found_like_any_other(
    sqlite_path: Path, table: str, column: str, wrong: str
) -> None:
    await filled(sqlite_path, 2)
    with sqlite3.connect(sqlite_path) as db:
        changed = f"rowid = (SELECT max(rowid) FROM {table}) AND {column} IS NOT {wrong}"
        changes = db.execute(f"UPDATE {table} SET {column} = {wrong} WHERE {changed}").rowcount
    db.close()
    async with opened(sqlite_path, inspect=True) as store:
        assert bool([problem async for problem in problems(store)]) == bool(changes)


async def test_bytes_that_are_taken_for_text_are_whole(sqlite_path: Path) -> None:
    await filled(sqlite_path, 2)
    with sqlite3.connect(sqlite_path) as db:
        db.execute("UPDATE batches SET opening = CAST(opening AS TEXT)")
    db.close()
    async with opened(sqlite_path) as store:
        assert [problem async for problem in problems(store)] == []


async def test_damage_in_a_batch_that_ended_is_found_where_it_is_read(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        begun = begin()
        await store.write([begun, items(begun, 0), results(begun, 1), finish(begun)])
    with sqlite3.connect(sqlite_path) as db:
        db.execute("UPDATE results SET payload = x'00'")
    db.close()
    async with opened(sqlite_path) as store:
        with pytest.raises(DamagedError, match="results to 1"):
            await all_results(store)
        assert len(await all_items(store)) == 1
        assert [problem async for problem in problems(store)] == [
            "batch 'batch': results to 1 do not have their checksum",
            "batch 'batch': 1 of 1 results are missing",
        ]


async def test_opening_does_not_pass_a_damaged_record_for_whole(sqlite_path: Path) -> None:
    await filled(sqlite_path, 2)
    with sqlite3.connect(sqlite_path) as db:
        db.execute("UPDATE batches SET state = 'XX'")
    db.close()
    async with opened(sqlite_path) as store:
        with pytest.raises(DamagedError, match="its record does not have its checksum"):
            await store.get("batch")


async def test_damage_in_the_way_of_a_write_is_told_from_a_store_that_is_away(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        begun = begin()
        await store.write([begun])
        with sqlite3.connect(sqlite_path) as db:
            db.execute("UPDATE batches SET opening = x'00'")
        db.close()
        with pytest.raises(DamagedError, match=r"batch 'batch'.*journal check") as damage:
            await store.write([items(begun, 0)])
        assert damage.value.metadata["batch_id"] == "batch"


async def test_pages_that_are_zeroed_are_noticed_wherever_they_are(sqlite_path: Path) -> None:
    await filled(sqlite_path)
    whole = sqlite_path.read_bytes()
    for page in range(len(whole) // 4096):
        Path(f"{sqlite_path}-wal").unlink(missing_ok=True)
        sqlite_path.write_bytes(whole)
        overwrite(sqlite_path, page * 4096, bytes(4096))
        way_on = "restore a backup" if page == 0 else "journal (check|export)"
        with pytest.raises(DamagedError, match=rf"damaged.*{way_on}"):
            async with opened(sqlite_path) as store:
                # Pages that hold nothing of the batch, such as those of empty tables, are found when they are used.
                begun = await store.claim("batch", "me", 60)
                assert begun is not None
                await store.single("key")
                await store._run(integrity, store)


def integrity(store: SqliteStore) -> None:
    found = store._open_db.execute("PRAGMA integrity_check").fetchall()
    if found != [("ok",)]:
        raise DamagedError(f"damaged: {found}; journal check")


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.9, 0.999])
async def test_a_truncated_file_is_refused(sqlite_path: Path, keep: float) -> None:
    await filled(sqlite_path)
    os.truncate(sqlite_path, int(sqlite_path.stat().st_size * keep))
    with pytest.raises(DamagedError, match=r"damaged.*journal check"):
        await SqliteStore(sqlite_path).open()


async def test_an_emptied_file_is_not_taken_for_a_new_journal(sqlite_path: Path) -> None:
    await filled(sqlite_path)
    os.truncate(sqlite_path, 0)
    with pytest.raises(DamagedError, match="is empty, but it was not"):
        await SqliteStore(sqlite_path).open()


async def test_a_log_without_its_file_is_refused(sqlite_path: Path) -> None:
    copy = await crashed(sqlite_path)
    copy.unlink()
    with pytest.raises(DamagedError, match="is empty, but it was not"):
        await SqliteStore(copy).open()
    assert Path(f"{copy}-wal").stat().st_size


@pytest.mark.parametrize(
    ("content", "said"), [(b"no database, but long enough to be one" * 200, "damaged"), (None, "but no journal")]
)
async def test_another_file_is_refused(sqlite_path: Path, content: bytes | None, said: str) -> None:
    if content is None:
        with sqlite3.connect(sqlite_path) as db:
            db.execute("CREATE TABLE caches (name)")
        db.close()
    else:
        sqlite_path.write_bytes(content)
    before = sqlite_path.read_bytes()
    sqlite_path.chmod(0o644)
    with pytest.raises(DamagedError, match=said):
        await SqliteStore(sqlite_path).open()
    assert (sqlite_path.read_bytes(), stat.S_IMODE(sqlite_path.stat().st_mode)) == (before, 0o644)


async def test_a_newer_schema_is_refused(sqlite_path: Path) -> None:
    await filled(sqlite_path, 1)
    with sqlite3.connect(sqlite_path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for inspect in (False, True):
        with pytest.raises(DamagedError, match=r"schema version 99, newer than the 3 .* run the newer batch-llm"):
            await SqliteStore(sqlite_path).open(inspect=inspect)


async def test_an_older_schema_moves_forward(sqlite_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(sqlite_path)
    steps = ("CREATE TABLE one (x);\nINSERT INTO one VALUES (1);\n", "ALTER TABLE one ADD COLUMN y")
    monkeypatch.setattr("batch_llm.journal.sqlite._STEPS", (*sqlite._STEPS, *steps))
    monkeypatch.setattr("batch_llm.journal.sqlite.VERSION", 5)
    for _ in range(2):
        async with opened(sqlite_path) as store:
            assert len(await all_results(store)) == 40
            assert await store._run(store._version) == 5
            assert await store._run(store._all_rows, "SELECT x, y FROM one", ()) == [(1, None)]


async def test_a_file_of_version_1_moves_forward(sqlite_path: Path) -> None:
    with sqlite3.connect(sqlite_path) as db:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.executescript((Path(__file__).parent / "journal_version_1.sql").read_text())
        db.execute("PRAGMA application_id = 1649167434")
        db.execute("PRAGMA user_version = 1")
    db.close()
    registration = Registration("triage", b"spec")
    async with opened(sqlite_path, inspect=True) as store:
        assert [problem async for problem in problems(store)] == []
        assert await store.strategies() == [], "an older one can be looked into"
    async with opened(sqlite_path) as store:
        assert await all_results(store) == [Results("batch", 0, (1,), (0,), 0, b"results")]
        assert await store.single("key") == SingleRecord("key", b"digest", b"result", "", 0.0)
        await store.write([registration])
    async with opened(sqlite_path) as store:
        assert [problem async for problem in problems(store)] == []
        assert await store.strategies() == [registration]
        assert await store._run(store._version) == 3


@pytest.mark.parametrize("change", ["name = 'other'", "spec = x'00'"])
async def test_a_damaged_strategy_is_noticed_at_the_start(sqlite_path: Path, change: str) -> None:
    async with opened(sqlite_path) as store:
        await store.write([Registration("triage", b"spec"), Registration("whole", b"spec")])
    with sqlite3.connect(sqlite_path) as db:
        db.execute(f"UPDATE strategies SET {change} WHERE name = 'triage'")
    db.close()
    with pytest.raises(DamagedError, match=r"the record of strategy '(triage|other)' does not have its checksum"):
        await SqliteStore(sqlite_path).open()
    async with opened(sqlite_path, inspect=True) as store:
        assert len([problem async for problem in problems(store)]) == 1
        found: list[str] = []
        assert [one.name for one in await store.strategies(damaged=found.append)] == ["whole"]
        assert len(found) == 1


async def test_the_bytes_of_a_strategy_leave_the_file(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        await store.write([Registration("triage", b"a confidential instruction")])
        assert await store.unregister("triage")
        files = [file.read_bytes() for file in sqlite_path.parent.iterdir()]
    assert not any(b"a confidential instruction" in content for content in files)


async def test_the_files_are_the_owners_alone(sqlite_path: Path) -> None:
    mask = os.umask(0)
    try:
        async with opened(sqlite_path) as store:
            await store.write([begin()])
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in sqlite_path.parent.iterdir()}
    finally:
        os.umask(mask)
    assert modes == dict.fromkeys((f"journal.db{suffix}" for suffix in ("", "-wal", "-shm", "-lock")), 0o600)
    sqlite_path.chmod(0o644)  # by a restored backup, for instance
    async with opened(sqlite_path):
        assert stat.S_IMODE(sqlite_path.stat().st_mode) == 0o600


async def test_one_sidecar_at_a_time(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        begun = begin()
        await store.write([begun])
        with pytest.raises(StoreError, match="in use by another sidecar"):
            await SqliteStore(sqlite_path).open()
        link = sqlite_path.with_name("link.db")
        link.symlink_to(sqlite_path)
        with pytest.raises(StoreError, match="in use by another sidecar"):
            await SqliteStore(link).open()
        async with opened(sqlite_path, inspect=True) as reader:
            await store.write([results(begun, 1)])
            assert len(await all_results(reader)) == 1, "it can be read meanwhile"
            with pytest.raises(StoreError):
                await reader.write([results(begun, 2)])


async def test_a_locked_database_is_an_error_that_passes(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        begun = begin()
        await store.write([begun])
        await store._run(lambda: store._open_db.execute("PRAGMA busy_timeout = 0"))
        other = sqlite3.connect(sqlite_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"journal\.db: database is locked: another process holds it") as locked:
            await store.write([results(begun, 1)])
        assert not locked.value.full
        other.execute("ROLLBACK")
        other.close()
        await store.write([results(begun, 1)])
        assert len(await all_results(store)) == 1


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, full when it is full."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this process may not mount: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk_is_an_error_that_passes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        ballast = disk / "ballast"
        async with opened(disk / "journal.db") as store:
            begun = begin()
            await store.write([begun, results(begun, 1)])
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(4096))
            for _ in range(2):
                with pytest.raises(StoreError, match=r"journal\.db: .*make room") as full:
                    await store.write([results(begun, 2, payload=b"x" * 50_000)])
                assert full.value.full
            assert len(await all_results(store)) == 1
            ballast.unlink()
            await store.write([results(begun, 2, payload=b"x" * 50_000)])
        async with opened(disk / "journal.db") as store:
            assert [record.sequences for record in await all_results(store)] == [(1,), (2,)]


async def test_a_file_that_may_not_grow_is_an_error_that_passes(sqlite_path: Path) -> None:
    """The same by a limit on file sizes, which needs no mount."""
    async with opened(sqlite_path) as store:
        begun = begin()
        await store.write([begun, results(begun, 1)])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            with pytest.raises(StoreError, match=r"journal\.db: "):
                await store.write([results(begun, 2, payload=b"x" * 300_000)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        await store.write([results(begun, 2, payload=b"x" * 300_000)])
        assert [record.sequences for record in await all_results(store)] == [(1,), (2,)]


async def test_a_read_only_journal_is_an_error_that_passes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with opened(disk / "journal.db") as store:
            begun = begin()
            await store.write([begun])
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreError, match=r"journal\.db.*Read-only|journal\.db.*read-only") as refused:
            await SqliteStore(disk / "journal.db").open()
        assert not refused.value.full
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        async with opened(disk / "journal.db") as store:
            assert len(await everything(store)) == 1


async def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no directory"):
        await SqliteStore(tmp_path / "none" / "journal.db").open()


async def test_a_closed_store_is_an_error(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        await store.get("batch")


def bytes_on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


@pytest.mark.parametrize("erase", ["delete", "expire"])
async def test_erased_bytes_are_gone_from_the_files(sqlite_path: Path, erase: str) -> None:
    secrets = [
        b"SECRET-OPENING",
        b"SECRET-PROMPT",
        b"SECRET-OUTPUT",
        b"SECRET-TOTALS",
        b"SECRET-BATCH",
        b"SECRET-SINGLE",
    ]
    opening, prompt, output, totals, name, single = secrets
    async with opened(sqlite_path) as store:
        begun, other = begin(name.decode(), opening=opening), begin("other", opening=b"KEPT-OPENING")
        await store.write([begun, other, Single("key", b"digest", single)])
        for number in range(300):
            await store.write(
                [
                    items(begun, number, payload=prompt * (1 + number * 7)),
                    items(other, number, payload=b"KEPT-PROMPT" * number),
                    results(begun, number + 1, payload=output * (1 + number % 5)),
                ]
            )
        await store.write([Change(begun.batch_id, begun.fence, state=BatchState.FINISHED, result=totals, owner="")])
        assert all(secret in bytes_on_disk(sqlite_path) for secret in secrets)
        size = sqlite_path.stat().st_size
        if erase == "delete":
            assert await store.delete(begun.batch_id)
            secrets.remove(single)
        else:
            assert await store.expire(-60) == 1
        left = bytes_on_disk(sqlite_path)
        assert [secret for secret in secrets if secret in left] == []
        assert left.count(b"KEPT-PROMPT") >= sum(range(300))
        assert sqlite_path.stat().st_size < size / 2, "the room is given back"
        assert len(await all_items(store, "other")) == 300


async def test_singles_that_expire_give_their_room_back(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        await store.write([Single(str(number), b"digest", b"SECRET" * 1000) for number in range(100)])
        assert await store.expire(-60) == 0
        assert b"SECRET" not in bytes_on_disk(sqlite_path)
        assert sqlite_path.stat().st_size < 100_000


async def test_an_erasure_that_was_cut_short_is_finished_at_the_next_start(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        begun = begin()
        await store.write([begun, *(items(begun, number, payload=b"SECRET" * 500) for number in range(50))])
        assert await store._run(store._forget, "batch_id = ?", ("batch",)) == 1
        again = begin()
        await store.write([again, items(again, 0, payload=b"new")])
    assert b"SECRET" in bytes_on_disk(sqlite_path)
    async with opened(sqlite_path) as store:
        assert b"SECRET" not in bytes_on_disk(sqlite_path)
        assert [record.payload for record in await all_items(store)] == [b"new"]


async def test_a_reader_that_holds_the_log_is_said(sqlite_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(sqlite_path) as store:
        await store._run(lambda: store._open_db.execute("PRAGMA busy_timeout = 0"))
        begun, later = begin(), begin("later")
        await store.write([begun, later, items(begun, 0, payload=b"SECRET" * 500)])
        reader = sqlite3.connect(sqlite_path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM items").fetchone()
        assert await store.delete("batch")
        assert "a reader is at work" in caplog.text
        reader.close()
        assert await store.delete("later")
        assert b"SECRET" not in bytes_on_disk(sqlite_path)


async def test_the_loop_does_not_wait_for_the_disk(sqlite_path: Path) -> None:
    async with opened(sqlite_path) as store:
        begun = begin()
        await store.write([begun])
        other = sqlite3.connect(sqlite_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.write([results(begun, 1)]))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not writing.done()
        other.execute("ROLLBACK")
        other.close()
        await writing
