from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_llm.caching import SqliteCacheRegistry
from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.sidecar.catalogue import Catalogue, Entry, check_spec
from batch_llm.sidecar.providers import Providers
from batch_llm.sidecar.settings import ConfigError, GeminiProvider, SimulatedProvider, StrategySpec

FIELDS: dict[str, Any] = {"provider": "sim", "system_instruction": "Label it.", "retry": {"max_attempts": 2}}


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(Providers({"sim": SimulatedProvider()}, SqliteCacheRegistry(), tmp_path))


def add(catalogue: Catalogue, name: str, fields: dict[str, Any]) -> Entry:
    return catalogue.add(catalogue.make(name, check_spec(name, fields)))


def refused(call: Callable[[], object], reason: ErrorReason) -> BatchLLMError:
    with pytest.raises(BatchLLMError) as raised:
        call()
    assert raised.value.reason is reason
    return raised.value


def test_a_strategy_is_found_and_leased(catalogue: Catalogue) -> None:
    entry = add(catalogue, "triage", FIELDS)
    assert catalogue.get("triage") is entry
    assert (entry.provider_kind, entry.from_file, entry.shared.name, entry.shared.users) == (
        *("simulated", True),
        *("triage", 1),
    )
    assert entry.shared.policy is not None
    assert entry.shared.policy.retry.max_attempts == 2


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
    error = refused(lambda: add(catalogue, name, fields), ErrorReason.INVALID_FIELD)
    assert error.metadata == {"field": field}
    assert catalogue.list() == []


def test_an_unknown_provider_is_refused_with_the_known_ones(catalogue: Catalogue) -> None:
    error = refused(lambda: add(catalogue, "triage", {"provider": "gemini"}), ErrorReason.PROVIDER_NOT_FOUND)
    assert error.metadata == {"provider": "gemini", "known": "sim"}


def test_an_unknown_name_is_answered_with_the_known_ones(catalogue: Catalogue) -> None:
    for name in ("b", "a"):
        add(catalogue, name, FIELDS)
    error = refused(lambda: catalogue.get("c"), ErrorReason.STRATEGY_NOT_FOUND)
    assert error.metadata == {"strategy": "c", "known": "a, b"}
    assert [entry.name for entry in catalogue.list()] == ["a", "b"]


async def test_closing_cleans_all_up_though_one_fails(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned: list[str] = []
    for name in ("a", "b", "c"):
        entry = add(catalogue, name, FIELDS)
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
    first, second = (add(catalogue, name, {**FIELDS, "max_concurrency": 3}).shared for name in ("a", "b"))
    assert first.limiters[0] is not second.limiters[0]
    assert first.scope is second.scope
    assert first.scope is not None
    assert (first.max_concurrency, first.scope.limit) == (3, SimulatedProvider().max_concurrency)
    third = add(catalogue, "c", {**FIELDS, "model": "another"})
    assert third.shared.scope is not first.scope


def test_what_a_strategy_alone_can_see_is_told_by_name(tmp_path: Path) -> None:
    gemini = GeminiProvider(project="p", location="l")
    catalogue = Catalogue(Providers({"g": gemini}, SqliteCacheRegistry(), tmp_path))
    fields = {"provider": "g", "model": "m", "cached_content": ["a"]}
    spec = StrategySpec.model_validate(fields).model_copy(update={"cached_content": (" ",)})
    with pytest.raises(ConfigError, match=r"^strategies\.triage\.cached_content\[0\] must be a text"):
        catalogue.declare({"triage": spec})


def test_a_gemini_model_has_one_quota_however_it_is_called(tmp_path: Path) -> None:
    gemini = GeminiProvider(project="p", location="l")
    catalogue = Catalogue(Providers({"g": gemini}, SqliteCacheRegistry(), tmp_path))
    plain, *others, another = (
        add(catalogue, f"s{number}", {"provider": "g", "model": model}).shared.scope
        for number, model in enumerate(("x", "models/x", "publishers/google/models/x", "y"))
    )
    assert all(other is plain for other in others)
    assert another is not plain
