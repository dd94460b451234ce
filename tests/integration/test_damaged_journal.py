"""What clients are told when records of a journal are damaged under a sidecar that serves."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from batch_llm_client.cli import main
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.work_pb2 import WorkItem

from .conftest import Start
from .streams import reason_of
from .test_journal import House, many

_PAGE = 4096
_WAY_ON = re.compile("journal check.*journal export")


@pytest.fixture
def house(start: Start, tmp_path: Path) -> House:
    return House(start, tmp_path)


def journal(house: House) -> Path:
    return house.folder / "state" / "journal.db"


def finished(house: House, *batch_ids: str) -> None:
    for batch_id in batch_ids:
        with house.stream(batch_id=batch_id) as stream:
            assert len(stream.send(*many("x", range(3))).half_close().rest()) == 3


def change(house: House, statement: str) -> None:
    """A record of a journal that no sidecar has open."""
    with closing(sqlite3.connect(journal(house), isolation_level=None)) as db:
        assert db.execute(statement).rowcount == 1


def zero_last_page(house: House, table: str) -> None:
    """Of a table's leaves, where its next records belong."""
    with closing(sqlite3.connect(f"{journal(house).as_uri()}?mode=ro", uri=True)) as db:
        ask = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path DESC"
        (page,) = db.execute(ask, (table,)).fetchone()
    with journal(house).open("r+b") as file:
        file.seek((page - 1) * _PAGE)
        file.write(bytes(_PAGE))


def listed(house: House, page_size: int = 0) -> list[pb.BatchInfo]:
    """Of all pages."""
    found: list[pb.BatchInfo] = []
    request = pb.ListBatchesRequest(page_size=page_size)
    while True:
        page = house.ask("ListBatches", request)
        found += page.batches
        if not page.next_page_token:
            return found
        assert page.next_page_token != request.page_token
        request.page_token = page.next_page_token


def damage_of(error: grpc.RpcError, batch_id: str) -> None:
    """That the error says: this batch is damaged, and the way on."""
    assert error.code() is grpc.StatusCode.INTERNAL
    assert reason_of(error) == "INTERNAL"
    assert f"batch '{batch_id}'" in error.details()
    assert _WAY_ON.search(error.details())


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE batches SET results = 7",
        "UPDATE batches SET opening = x'ff'",
        "UPDATE batches SET create_time = 1e300",
        "UPDATE batches SET state = 'XX'",
        "UPDATE batches SET result = x'ff'",
    ],
)
def test_a_damaged_record_of_a_batch_that_ended_is_that_batchs_alone(
    house: House, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(house.up(), "a", "b", "c")
    house.stop()
    change(house, f"{damage} WHERE batch_id = 'b'")
    house.up()
    for page_size in (0, 1):
        batches = listed(house, page_size)
        assert [batch.batch_id for batch in batches] == ["a", "b", "c"]
        assert batches[1] == pb.BatchInfo(batch_id="b")
        assert [batch.done for batch in batches] == [3, 0, 3]
    assert main(["--target", house.target, "batches"]) == 0
    assert re.findall(r"^│ (\w+) +│ (\w+)", capsys.readouterr().out, re.MULTILINE) == [
        *(("a", "finished"), ("b", "damaged"), ("c", "finished"))
    ]
    for name, request in (("GetBatch", pb.GetBatchRequest), ("CancelBatch", pb.CancelBatchRequest)):
        with pytest.raises(grpc.RpcError) as refused:
            house.ask(name, request(batch_id="b"))
        damage_of(refused.value, "b")
    with pytest.raises(grpc.RpcError) as refused:
        house.stream()
    damage_of(refused.value, "b")
    assert house.info("c").done == 3
    house.ask("DeleteBatch", pb.DeleteBatchRequest(batch_id="b"))
    assert [batch.batch_id for batch in listed(house)] == ["a", "c"]
    with closing(sqlite3.connect(f"{journal(house).as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("SELECT DISTINCT place >> 32 FROM results").fetchall() == [(1,), (3,)], "its records too"
    assert house.sidecar is not None
    house.stop()
    log = house.sidecar.whole_log()
    assert log.count("WARNING batch 'b': its record does not have its checksum") == 1, "said once"


def test_a_list_ends_with_an_id_that_is_damaged(house: House) -> None:
    finished(house.up(), "a", "b")
    house.stop()
    change(house, "UPDATE batches SET batch_id = CAST(x'ff62' AS TEXT) WHERE batch_id = 'b'")
    house.up()
    assert [batch.batch_id for batch in listed(house, 1)][:2] == ["a", "\ufffdb"]


@pytest.mark.parametrize("table", ["results", "starts"])
def test_a_damaged_page_under_a_running_sidecar_ends_the_stream(house: House, table: str) -> None:
    finished(house.up(), "a", "b")
    house.stop()
    house.up()
    zero_last_page(house, table)
    with house.stream(batch_id="new") as new:
        with pytest.raises(grpc.RpcError) as ended:
            new.send(*many("x", range(3))).half_close().rest()
        damage_of(ended.value, "new")
    calls = house.calls()
    for batch_id in ("new", "later"):
        with pytest.raises(grpc.RpcError) as refused:
            house.stream(batch_id=batch_id)
        assert reason_of(refused.value) == "INTERNAL"
        assert "new work is refused until the sidecar is started anew" in refused.value.details()
        assert _WAY_ON.search(refused.value.details())
    single = pb.ProcessItemRequest(item=WorkItem(item_id="x", prompt="x", strategy="ledger"), idempotency_key="x")
    with pytest.raises(grpc.RpcError) as refused:
        house.ask("ProcessItem", single)
    assert reason_of(refused.value) == "INTERNAL"
    assert house.calls() == calls, "nothing is paid for whose result might be lost"
    assert [batch.batch_id for batch in listed(house)] == ["a", "b", "new"]
    house.stop()


def test_a_list_goes_round_a_damaged_page(house: House) -> None:
    ids = [f"{number:02} {'x' * 100}" for number in range(40)]
    finished(house.up(), *ids)
    house.stop()
    house.up()
    zero_last_page(house, "batches")
    with closing(sqlite3.connect(journal(house), isolation_level=None)) as db:
        db.execute("PRAGMA user_version = 3")  # another's write: what SQLite remembers of the file is read again
    batches = listed(house, 7)
    assert [batch.batch_id for batch in batches] == ids
    assert {batch.done for batch in batches[:20]} == {3}
    assert batches[-1] == pb.BatchInfo(batch_id=ids[-1])
    with pytest.raises(grpc.RpcError) as refused:
        house.info(ids[-1])
    assert _WAY_ON.search(refused.value.details())
    assert house.info(ids[0]).done == 3
    house.stop()
    assert house.sidecar is not None
    assert house.sidecar.whole_log().count(f"WARNING batch '{ids[-1]}': its record cannot be read") == 1, "said once"
