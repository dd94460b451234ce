"""StrategyService on a real sidecar."""

from __future__ import annotations

import pytest

from batch_llm_client import BatchClient, StrategySpec, WorkItem
from batch_llm_client.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)

from .conftest import SIMULATED, Start, script

SCHEMA = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"s{abs(hash(request.node.name)) % 10**8}"


def test_registering_again_is_free_and_another_spec_is_refused(client: BatchClient, name: str) -> None:
    spec = {"name": name, "provider": "simulated", "cached_content": ["x"], "cache_ttl_seconds": 60}
    strategy, registered = client.register_strategy(spec)
    assert registered
    assert strategy.spec.cache_renewal_buffer.seconds == 30  # half of a short TTL
    assert client.register_strategy(spec) == (strategy, False)
    assert client.register_strategy(strategy.spec) == (strategy, False)  # what it shows is what it takes
    with pytest.raises(AlreadyExistsError) as failure:
        client.register_strategy({**spec, "model": "other"})
    assert (failure.value.reason, failure.value.metadata["differs"]) == ("STRATEGY_EXISTS", "model")
    assert name in [strategy.spec.name for strategy in client.list_strategies()]
    client.unregister_strategy(name)
    with pytest.raises(NotFoundError):
        client.get_strategy(name)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "not a name"}, "name"),
        ({"name": ""}, "name"),
        ({"provider": ""}, "provider"),
        ({"max_concurrency": 10_001}, "max_concurrency"),
        ({"attempt_timeout_seconds": -1}, "attempt_timeout_seconds"),
        ({"cache_ttl_seconds": 0.5}, "cache_ttl_seconds"),
        ({"cached_content": ["  "]}, "cached_content"),
        ({"retry": {"max_attempts": -1}}, "retry.max_attempts"),
        ({"retry": {"initial_wait_seconds": 2, "max_wait_seconds": 1}}, "retry.max_wait_seconds"),
        ({"generation": {"temperature": 3}}, "generation.temperature"),
        ({"generation": {"grammar": "root ::= x"}}, "generation.grammar"),
        ({"output_json_schema": "{"}, "output_json_schema"),
        ({"output_json_schema": '{"type": "objec"}'}, "output_json_schema"),
    ],
)
def test_a_bad_spec_is_refused_by_field(client: BatchClient, fields: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        client.register_strategy({"name": "bad", "provider": "simulated", **fields})
    assert (failure.value.reason, failure.value.metadata["field"]) == ("INVALID_FIELD", field)


def test_an_unknown_provider_names_the_known_ones(client: BatchClient) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        client.register_strategy({"name": "bad", "provider": "gemini"})
    assert failure.value.reason == "PROVIDER_NOT_FOUND"
    assert failure.value.metadata == {"provider": "gemini", "known": "simulated"}


def test_no_rpc_can_name_a_file_a_key_or_an_address() -> None:
    fields = {field.name for field in StrategySpec.DESCRIPTOR.fields}
    assert not [field for field in fields if any(word in field for word in ("path", "file", "key", "url", "address"))]


def test_file_strategies_stay_and_used_ones_wait(client: BatchClient, name: str) -> None:
    with pytest.raises(FailedPreconditionError) as failure:
        client.unregister_strategy("echo")
    assert failure.value.reason == "STRATEGY_FROM_FILE"
    client.register_strategy({"name": name, "provider": "simulated"})
    with client.process_batch([WorkItem("a", script(latency_ms=60_000))], strategy=name) as batch:
        assert batch.opened.strategy == name
        with pytest.raises(FailedPreconditionError) as failure:
            client.unregister_strategy(name)
        assert failure.value.reason == "STRATEGY_IN_USE"


def test_registration_can_be_switched_off(start: Start) -> None:
    sidecar = start("--listen", "127.0.0.1:0", config=f"[server]\nallow_registration = false\n{SIMULATED}")
    with (
        BatchClient(sidecar.wait_for(r"serving on (\S+)")[1]) as client,
        pytest.raises(PermissionDeniedError) as failure,
    ):
        client.register_strategy({"name": "x", "provider": "simulated"})
    assert failure.value.reason == "REGISTRATION_DISABLED"
    assert sidecar.stop() == 0


def test_an_output_schema_is_checked_and_tried_again(client: BatchClient, name: str) -> None:
    client.register_strategy({"name": name, "provider": "simulated", "output_json_schema": SCHEMA})
    good = client.process_item(WorkItem("a", script(reply='{"label": "a"}', output_tokens=5), strategy=name))
    assert (good.ok, good.attempts) == (True, 1)
    bad = client.process_item(WorkItem("a", script(reply='{"label": "c"}', output_tokens=5), strategy=name))
    assert bad.error is not None
    assert (bad.error.reason, bad.attempts, bad.usage.output_tokens) == ("VALIDATION_FAILED", 3, 15)
    assert bad.error.metadata["last_output"] == '{"label": "c"}'
    assert "at label" in bad.error.metadata["errors"]
