"""The engine's rules where the wire shows them: quotas, adaptive concurrency, fairness, escalation."""

from __future__ import annotations

import threading

import pytest

from batch_llm_client import BatchClient, WorkItem
from batch_llm_client.errors import InvalidRequestError

from .conftest import Start, script

CONFIG = """
[providers.paused]
kind = "simulated"
[providers.paused.rate_limit]
cooldown_seconds = 0.2
slow_start_items = 0
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
[strategies.paused_too]
provider = "paused"
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


@pytest.fixture(scope="module")
def target(start: Start) -> str:
    return start("--listen", "127.0.0.1:0", config=CONFIG).wait_for(r"serving on (\S+)")[1]


def test_a_429_pauses_its_model_and_no_other(target: str) -> None:
    items = [WorkItem("first", script(errors=[{"status": 429}]))]
    with BatchClient(target) as client, client.process_batch(items, strategy="paused") as batch:
        while not client.get_strategy("paused").prepared:
            pass
        other = client.process_item(WorkItem("a", "x", strategy="paused_too"))
        (first,) = batch
    assert (first.ok, first.attempts) == (True, 1)
    assert first.elapsed >= 0.2
    assert other.elapsed < first.elapsed


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


def test_a_large_batch_starves_neither_a_small_one_nor_a_single_item(target: str) -> None:
    large = [WorkItem(str(number), script(latency_ms=20)) for number in range(400)]
    with BatchClient(target) as client, client.process_batch(large, strategy="narrow") as batch:
        next(iter(batch))
        single = client.process_item(WorkItem("single", script(latency_ms=20), strategy="narrow"))
        with client.process_batch(large[:5], strategy="narrow") as small:
            assert all(result.ok for result in small)
        assert batch.progress is None or batch.progress.done < 400
        done_before = sum(1 for _ in batch)
    assert single.ok
    assert single.elapsed < 1.0  # in turn it waits for two calls or so; behind the batch it would be four seconds
    assert done_before > 300


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
