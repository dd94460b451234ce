"""`batch-llm-sidecar journal` on journals that are whole and damaged."""

import asyncio
import json
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_llm.journal.sqlite import SqliteStore
from batch_llm.journal.store import Begin, Items, Registration, Results, Starts
from batch_llm.sidecar.cli import main
from batchllm.v1 import batch_service_pb2, work_pb2
from batchllm.v1.strategy_service_pb2 import StrategySpec

_AFTER_CHECK = (
    "the way on: save what can be read with `batch-llm-sidecar journal export`, then restore a backup, or start with "
    "another journal.url and send again what is missing"
)
_AFTER_EXPORT = "the way on: restore a backup, or start with another journal.url and send again what is missing"

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, list[str], str]:
        code = main(["journal", *arguments])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return run


async def fill(path: Path, records: int = 30) -> None:
    store = SqliteStore(path)
    await store.open()
    for name in ("nightly", "other"):
        begun = Begin(name, b"", detach=False, owner="me", lease_seconds=60)
        await store.write([begun])
        for number in range(records):
            item = work_pb2.WorkItem(item_id=f"{name}-{number}", prompt="größer " * 300)
            result = work_pb2.WorkItemResult(item_id=item.item_id, submission_index=number, sequence=number + 1)
            result.output.text = f"answer {number}"
            items = batch_service_pb2.WorkItems(items=[item]).SerializeToString()
            results = batch_service_pb2.WorkItemResults(results=[result]).SerializeToString()
            await store.write(
                [
                    Items(name, begun.fence, number, 1, items),
                    Starts(name, begun.fence, (number,)),
                    Results(name, begun.fence, (number + 1,), (number,), 0, results),
                ]
            )
    await store.close()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    asyncio.run(fill(tmp_path / "journal.db"))
    return tmp_path / "journal.db"


def change(journal: Path, statement: str) -> None:
    with sqlite3.connect(journal) as db:
        assert db.execute(statement).rowcount == 1
    db.close()


def test_a_whole_journal(journal: Path, tmp_path: Path, run: Run) -> None:
    assert run("check", str(journal)) == (0, ["the journal is whole"], "")
    config = tmp_path / "sidecar.toml"
    config.write_text(f'[server]\nstate_dir = "{tmp_path}"\n')
    assert run("check", "--config", str(config)) == (0, ["the journal is whole"], "")
    code, lines, errors = run("export", "--config", str(config))
    assert (code, errors) == (0, "")
    rows = [json.loads(line) for line in lines]
    assert [row["batch_id"] for row in rows] == ["nightly"] * 60 + ["other"] * 60
    assert rows[1]["index"] == 1
    assert (rows[1]["item"]["item_id"], rows[1]["item"]["prompt"][:6]) == ("nightly-1", "größer")
    assert rows[31]["result"]["output"] == {"text": "answer 1"}
    _, lines, _ = run("export", "--batch-id", "other", str(journal))
    assert {json.loads(line)["batch_id"] for line in lines} == {"other"}


def test_it_is_read_beside_a_running_sidecar(journal: Path, run: Run) -> None:
    store = SqliteStore(journal)
    asyncio.run(store.open())
    try:
        assert run("check", str(journal)) == (0, ["the journal is whole"], "")
    finally:
        asyncio.run(store.close())


@pytest.mark.parametrize(("to", "code", "said"), [("| head -c 1", 141, ""), ("> /dev/full", 2, "No space left")])
def test_an_export_that_nobody_takes(journal: Path, to: str, code: int, said: str) -> None:
    export = shlex.join([sys.executable, "-m", "batch_llm.sidecar.cli", "journal", "export", str(journal)])
    shell = ["bash", "-c", f"{export} {to}; exit ${{PIPESTATUS[0]}}"]
    ended = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert len(ended.stderr.splitlines()) == (1 if said else 0), ended.stderr
    assert said in ended.stderr


def test_damaged_records_are_said_and_skipped(journal: Path, run: Run) -> None:
    change(journal, "UPDATE items SET payload = x'00' WHERE place = (1 << 32) + 3")
    change(journal, "DELETE FROM results WHERE place = (2 << 32) + 7")
    code, said, _ = run("check", str(journal))
    assert (code, said) == (
        1,
        [
            "batch 'nightly': items from 3 on do not have their checksum",
            "batch 'nightly': items 3 to 3 are missing",
            "batch 'other': 1 of 30 results are missing",
            "3 problems",
        ],
    )
    code, lines, errors = run("export", str(journal))
    assert code == 1
    assert len(lines) == 118
    assert errors.splitlines() == [*said[:-1], _AFTER_EXPORT]


def test_registered_strategies_are_checked_and_exported(tmp_path: Path, run: Run) -> None:
    async def fill() -> None:
        store = SqliteStore(tmp_path / "journal.db")
        await store.open()
        spec = StrategySpec(name="triage", provider="sim", model="m")
        broken = Registration("broken", b"\xff")
        await store.write([Registration("triage", spec.SerializeToString()), broken, Registration("worn", b"")])
        await store.write([Begin("b", b"", detach=False, owner="me", lease_seconds=60)])
        await store.close()

    asyncio.run(fill())
    path = tmp_path / "journal.db"
    change(path, "UPDATE strategies SET spec = x'00' WHERE name = 'worn'")
    worn = "the record of strategy 'worn' does not have its checksum"
    assert run("check", str(path)) == (1, [worn, "1 problems"], f"{_AFTER_CHECK}\n")
    code, lines, errors = run("export", str(path))
    assert (code, list(map(json.loads, lines))) == (
        1,
        [{"strategy": {"name": "triage", "provider": "sim", "model": "m"}}],
    )
    assert "strategy 'broken' is no message" in errors
    assert worn in errors
    assert run("export", "--batch-id", "b", str(path)) == (0, [], "")


def test_what_lies_before_and_behind_a_damaged_page_is_exported(journal: Path, run: Run) -> None:
    with sqlite3.connect(journal) as db:
        found = db.execute("SELECT pageno FROM dbstat WHERE name = 'items' AND pagetype = 'leaf' ORDER BY path")
        leaves = [page for (page,) in found]
    db.close()
    with journal.open("r+b") as file:
        file.seek((leaves[len(leaves) // 3] - 1) * 4096)
        file.write(bytes(4096))
    code, said, _ = run("check", str(journal))
    assert code == 1
    assert any("malformed" in line or "page" in line.lower() for line in said), said
    code, lines, errors = run("export", str(journal))
    assert code == 1
    assert "is damaged" in errors
    indexes = [(row["batch_id"], row["index"]) for row in map(json.loads, lines) if "item" in row]
    assert len(indexes) == len(set(indexes))
    assert 50 <= len(indexes) < 60
    assert {("nightly", 0), ("other", 29)} <= set(indexes)
    assert sum("result" in json.loads(line) for line in lines) == 60


def test_a_payload_that_is_no_message_is_said(tmp_path: Path, run: Run) -> None:
    async def fill() -> None:
        store = SqliteStore(tmp_path / "journal.db")
        await store.open()
        begun = Begin("b", b"", detach=False, owner="me", lease_seconds=60)
        results = Results("b", begun.fence, (1,), (0,), 0, b"\xff")
        await store.write([begun, Items("b", begun.fence, 0, 1, b"\xff"), results])
        await store.close()

    asyncio.run(fill())
    code, lines, errors = run("export", str(tmp_path / "journal.db"))
    assert (code, lines) == (1, [])
    assert "items from 0 on are no message" in errors
    assert "results to 1 are no message" in errors


@pytest.mark.parametrize("action", ["check", "export"])
def test_what_is_no_journal(tmp_path: Path, run: Run, action: str) -> None:
    code, lines, errors = run(action, str(tmp_path / "none.db"))
    assert (code, lines) == (2, [])
    assert "does not exist" in errors
    (tmp_path / "text").write_bytes(b"no database at all" * 1000)
    code, _, errors = run(action, str(tmp_path / "text"))
    assert code == 1
    assert "not a database: it is another file, or its beginning is damaged; name the journal's file" in errors
    assert "journal check" not in errors, "that is what was run"
    config = tmp_path / "sidecar.toml"
    config.write_text('[journal]\nurl = "memory"\n')
    code, _, errors = run(action, "--config", str(config))
    assert code == 2
    assert "nothing to look into" in errors


def test_an_unknown_batch(journal: Path, run: Run) -> None:
    code, lines, errors = run("export", "--batch-id", "none", str(journal))
    assert (code, lines, errors) == (2, [], "the journal has no batch 'none'\n")
