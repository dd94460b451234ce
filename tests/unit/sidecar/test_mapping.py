from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from batch_llm.caching import CacheRecord, CacheState, SqliteCacheRegistry
from batch_llm.journal.store import Registration
from batch_llm.model import BatchTotals, ErrorReason, Receipt, TokenUsage, WorkItemResult
from batch_llm.sidecar import mapping
from batch_llm.sidecar.catalogue import Catalogue, Entry, check_spec
from batch_llm.sidecar.providers import Providers
from batch_llm.sidecar.settings import LocalProvider, SimulatedProvider, StrategySpec
from batchllm.v1 import cache_lifecycle_service_pb2, errors_pb2, strategy_service_pb2, work_pb2

Register = Callable[..., Entry]
MINIMAL: dict[str, Any] = {"provider": "sim"}
FULL: dict[str, Any] = {
    "provider": "sim",
    "model": "m",
    "system_instruction": "Label it.",
    "cached_content": ["a", "b"],
    "cache_ttl_seconds": 100.25,
    "cache_renewal_buffer_seconds": 7.5,
    "auto_renew": False,
    "cache_tags": {"team": "x"},
    "escalation_models": ["larger", "largest"],
    "max_concurrency": 9,
    "attempt_timeout_seconds": 30.125,
    "retry": {
        "max_attempts": 7,
        "initial_wait_seconds": 0,
        "max_wait_seconds": 9,
        "exponential_base": 1.5,
        "jitter": False,
        "max_rate_limit_retries": 0,
    },
    "output_json_schema": '{"type": "object"}',
    "generation": {
        "temperature": 0.0,
        "max_output_tokens": 5,
        "top_p": 0.5,
        "top_k": 3,
        "seed": 0,
        "stop_sequences": ["x", "y"],
    },
}


@pytest.fixture
def register(tmp_path: Path) -> Register:
    providers = {"sim": SimulatedProvider(), "local": LocalProvider()}
    catalogue = Catalogue(Providers(providers, SqliteCacheRegistry(), tmp_path))
    return lambda fields: catalogue.add(
        catalogue.make("triage", check_spec("triage", fields), Registration("triage", b""))
    )


def over_the_wire(entry: Entry) -> StrategySpec:
    raw = mapping.strategy_message(entry).SerializeToString()
    return StrategySpec.model_validate(mapping.spec_fields(strategy_service_pb2.Strategy.FromString(raw).spec))


# -- enums -------------------------------------------------------------------------------------------------------------


def test_reasons_are_those_of_the_protocol() -> None:
    wire = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118 - no mapping
    assert {reason.value for reason in ErrorReason} == wire - {"UNSPECIFIED"}
    assert all(reason.name == reason.value for reason in ErrorReason)


def test_cache_states_are_those_of_the_protocol() -> None:
    states = cache_lifecycle_service_pb2.CacheState.keys()
    assert {state.value for state in CacheState} == {name.removeprefix("CACHE_STATE_") for name in states} - {
        "UNSPECIFIED"
    }


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "whole", "nanos"),
    [
        (0, 0, 0),
        (1.5, 1, 500_000_000),
        (2.3, 2, 300_000_000),
        (0.1, 0, 100_000_000),
        (1.9999999999, 2, 0),
        (3600, 3600, 0),
    ],
)
def test_seconds_survive_the_wire(value: float, whole: int, nanos: int) -> None:
    message = mapping.duration(value)
    assert (message.seconds, message.nanos) == (whole, nanos)
    assert mapping.seconds(message) == pytest.approx(value, abs=1e-9)


def test_a_timestamp_is_seconds_since_the_epoch() -> None:
    message = mapping.timestamp(1_700_000_000.5)
    assert (message.seconds, message.nanos) == (1_700_000_000, 500_000_000)


# -- strategies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        MINIMAL,
        FULL,
        {**MINIMAL, "cache_ttl_seconds": 100},
        {**MINIMAL, "cache_renewal_buffer_seconds": 0},
        {**MINIMAL, "attempt_timeout_seconds": 2.3, "cache_ttl_seconds": 1.1},
        {"provider": "local", "generation": {"grammar": "root ::= x"}},
    ],
    ids=["minimal", "full", "short life", "no buffer", "decimals", "grammar"],
)
def test_a_spec_comes_back_from_the_wire_as_it_was(register: Register, fields: dict[str, Any]) -> None:
    entry = register(fields)
    assert over_the_wire(entry) == entry.spec == StrategySpec.model_validate(fields)


def test_every_key_of_a_spec_is_on_the_wire(register: Register) -> None:
    # A key that is added to the file and forgotten here would be lost in silence.
    full = StrategySpec.model_validate(FULL)
    spec = {field: getattr(full, field) for field in StrategySpec.model_fields}
    default = StrategySpec.model_validate(MINIMAL)
    same = {field for field, value in spec.items() if value == getattr(default, field)}
    assert same == {"provider"}, "FULL must differ from the defaults in each key"
    assert over_the_wire(register(FULL)) == full


def test_what_a_message_leaves_open_is_left_to_the_defaults() -> None:
    spec = strategy_service_pb2.StrategySpec(name="triage", provider="sim")
    assert StrategySpec.model_validate(mapping.spec_fields(spec)) == StrategySpec.model_validate(MINIMAL)


def test_a_zero_that_is_said_is_not_a_default() -> None:
    spec = strategy_service_pb2.StrategySpec(provider="sim", attempt_timeout=mapping.duration(0))
    spec.retry.initial_wait.CopyFrom(mapping.duration(0))
    fields = mapping.spec_fields(spec)
    assert (fields["attempt_timeout_seconds"], fields["retry"]) == (0, {"initial_wait_seconds": 0})


async def test_a_strategys_users_do_not_count_the_catalogue(register: Register) -> None:
    entry = register(FULL)
    assert (mapping.strategy_message(entry).users, mapping.strategy_message(entry).prepared) == (0, False)
    entry.shared.lease()
    await entry.shared.prepare()
    message = mapping.strategy_message(entry)
    assert (message.users, message.prepared, message.spec.name) == (1, True, "triage")
    assert (message.provider_kind, message.source) == ("simulated", strategy_service_pb2.STRATEGY_SOURCE_RPC)


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_success_on_the_wire() -> None:
    usage = TokenUsage(input_tokens=100, output_tokens=7, total_tokens=108, cached_input_tokens=33, thinking_tokens=2)
    message = mapping.result_message(
        WorkItemResult(
            *("1", True, "out"),
            context=b"\x00c",
            token_usage=usage,
            gemini_safety_ratings={"harm": "low"},
            attempts=2,
            elapsed_seconds=1.5,
            finish_reason="stop",
            strategy="triage",
            model="m",
            cache_discount=0.75,
            submission_index=4,
            sequence=5,
        )
    )
    assert message.WhichOneof("outcome") == "output"
    assert message.output == work_pb2.Output(text="out", finish_reason="stop", safety_ratings={"harm": "low"})
    assert message.usage == work_pb2.TokenUsage(effective_input_tokens=76, **usage)
    assert (message.item_id, message.context, message.strategy, message.model) == ("1", b"\x00c", "triage", "m")
    assert (message.submission_index, message.sequence, message.attempts) == (4, 5, 2)
    assert mapping.seconds(message.elapsed) == 1.5


def test_an_empty_output_is_still_an_output() -> None:
    assert mapping.result_message(WorkItemResult("1", True, "")).WhichOneof("outcome") == "output"


@pytest.mark.parametrize("reason", ErrorReason)
def test_a_failure_on_the_wire(reason: ErrorReason) -> None:
    message = mapping.result_message(
        WorkItemResult(
            "1", False, error="no", reason=reason, retryable=True, retry_after=2.5, error_metadata={"field": "x"}
        )
    )
    assert message.WhichOneof("outcome") == "error"
    assert errors_pb2.ErrorReason.Name(message.error.reason) == f"ERROR_REASON_{reason.name}"
    assert (message.error.message, message.error.retryable, dict(message.error.metadata)) == (
        "no",
        True,
        {"field": "x"},
    )
    assert mapping.seconds(message.error.retry_after) == 2.5


def test_a_failure_that_does_not_say_when_to_come_back_leaves_it_open() -> None:
    message = mapping.result_message(WorkItemResult("1", False, reason=ErrorReason.CANCELLED))
    assert not message.error.HasField("retry_after")


@pytest.mark.parametrize(
    "result",
    [
        WorkItemResult("1", True, "half a pair: \ud83d"),
        WorkItemResult("1", False, error="at \ud83d: no", reason=ErrorReason.VALIDATION_FAILED),
        WorkItemResult("1", False, reason=ErrorReason.VALIDATION_FAILED, error_metadata={"errors": "at \ud83d: no"}),
    ],
    ids=["output", "error", "metadata"],
)
def test_text_that_is_no_unicode_does_not_end_the_stream(result: WorkItemResult[Any, Any]) -> None:
    # JSON's \ud83d alone decodes to it, in an output or as the place of a mismatch.
    message = mapping.result_message(result)
    assert message.SerializeToString()


def test_totals_on_the_wire() -> None:
    totals = BatchTotals()
    usage = TokenUsage(input_tokens=100, output_tokens=7, cached_input_tokens=50)
    totals.add(WorkItemResult("1", True, token_usage=usage))
    totals.add(WorkItemResult("2", False, reason=ErrorReason.CANCELLED))
    message = mapping.batch_result_message("b", totals, totals.receipt + Receipt(cache_creation_tokens=9), 1.5)
    assert (message.batch_id, message.total_items, message.succeeded, message.failed) == ("b", 2, 1, 1)
    assert (message.total_input_tokens, message.total_cached_tokens, message.total_output_tokens) == (100, 50, 7)
    assert (message.cache_hit_rate, message.effective_input_tokens) == (50.0, 55)
    assert dict(message.failures_by_reason) == {"CANCELLED": 1}
    assert mapping.seconds(message.elapsed) == 1.5
    assert (message.receipt.fresh_input_tokens, message.receipt.cache_creation_tokens) == (50, 9)


def test_a_receipt_on_the_wire() -> None:
    counts = {name: 10 + number for number, (name, kind) in enumerate(get_type_hints(Receipt).items()) if kind is int}
    unpriced = dict.fromkeys(("unpriced_tokens", "unpriced_token_seconds"), 0)
    full_price = counts.pop("full_price_nano_usd")
    receipt = Receipt(
        **(counts | unpriced), full_price_nano_usd=full_price, price_date=date(2026, 11, 10), advice=("half \ud83d",)
    )
    message = mapping.receipt_message(receipt)
    sent = {field.name for field, _ in message.ListFields()}
    assert sent == {*counts, "total_nano_usd", "uncached_nano_usd", "price_date", "advice"} - unpriced.keys()
    assert {name: getattr(message, name) for name in counts} == counts | unpriced
    assert (message.total_nano_usd, message.uncached_nano_usd) == (receipt.total_nano_usd, full_price)
    assert (message.price_date, list(message.advice)) == ("2026-11-10", ["half ?"])
    unknown = mapping.receipt_message(Receipt(**counts))
    assert not unknown.HasField("total_nano_usd")
    assert not unknown.HasField("uncached_nano_usd")
    assert (unknown.unpriced_tokens, unknown.price_date) == (counts["unpriced_tokens"], "")
    assert mapping.receipt_message(Receipt()).HasField("total_nano_usd"), "nothing used costs nothing, which is known"


def test_an_item_has_a_receipt_where_it_says_more_than_its_usage() -> None:
    result: WorkItemResult[Any, Any] = WorkItemResult("1", True, token_usage=TokenUsage(input_tokens=3))
    assert not mapping.result_message(result).HasField("receipt")
    result.bill = Receipt(fresh_input_tokens=3, fresh_input_nano_usd=900)
    assert mapping.result_message(result).receipt.total_nano_usd == 900


@pytest.mark.parametrize("state", CacheState)
def test_a_cache_on_the_wire(state: CacheState) -> None:
    record = CacheRecord("gemini", "f1", "cachedContents/1", "m", "creator", 100.5, 3700.0, 2048)
    message = mapping.cache_message(record, "asked for", state)
    assert (message.name, message.strategy, message.provider, message.model) == (
        *("cachedContents/1", "asked for"),
        *("gemini", "m"),
    )
    assert (message.fingerprint, message.total_token_count) == ("f1", 2048)
    assert (message.create_time.ToMilliseconds(), message.expire_time.ToMilliseconds()) == (100_500, 3_700_000)
    assert cache_lifecycle_service_pb2.CacheState.Name(message.state) == f"CACHE_STATE_{state.name}"
