"""`batch-llm-sidecar journal` on a SQLite file of which one page is zeroed, torn or overwritten."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pytest

from batch_llm.journal.sqlite import SqliteStore
from batch_llm.journal.store import Begin, Items, Registration, Results, Starts
from batch_llm.sidecar.cli import main
from batchllm.v1 import batch_service_pb2, work_pb2
from batchllm.v1.strategy_service_pb2 import StrategySpec

_PAGE = 4096
_BATCHES = 30
_EXPORT = "batch-llm-sidecar journal export"
_NEW_JOURNAL = "restore a backup, or start with another journal.url"


async def fill(path: Path) -> None:
    """Batches side by side, small and large records, the same bytes every time."""
    rng = random.Random(7)
    store = SqliteStore(path, clock=lambda: 1e9)
    await store.open()
    specs = [StrategySpec(name=f"strategy-{number}", provider="sim", model="m" * 900) for number in range(20)]
    await store.write([Registration(spec.name, spec.SerializeToString()) for spec in specs])
    begun = [
        Begin(f"batch {number:02} " + "x" * 200, rng.randbytes(700), False, "", 0, fence=number)
        for number in range(_BATCHES)
    ]
    await store.write(begun)
    for number in range(12):
        for batch in begun:
            large = 9000 if rng.random() < 0.05 else rng.choice((10, 300))
            item = work_pb2.WorkItem(item_id=f"{batch.fence}-{number}", prompt="p" * large)
            result = work_pb2.WorkItemResult(item_id=item.item_id, submission_index=number, sequence=number + 1)
            result.output.text = "r" * large
            items = batch_service_pb2.WorkItems(items=[item]).SerializeToString()
            results = batch_service_pb2.WorkItemResults(results=[result]).SerializeToString()
            await store.write(
                [
                    Items(batch.batch_id, batch.fence, number, 1, items),
                    Starts(batch.batch_id, batch.fence, (number,)),
                    Results(batch.batch_id, batch.fence, (number + 1,), (number,), 0, results),
                ]
            )
    await store.close()


@dataclass
class Torn:
    """A journal that was whole, to be damaged again and again."""

    path: Path
    content: bytes
    lines: list[str]
    """Of its export."""
    capsys: pytest.CaptureFixture[str]

    def run(self, action: str) -> tuple[int, list[str], str]:
        """Exit code, lines and errors of the command."""
        code = main(["journal", action, str(self.path)])
        said = self.capsys.readouterr()
        return code, said.out.splitlines(), said.err

    def damage(self, page: int, how: str) -> bool:
        """Whether that changed anything."""
        old = self.content[(page - 1) * _PAGE : page * _PAGE]
        half = _PAGE // 2
        new = {
            "zeroed": bytes(_PAGE),
            "random": random.Random(page).randbytes(_PAGE),
            "first half only": old[:half] + bytes(half),
            "second half only": bytes(half) + old[half:],
            "header only": old[:100] + random.Random(page).randbytes(_PAGE - 100),
        }[how]
        self.path.write_bytes(self.content[: (page - 1) * _PAGE] + new + self.content[page * _PAGE :])
        return new != old

    def restore(self) -> None:
        self.path.write_bytes(self.content)

    def on_page(self, page: int) -> set[str]:
        """Lines of the export that need this page: those of its items, results or strategies, or of those below it."""
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as db:
            found = db.execute("SELECT name, pagetype, path FROM dbstat WHERE pageno = ?", (page,)).fetchone()
            if found is None or found[0] not in {"items", "results", "strategies"}:
                return set()
            table, _, path = found
            leaf, plus, _ = path.partition("+")
            ask = "SELECT path, ncell FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path"
            leaves = db.execute(ask, (table,)).fetchall()
            rowids = [rowid for (rowid,) in db.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]  # noqa: S608
            ids = dict(db.execute("SELECT key, batch_id FROM batches"))
            names = dict(db.execute("SELECT rowid, name FROM strategies"))
        ends = list(accumulate(cells for _, cells in leaves))
        assert ends[-1] == len(rowids)
        lost: list[int] = []
        for (below, cells), end in zip(leaves, ends, strict=True):
            if plus and below == leaf.rpartition("/")[0] + "/":
                lost.append(rowids[end - cells + int(leaf.rpartition("/")[2], 16)])
            elif not plus and below.startswith(path):
                lost += rowids[end - cells : end]
        assert lost
        if table == "strategies":
            gone = {(names[rowid], None) for rowid in lost}
        else:
            first = table == "results"  # sequences begin at 1
            gone = {(ids[rowid >> 32], (table, (rowid & 0xFFFFFFFF) - first)) for rowid in lost}
        return {line for line in self.lines if record_of(line) in gone}


def record_of(line: str) -> tuple[str, tuple[str, int] | None]:
    row = json.loads(line)
    if "strategy" in row:
        return row["strategy"]["name"], None
    if "item" in row:
        return row["batch_id"], ("items", row["index"])
    return row["batch_id"], ("results", int(row["result"]["sequence"]) - 1)


@pytest.fixture
def torn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Torn]:
    path = tmp_path / "journal.db"
    asyncio.run(fill(path))
    torn = Torn(path, path.read_bytes(), [], capsys)
    code, torn.lines, errors = torn.run("export")
    assert (code, len(torn.lines), errors) == (0, 20 + _BATCHES * 24, "")
    return torn


_WAYS = ("zeroed", "random", "first half only", "second half only")


def test_all_that_does_not_need_a_damaged_page_is_exported(torn: Torn) -> None:
    pages = len(torn.content) // _PAGE
    rng = random.Random(20)
    for page, how in ((rng.randrange(2, pages + 1), rng.choice(_WAYS)) for _ in range(40)):
        check_export(torn, page, how)


def check_export(torn: Torn, page: int, how: str) -> None:
    which = f"page {page} {how}"
    torn.restore()
    needed = torn.on_page(page)
    if not torn.damage(page, how):
        return
    code, said, advice = torn.run("check")
    assert (code, advice.count(_EXPORT), advice.count("journal check")) == (1, 1, 0), which
    assert len(said) > 1, which
    code, lines, errors = torn.run("export")
    assert set(lines) >= set(torn.lines) - needed, which
    assert set(lines) <= set(torn.lines), which
    assert len(lines) == len(set(lines)), which
    lost = len(torn.lines) > len(lines)
    assert code == 1 if lost else code in {0, 1}, which
    assert (_NEW_JOURNAL in errors) == (code == 1), which
    assert "journal check" not in errors, which
    assert _EXPORT not in errors, which
