"""The engine's rules where the wire shows them: quotas, adaptive concurrency, fairness, escalation."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest

from batch_llm_client import BatchClient, WorkItem
from batch_llm_client.errors import InvalidRequestError
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub
from batchllm.v1.work_pb2 import WorkItem as WireItem

from .conftest import Start, script
from .streams import Stream
from .test_journal import House, many

CONFIG = """
[providers.paused]
kind = "simulated"
[providers.paused.rate_limit]
cooldown_seconds = 0.2
slow_start_items = 0
[providers.stopped]
kind = "simulated"
[providers.stopped.rate_limit]
cooldown_seconds = 3600
max_cooldown_seconds = 3600
[providers.hidden]
kind = "simulated"
max_concurrency = "adaptive"
hidden_max_in_flight = 20
[providers.narrow]
kind = "simulated"
max_concurrency = 2
[providers.budget]
kind = "simulated"
requests_per_minute = 5
[providers.few]
kind = "simulated"
models = ["a", "b"]
[strategies.paused]
provider = "paused"
[strategies.stopped]
provider = "stopped"
[strategies.stopped_too]
provider = "stopped"
model = "other"
[strategies.hidden]
provider = "hidden"
[strategies.narrow]
provider = "narrow"
[strategies.budget]
provider = "budget"
[strategies.graded]
provider = "narrow"
output_json_schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
escalation_models = ["simulated-large", "simulated-huge"]
"""

# One call at a time, which goes on when it is told to.
TURNS = """
[providers.ledger]
kind = "python"
factory = "tests.integration.factories:ledger"
max_concurrency = 1
[providers.ledger.options]
path = "{ledger}"
[strategies.turns]
provider = "ledger"
"""


@pytest.fixture(scope="module")
def target(start: Start) -> str:
    return start("--listen", "127.0.0.1:0", config=CONFIG).wait_for(r"serving on (\S+)")[1]


def test_a_429_pauses_its_model_and_no_other(target: str) -> None:
    throttled = WireItem(item_id="first", prompt=script(errors=[{"status": 429}]))
    with Stream(target, batch_id="b", strategy="stopped").send(throttled) as stream, BatchClient(target) as client:
        while not next(stream.call).progress.HasField("cooldown"):
            pass
        other = client.process_item(WorkItem("a", "x", strategy="stopped_too"))
        late = client.process_item(WorkItem("b", "x", strategy="stopped", timeout=0.1))
        client.cancel_batch("b")
    assert other.ok
    assert late.error is not None
    assert (late.error.reason, late.attempts) == ("ITEM_DEADLINE_EXCEEDED", 0)


def test_an_item_that_was_throttled_is_tried_again_after_the_pause(target: str) -> None:
    with BatchClient(target) as client:
        result = client.process_item(WorkItem("a", script(errors=[{"status": 429}]), strategy="paused"))
    assert (result.ok, result.attempts) == (True, 1)
    assert result.elapsed >= 0.2


def test_throttled_calls_are_bounded_by_the_strategys_setting(target: str) -> None:
    with BatchClient(target) as client:
        client.register_strategy(
            {"name": "impatient", "provider": "paused", "model": "third", "retry": {"max_rate_limit_retries": 1}}
        )
        result = client.process_item(WorkItem("a", script(error={"status": 429}), strategy="impatient"))
    assert result.error is not None
    assert (result.error.reason, result.error.retryable) == ("RATE_LIMITED", True)


def test_adaptive_concurrency_finishes_every_item_of_a_provider_that_throttles(target: str) -> None:
    items = [WorkItem(str(number), script(latency_ms=5)) for number in range(1500)]
    with BatchClient(target) as client, client.process_batch(items, strategy="hidden") as batch:
        assert all(result.ok for result in batch)
    assert batch.totals.succeeded == 1500


def test_a_large_batch_starves_neither_a_small_one_nor_a_single_item(start: Start, tmp_path: Path) -> None:
    house = House(start, tmp_path, config=TURNS).up()
    single = WireItem(item_id="single", prompt="single", strategy="turns")
    with (
        house.stream(batch_id="large", strategy="turns").send(*many("hold", range(400))).half_close() as large,
        BatchClient(house.target) as client,
        grpc.insecure_channel(house.target) as channel,
    ):
        house.wait_for_calls(1)  # and the others wait for it
        large.until(received=400)
        call = BatchServiceStub(channel).ProcessItem.future(pb.ProcessItemRequest(item=single))
        with house.stream(batch_id="small", strategy="turns").send(*many("small", range(5))).half_close() as small:
            small.until(received=5)
            while client.get_strategy("turns").users < 3:
                pass  # both batches and the single item
            house.open_the_gate()
            assert len(small.rest()) == 5
        assert call.result().result.output.text == "single"
        assert len(large.rest()) == 400
    order = house.calls_in_order()
    assert order.index("single") <= 3, "one call of each before it comes again"
    assert order.index("small4") <= 1 + 1 + 2 * 5


def test_a_budget_holds_items_back_and_progress_goes_on(target: str) -> None:
    seen = threading.Event()
    items = [WorkItem(str(number), "x") for number in range(6)]
    with BatchClient(target) as client:
        batch = client.process_batch(items, strategy="budget", on_progress=lambda progress: seen.set())
        with batch:
            assert [next(iter(batch)).ok for _ in range(5)] == [True] * 5
            limited = client.process_item(WorkItem("late", "x", strategy="budget", timeout=0.3))
    assert limited.error is not None
    assert (limited.error.reason, limited.attempts) == ("ITEM_DEADLINE_EXCEEDED", 0)


def test_an_answer_that_fails_validation_moves_up_the_models(target: str) -> None:
    with BatchClient(target) as client:
        spec = client.get_strategy("graded").spec
        assert list(spec.escalation_models) == ["simulated-large", "simulated-huge"]
        result = client.process_item(WorkItem("a", script(reply="no number", input_tokens=10), strategy="graded"))
        assert result.error is not None
        assert (result.error.reason, result.attempts) == ("VALIDATION_FAILED", 3)
        assert result.usage.input_tokens >= 10
        fine = client.process_item(WorkItem("b", script(reply='{"n": 1}'), strategy="graded"))
        assert (fine.ok, fine.model, fine.attempts) == (True, "simulated", 1)
        moved = client.process_item(
            WorkItem(
                "c", script(replies=["no number"], reply='{"n": 1}', errors=[None, {"status": 503}]), strategy="graded"
            )
        )
        assert (moved.ok, moved.model, moved.attempts) == (True, "simulated-large", 3)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"escalation_models": ["", "x"]}, "escalation_models"),
        ({"escalation_models": [str(number) for number in range(9)]}, "escalation_models"),
        ({"escalation_models": ["x", "x"]}, "escalation_models: 'x' comes twice"),
        ({"model": "x", "escalation_models": ["x"]}, "escalation_models: 'x' comes twice"),
        ({"provider": "few", "model": "c"}, "model: provider 'few' has no model 'c'; known: a, b"),
        ({"provider": "few", "model": "a", "escalation_models": ["c"]}, "escalation_models: provider 'few' has no"),
        ({"escalation_models": ["x"]}, "escalation_models: without output_json_schema"),
        ({"escalation_models": ["x"], "retry": {"max_attempts": 1}}, "escalation_models: with retry.max_attempts = 1"),
        ({"max_concurrency": 3}, "max_concurrency: 3 calls are never in flight"),
        ({"attempt_timeout_seconds": 0.001}, "attempt_timeout_seconds"),
        ({"retry": {"max_rate_limit_retries": -1}}, "retry.max_rate_limit_retries"),
    ],
)
def test_settings_that_make_no_sense_are_refused(target: str, fields: dict[str, object], field: str) -> None:
    with BatchClient(target) as client, pytest.raises(InvalidRequestError) as failure:
        client.register_strategy({"name": "bad", "provider": "narrow", **fields})
    assert field in str(failure.value)
