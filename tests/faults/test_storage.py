"""A disk that is full or read-only, a database that is locked, a journal that is damaged."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from batch_llm_client import BatchClient, WorkItem
from batch_llm_client.errors import BatchLLMClientError
from tests.contract.test_sqlite_store import overwrite

from .conftest import MakeHouse, Record
from .house import MAX_CONCURRENCY, House, Job
from .processes import Process, until

_ITEMS = 120


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, full when it is full."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        why = f"this process may not mount, which a disk to fill needs: {mounted.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextmanager
def disk_house(make_house: MakeHouse, tmp_path: Path) -> Iterator[tuple[House, Path]]:
    with small_disk(tmp_path / "disk") as disk:
        house = make_house(state=disk / "state")
        try:
            yield house, disk
        finally:
            for process in house.processes:
                process.kill()  # else the disk is busy


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    return ballast


def under_way(house: House, random: Random) -> tuple[Job, Process]:
    """A batch in mid-run, with as many calls as there may be; `emulator.remove` lets them go on."""
    house.up()
    house.emulator.hold(kind="generate", skip=random.randrange(20, 60))
    job = house.job(_ITEMS)
    client = house.client(job)
    house.wait_for_held()
    return job, client


def new_work(house: House) -> str:
    """Why new work is refused."""
    with (
        BatchClient(house.target) as client,
        pytest.raises(BatchLLMClientError) as refused,
        client.process_batch([WorkItem("x", "x")], strategy="label", resume=False) as batch,
    ):
        list(batch)
    return f"{refused.value.code} {refused.value.reason}"


def idle(house: House) -> int:
    """Calls so far, once the provider has answered all of them."""
    until("answers", lambda: not house.unanswered())
    return house.calls()


def finish(house: House, job: Job, client: Process, fault: str, record: Record, *, faults: int = 1) -> None:
    assert client.wait(120) == 0, client.said
    record(house.check(fault, job, faults=faults))


def test_a_full_disk(make_house: MakeHouse, record: Record, random: Random, tmp_path: Path) -> None:
    with disk_house(make_house, tmp_path) as (house, disk):
        job, client = under_way(house, random)
        ballast = fill(disk)
        house.emulator.remove()
        assert house.sidecar is not None
        house.sidecar.until_said("the journal cannot be written; new work is refused, results are kept")
        assert new_work(house) == "RESOURCE_EXHAUSTED JOURNAL_FULL"
        before = idle(house)
        assert new_work(house) == "RESOURCE_EXHAUSTED JOURNAL_FULL"
        assert idle(house) == before, "an item was begun that the journal does not know of"
        assert client.code is None, client.said
        ballast.unlink()
        house.sidecar.until_said("the journal can be written again")
        assert client.wait(120) == 0, client.said
        row = house.check("disk full", job, faults=1)
        assert (row.calls, row.marked) == (_ITEMS, 0)
        record(row)


def test_a_kill_on_a_full_disk(make_house: MakeHouse, record: Record, random: Random, tmp_path: Path) -> None:
    with disk_house(make_house, tmp_path) as (house, disk):
        job, client = under_way(house, random)
        ballast = fill(disk)
        house.emulator.remove()
        assert house.sidecar is not None
        house.sidecar.until_said("the journal cannot be written")
        idle(house)
        house.kill()
        # What was in memory is gone, and was paid; the journal knows which items these may be.
        assert len(house.ended[job.batch_id][-1].open) <= MAX_CONCURRENCY
        assert "make room" in house.refused()
        house.look()
        ballast.unlink()
        house.up()
        finish(house, job, client, "disk full, kill -9", record)


def test_a_read_only_state_directory(make_house: MakeHouse, record: Record, random: Random, tmp_path: Path) -> None:
    with disk_house(make_house, tmp_path) as (house, disk):
        job, client = under_way(house, random)
        house.kill()
        house.emulator.remove()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        said = house.refused()
        assert "server.state_dir" in said
        assert "Read-only file system" in said
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        house.look()
        house.up()
        finish(house, job, client, "state directory read-only", record)


def test_a_locked_database(make_house: MakeHouse, record: Record, random: Random) -> None:
    house = make_house()
    job, client = under_way(house, random)
    assert house.sidecar is not None
    assert house.state is not None
    other = sqlite3.connect(house.state / "journal.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        house.emulator.remove()
        house.sidecar.until_said("the journal cannot be written; .*: another process holds it")
        assert new_work(house) == "UNAVAILABLE JOURNAL_UNAVAILABLE"
        before = idle(house)
        assert new_work(house) == "UNAVAILABLE JOURNAL_UNAVAILABLE"
        assert idle(house) == before
    finally:
        other.close()
    assert client.wait(120) == 0, client.said
    row = house.check("database locked", job, faults=1)
    assert (row.calls, row.marked) == (_ITEMS, 0)
    record(row)


def test_a_kill_while_the_database_is_locked(make_house: MakeHouse, record: Record, random: Random) -> None:
    house = make_house()
    job, client = under_way(house, random)
    assert house.sidecar is not None
    assert house.state is not None
    other = sqlite3.connect(house.state / "journal.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        house.emulator.remove()
        house.sidecar.until_said("the journal cannot be written")
        house.kill()
        assert "another process holds it" in house.refused()
        house.look()
    finally:
        other.close()
    house.up()
    finish(house, job, client, "database locked, kill -9", record)


# -- damage ------------------------------------------------------------------------------------------------------------


def journal_check(house: House) -> tuple[int, str]:
    command = [sys.executable, "-m", "batch_llm.sidecar.cli", "journal", "check"]
    done = subprocess.run([*command, f"{house.state}/journal.db"], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_a_write_that_was_cut_off(make_house: MakeHouse, record: Record, random: Random) -> None:
    """What a power cut leaves of a commit that was never promised, behind all that was."""
    house = make_house()
    job, client = under_way(house, random)
    house.kill()
    house.emulator.remove()
    log = Path(f"{house.state}/journal.db-wal")
    last = log.read_bytes()[-4120:]
    with log.open("ab") as file:
        file.write(last[: random.randrange(1, len(last))])
    sidecar = house.up()
    assert "of the last write, which a crash left unfinished" in sidecar.said
    finish(house, job, client, "journal, torn last write", record)


@pytest.mark.parametrize("damage", ["truncated", "corrupted", "corrupted log"])
def test_a_damaged_journal(make_house: MakeHouse, record: Record, random: Random, damage: str) -> None:
    house = make_house()
    job, client = under_way(house, random)
    journal, log = Path(f"{house.state}/journal.db"), Path(f"{house.state}/journal.db-wal")
    house.kill()
    house.emulator.remove()
    if damage == "corrupted log":
        at, file = log.stat().st_size // 3, log
    else:
        with closing(sqlite3.connect(journal)) as all_into_one_file:
            all_into_one_file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        found = journal.read_bytes().find(b"answer to ")
        at, file = found + 3, journal
    whole = file.read_bytes()
    if damage == "truncated":
        os.truncate(journal, journal.stat().st_size // 8192 * 4096)
    else:
        overwrite(file, at, bytes([whole[at] ^ 1]))
    calls = house.calls()
    said = house.refused()
    assert "journal check" in said, "the way on is missing"
    assert str(journal) in said
    code, problems = journal_check(house)
    assert code == 1, problems
    assert "damaged" in problems or "checksum" in problems or "malformed" in problems
    assert house.calls() == calls, "a damaged journal must not make anything run"
    file.write_bytes(whole)
    assert journal_check(house)[0] == 0
    house.up()
    finish(house, job, client, f"journal, {damage}", record)
