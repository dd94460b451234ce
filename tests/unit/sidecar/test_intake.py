import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.shared import SharedStrategy
from batch_llm.sidecar.intake import Intake
from batch_llm.sidecar.item_index import ItemIndex
from batch_llm.strategies.simulated import SimulatedStrategy
from batchllm.v1 import work_pb2

STRATEGIES = {name: SharedStrategy(SimulatedStrategy(), name=name) for name in ("triage", "other")}


def find(name: str) -> SharedStrategy:
    if name not in STRATEGIES:
        raise BatchLLMError(f"no {name}", reason=ErrorReason.STRATEGY_NOT_FOUND, metadata={"strategy": name})
    return STRATEGIES[name]


def item(**fields: Any) -> work_pb2.WorkItem:
    return work_pb2.WorkItem(**{"item_id": "1", "prompt": "p", **fields})


@pytest.fixture
def index() -> Iterator[ItemIndex]:
    index = ItemIndex()
    yield index
    index.close()


async def test_a_good_item_becomes_work_with_what_it_brings() -> None:
    work = Intake("triage", find).take(item(context=b"c"))
    assert work is not None
    assert (work.item_id, work.prompt, work.context, work.strategy) == ("1", "p", b"c", "triage")
    assert (work.shared, work.rejection, work.deadline) == (STRATEGIES["triage"], None, None)


async def test_an_items_own_strategy_beats_the_streams() -> None:
    work = Intake("triage", find).take(item(strategy="other"))
    assert work is not None
    assert (work.strategy, work.shared) == ("other", STRATEGIES["other"])


@pytest.mark.parametrize(
    ("fields", "default", "reason", "metadata"),
    [
        ({"item_id": ""}, "triage", ErrorReason.INVALID_ITEM, {"field": "item_id"}),
        ({"item_id": " \t"}, "triage", ErrorReason.INVALID_ITEM, {"field": "item_id"}),
        ({"item_id": "x" * 513}, "triage", ErrorReason.INVALID_ITEM, {"field": "item_id"}),
        ({"item_id": "é" * 257}, "triage", ErrorReason.INVALID_ITEM, {"field": "item_id"}),
        ({"prompt": ""}, "triage", ErrorReason.INVALID_ITEM, {"field": "prompt"}),
        ({"timeout": Duration(seconds=-1)}, "triage", ErrorReason.INVALID_ITEM, {"field": "timeout"}),
        ({"timeout": Duration(nanos=-1)}, "triage", ErrorReason.INVALID_ITEM, {"field": "timeout"}),
        ({}, "", ErrorReason.INVALID_ITEM, {"field": "strategy"}),
        ({"strategy": "triag"}, "triage", ErrorReason.STRATEGY_NOT_FOUND, {"strategy": "triag"}),
    ],
)
async def test_a_bad_item_is_rejected_by_field_and_keeps_its_own(
    index: ItemIndex, fields: dict[str, Any], default: str, reason: ErrorReason, metadata: dict[str, str]
) -> None:
    bad = item(**{"context": b"c", **fields})
    work = Intake(default, find, index).take(bad)
    assert work is not None
    assert work.rejection is not None
    assert (work.rejection.reason, work.rejection.metadata) == (reason, metadata)
    assert (work.item_id, work.context) == (bad.item_id, b"c")


@pytest.mark.parametrize("item_id", ["x" * 512, "é" * 256, " x ", "7"])
async def test_the_longest_and_oddest_ids_are_taken(item_id: str) -> None:
    work = Intake("triage", find).take(item(item_id=item_id))
    assert work is not None
    assert work.rejection is None


async def test_the_deadline_counts_from_now() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    work = Intake("triage", find).take(item(timeout=Duration(seconds=5, nanos=500_000_000)))
    after = loop.time()
    assert work is not None
    assert work.deadline is not None
    assert before + 5.5 <= work.deadline <= after + 5.5


async def test_a_timeout_of_zero_is_none() -> None:
    work = Intake("triage", find).take(item(timeout=Duration()))
    assert work is not None
    assert (work.deadline, work.rejection) == (None, None)


async def test_an_item_that_is_sent_again_is_taken_once(index: ItemIndex) -> None:
    intake = Intake("triage", find, index)
    assert intake.take(item()) is not None
    assert intake.take(item()) is None
    assert intake.take(item(strategy="triage")) is None, "the stream's strategy by name is the same content"
    again = intake.take(item(prompt="q"))
    assert again is not None
    assert again.rejection is not None
    assert again.rejection.reason is ErrorReason.ITEM_ID_CONFLICT
    assert intake.take(item(item_id="2")) is not None


async def test_an_id_that_was_rejected_is_still_free(index: ItemIndex) -> None:
    intake = Intake("triage", find, index)
    intake.take(item(prompt=""))
    work = intake.take(item())
    assert work is not None
    assert work.rejection is None


async def test_without_an_index_nothing_is_a_repetition() -> None:
    intake = Intake("triage", find)
    assert intake.take(item()) is not None
    assert intake.take(item()) is not None
