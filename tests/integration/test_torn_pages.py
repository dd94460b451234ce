"""`batch-llm-sidecar journal` on a SQLite file of which one page is zeroed, torn or overwritten."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
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
_IDS = [f"batch {number:02} {'x' * 200}" for number in range(30)]
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
        Begin(batch_id, rng.randbytes(700), detach=False, owner="", lease_seconds=0, fence=number)
        for number, batch_id in enumerate(_IDS)
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


_WAYS = ("zeroed", "random", "first half only", "second half only")
_EACH_KIND = [
    *(
        (name, kind)
        for name in ("batches", "items", "results", "starts", "strategies")
        for kind in ("internal", "leaf")
    ),
    *(("sqlite_autoindex_batches_1", kind) for kind in ("internal", "leaf")),
    *((name, "overflow") for name in ("items", "results")),
    ("sqlite_autoindex_strategies_1", "leaf"),
]


@dataclass
class Torn:
    """A journal that was whole, to be damaged again and again."""

    path: Path
    content: bytes
    lines: list[str]
    """Of its export."""
    capsys: pytest.CaptureFixture[str]

    def run(self, action: str, *options: str) -> tuple[int, list[str], str]:
        """Exit code, lines and errors of the command."""
        code = main(["journal", action, *options, str(self.path)])
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
        with self.path.open("r+b") as file:
            file.seek((page - 1) * _PAGE)
            file.write(new)
        return new != old

    def page_of(self, name: str, kind: str) -> int:
        """The first of a table or an index."""
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as db:
            ask = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = ? ORDER BY path"
            return int(db.execute(ask, (name, kind)).fetchone()[0])

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
            gone: set[tuple[str, tuple[str, int] | None]] = {(names[rowid], None) for rowid in lost}
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
def torn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Torn:
    path = tmp_path / "journal.db"
    asyncio.run(fill(path))
    torn = Torn(path, path.read_bytes(), [], capsys)
    code, torn.lines, errors = torn.run("export")
    assert (code, len(torn.lines), errors) == (0, 20 + len(_IDS) * 24, "")
    return torn


def test_all_that_does_not_need_a_damaged_page_is_exported(torn: Torn) -> None:
    rng = random.Random(20)
    pages = range(2, len(torn.content) // _PAGE + 1)
    chosen = [(rng.choice(pages), rng.choice(_WAYS)) for _ in range(30)]
    chosen += [(torn.page_of(name, kind), "zeroed") for name, kind in _EACH_KIND]
    for page, how in chosen:
        torn.restore()
        needed = torn.on_page(page)
        if torn.damage(page, how):
            check_export(torn, needed, f"page {page}, {how}")


def check_export(torn: Torn, needed: set[str], which: str) -> None:
    """That all lines are exported but some of those that need what is damaged."""
    code, said, advice = torn.run("check")
    assert (code, advice.count(_EXPORT), advice.count("journal check")) == (1, 1, 0), which
    assert len(said) > 1, which
    code, lines, errors = torn.run("export")
    assert set(lines) >= set(torn.lines) - needed, which
    assert set(lines) <= set(torn.lines), which
    assert len(lines) == len(set(lines)), which
    assert code == 1 or len(lines) == len(torn.lines), which
    assert (_NEW_JOURNAL in errors) == (code == 1), which
    assert "batch-llm-sidecar journal" not in errors, which


@pytest.mark.parametrize("how", [*_WAYS, "header only"])
def test_a_damaged_first_page_is_said_with_the_way_on(torn: Torn, how: str) -> None:
    assert torn.damage(1, how)
    for action in ("check", "export"):
        code, lines, errors = torn.run(action)
        assert (code, lines) == (1, [])
        assert "journal.db" in errors
        assert _NEW_JOURNAL in errors
        assert f"journal {action}" not in errors, "that is what was run"
        assert "journal check" not in errors, "that comes before"


def test_a_batch_whose_id_is_lost_is_exported_by_its_key(torn: Torn) -> None:
    leaf, index = torn.page_of("batches", "leaf"), torn.page_of("sqlite_autoindex_batches_1", "internal")
    assert torn.damage(leaf, "zeroed")
    code, lines, errors = torn.run("export")
    assert (code, sorted(lines)) == (1, sorted(torn.lines)), "the index has the ids"
    lost = [batch_id for batch_id in _IDS if f"batch {batch_id!r}: its record cannot be read" in errors.splitlines()]
    assert 1 < len(lost) < 10
    assert torn.run("export", "--batch-id", lost[0])[1] == [line for line in torn.lines if lost[0] in line]
    assert torn.damage(index, "zeroed")
    code, lines, errors = torn.run("export")
    assert code == 1
    names = {batch_id: f"(unreadable batch_id, key {_IDS.index(batch_id) + 1})" for batch_id in lost}
    expected = torn.lines
    for batch_id, name in names.items():
        expected = [line.replace(batch_id, name) for line in expected]
    assert sorted(lines) == sorted(expected)
    assert "not all batches can be read" in errors
    assert "not all ids of batches can be read" in errors


def test_a_file_that_was_cut_short(torn: Torn) -> None:
    pages = len(torn.content) // _PAGE
    kept = pages * 2 // 3
    needed = set[str]().union(*map(torn.on_page, range(kept + 1, pages + 1)))
    torn.path.write_bytes(torn.content[: kept * _PAGE])
    check_export(torn, needed, "cut short")
    assert len(torn.run("export")[1]) > 100


def test_pages_that_are_torn_side_by_side_cost_no_more(torn: Torn) -> None:
    names = [("items", "leaf"), ("results", "leaf"), ("starts", "leaf"), ("batches", "leaf"), ("strategies", "leaf")]
    pages = [torn.page_of(*name) for name in names]
    needed = set[str]().union(*map(torn.on_page, pages))
    for page in pages:
        assert torn.damage(page, "zeroed")
    check_export(torn, needed, "the first leaf of each table")
