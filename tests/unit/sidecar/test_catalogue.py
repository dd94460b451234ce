from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_llm.caching import SqliteCacheRegistry
from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.sidecar.catalogue import Catalogue
from batch_llm.sidecar.providers import Providers
from batch_llm.sidecar.settings import ConfigError, GeminiProvider, SimulatedProvider, StrategySpec

Make = Callable[..., Catalogue]
FIELDS: dict[str, Any] = {"provider": "sim", "system_instruction": "Label it.", "retry": {"max_attempts": 2}}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(**settings: Any) -> Catalogue:
        return Catalogue(Providers({"sim": SimulatedProvider()}, SqliteCacheRegistry(), tmp_path), **settings)

    return make


@pytest.fixture
def catalogue(make: Make) -> Catalogue:
    return make()


def refused(call: Callable[[], object], reason: ErrorReason) -> BatchLLMError:
    with pytest.raises(BatchLLMError) as raised:
        call()
    assert raised.value.reason is reason
    return raised.value


def test_a_registered_strategy_is_found_and_leased(catalogue: Catalogue) -> None:
    entry, registered = catalogue.register("triage", FIELDS)
    assert registered
    assert catalogue.get("triage") is entry
    assert (entry.provider_kind, entry.from_file, entry.shared.name, entry.shared.users) == (
        *("simulated", False),
        *("triage", 1),
    )
    assert entry.shared.policy is not None
    assert entry.shared.policy.retry.max_attempts == 2


@pytest.mark.parametrize(
    "again", [FIELDS, {**FIELDS, "cache_ttl_seconds": 3600, "retry": {"max_attempts": 2, "jitter": True}}]
)
def test_the_same_spec_again_is_the_same_strategy(catalogue: Catalogue, again: dict[str, Any]) -> None:
    entry, _ = catalogue.register("triage", FIELDS)
    assert catalogue.register("triage", again) == (entry, False)
    assert catalogue.get("triage") is entry
    assert entry.shared.users == 1


def test_another_spec_under_the_same_name_is_refused_with_what_differs(catalogue: Catalogue) -> None:
    entry, _ = catalogue.register("triage", FIELDS)
    error = refused(
        lambda: catalogue.register("triage", {**FIELDS, "system_instruction": "x", "max_concurrency": 9}),
        ErrorReason.STRATEGY_EXISTS,
    )
    assert error.metadata["differs"] == "system_instruction, max_concurrency"
    assert catalogue.get("triage") is entry


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("a b", FIELDS, "name"),
        ("triage", {**FIELDS, "max_concurrency": -1}, "max_concurrency"),
        ("triage", {**FIELDS, "retry": {"max_attempts": 101}}, "retry.max_attempts"),
        ("triage", {**FIELDS, "output_json_schema": "{"}, "output_json_schema"),
        ("triage", {**FIELDS, "generation": {"grammar": "root ::= x"}}, "generation.grammar"),
        (
            "triage",
            {**FIELDS, "cache_ttl_seconds": 50, "cache_renewal_buffer_seconds": 60},
            "cache_renewal_buffer_seconds",
        ),
        ("triage", {**FIELDS, "max_concurrency": True}, "max_concurrency"),
        ("triage", {**FIELDS, "max_concurrency": 1025}, "max_concurrency"),
        ("triage", {**FIELDS, "escalation_models": ("b",)}, "escalation_models"),
        ("triage", {**FIELDS, "output_json_schema": "{}", "escalation_models": ("b", "c")}, "escalation_models"),
        ("triage", {**FIELDS, "output_json_schema": '{"$ref": "http://x"}'}, "output_json_schema"),
        ("triage", {**FIELDS, "output_json_schema": "{}", "generation": {"grammar": "x"}}, "generation.grammar"),
    ],
)
def test_a_bad_field_is_named(catalogue: Catalogue, name: str, fields: dict[str, Any], field: str) -> None:
    error = refused(lambda: catalogue.register(name, fields), ErrorReason.INVALID_FIELD)
    assert error.metadata == {"field": field}
    assert catalogue.list() == []


def test_an_unknown_provider_is_refused_with_the_known_ones(catalogue: Catalogue) -> None:
    error = refused(lambda: catalogue.register("triage", {"provider": "gemini"}), ErrorReason.PROVIDER_NOT_FOUND)
    assert error.metadata == {"provider": "gemini", "known": "sim"}


def test_an_unknown_name_is_answered_with_the_known_ones(catalogue: Catalogue) -> None:
    for name in ("b", "a"):
        catalogue.register(name, FIELDS)
    error = refused(lambda: catalogue.get("c"), ErrorReason.STRATEGY_NOT_FOUND)
    assert error.metadata == {"strategy": "c", "known": "a, b"}
    assert [entry.name for entry in catalogue.list()] == ["a", "b"]


async def test_what_the_file_declares_stays(make: Make) -> None:
    catalogue = make(allow_registration=False)
    catalogue.declare({"triage": StrategySpec.model_validate(FIELDS)})
    assert catalogue.get("triage").from_file
    with pytest.raises(BatchLLMError) as raised:
        await catalogue.unregister("triage")
    assert raised.value.reason is ErrorReason.STRATEGY_FROM_FILE
    assert catalogue.get("triage")


def test_registering_what_the_file_declares_finds_it(catalogue: Catalogue) -> None:
    catalogue.declare({"triage": StrategySpec.model_validate(FIELDS)})
    entry, registered = catalogue.register("triage", FIELDS)
    assert (entry.from_file, registered) == (True, False)


def test_registration_can_be_switched_off(make: Make) -> None:
    refused(lambda: make(allow_registration=False).register("triage", FIELDS), ErrorReason.REGISTRATION_DISABLED)


async def test_a_strategy_in_use_cannot_be_removed(catalogue: Catalogue) -> None:
    entry, _ = catalogue.register("triage", FIELDS)
    await entry.shared.ready()
    entry.shared.lease()
    with pytest.raises(BatchLLMError) as raised:
        await catalogue.unregister("triage")
    assert raised.value.reason is ErrorReason.STRATEGY_IN_USE
    assert catalogue.get("triage").shared.prepared
    await entry.shared.release()
    await catalogue.unregister("triage")
    assert not entry.shared.prepared
    refused(lambda: catalogue.get("triage"), ErrorReason.STRATEGY_NOT_FOUND)
    with pytest.raises(BatchLLMError):
        await catalogue.unregister("triage")


async def test_closing_cleans_all_up_though_one_fails(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned: list[str] = []
    for name in ("a", "b", "c"):
        entry, _ = catalogue.register(name, FIELDS)
        await entry.shared.ready()

        async def cleanup(name: str = name) -> None:
            cleaned.append(name)
            if name == "a":
                raise OSError("still open")

        monkeypatch.setattr(entry.shared.strategy, "cleanup", cleanup)
    await catalogue.close()
    assert sorted(cleaned) == ["a", "b", "c"]
    assert catalogue.list() == []


def test_strategies_of_one_provider_share_its_limit(catalogue: Catalogue) -> None:
    first, second = (catalogue.register(name, {**FIELDS, "max_concurrency": 3})[0].shared for name in ("a", "b"))
    assert first.limiters[0] is not second.limiters[0]
    assert first.scope is second.scope
    assert first.scope is not None
    assert (first.max_concurrency, first.scope.limit) == (3, SimulatedProvider().max_concurrency)
    third, _ = catalogue.register("c", {**FIELDS, "model": "another"})
    assert third.shared.scope is not first.scope


def test_what_a_strategy_alone_can_see_is_told_by_name(tmp_path: Path) -> None:
    gemini = GeminiProvider(project="p", location="l")
    catalogue = Catalogue(Providers({"g": gemini}, SqliteCacheRegistry(), tmp_path))
    fields = {"provider": "g", "model": "m", "cached_content": ["a"]}
    spec = StrategySpec.model_validate(fields).model_copy(update={"cached_content": (" ",)})
    with pytest.raises(ConfigError, match=r"^strategies\.triage\.cached_content\[0\] must be a text"):
        catalogue.declare({"triage": spec})
