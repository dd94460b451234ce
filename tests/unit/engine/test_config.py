from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from batch_llm.model import ExecutionPolicy, LLMWorkItem, ProcessorConfig, RetryConfig


@pytest.mark.parametrize(
    ("kind", "values", "field", "way_out"),
    [
        (RetryConfig, {"max_attempts": 0}, "max_attempts", "use 1"),
        (RetryConfig, {"initial_wait": -0.5}, "initial_wait", "use 0"),
        (RetryConfig, {"max_wait": 0.25}, "max_wait", "raise max_wait"),
        (RetryConfig, {"exponential_base": 0.5}, "exponential_base", "use 1"),
        (ExecutionPolicy, {"attempt_timeout": 0}, "attempt_timeout", "try 120"),
        (ProcessorConfig, {"max_workers": 0}, "max_workers", "use 1"),
        (ProcessorConfig, {"timeout_per_item": -3}, "timeout_per_item", "try 120"),
        (ProcessorConfig, {"max_queue_size": -1}, "max_queue_size", "use 0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_field_value_and_way_out(
    kind: Any, values: dict[str, float], field: str, way_out: str
) -> None:
    with pytest.raises(ValueError, match=f"^{field} must .*{way_out}") as refused:
        kind(**values)
    assert str(values[field]) in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (RetryConfig, {"max_attempts": 1, "initial_wait": 0, "max_wait": 0, "exponential_base": 1}),
        (ProcessorConfig, {"max_workers": 1, "timeout_per_item": 0.001, "max_queue_size": 0}),
    ],
)
def test_the_ends_of_ranges_are_allowed(kind: Any, values: dict[str, float]) -> None:
    config = kind(**values)
    assert all(getattr(config, name) == value for name, value in values.items())


def test_defaults_are_those_of_the_first_release() -> None:
    config = ProcessorConfig()
    assert (config.max_workers, config.timeout_per_item, config.max_queue_size) == (5, 120.0, 0)
    assert config.retry == RetryConfig(3, 1.0, 60.0, 2.0, True)
    assert ExecutionPolicy().retry == config.retry


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ProcessorConfig().max_workers = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("retry", "wait"), [(1, 1.5), (2, 4.5), (3, 10.0), (100_000, 10.0)], ids=["first", "second", "capped", "overflow"]
)
def test_waits_grow_by_the_base_up_to_the_longest(retry: int, wait: float) -> None:
    assert RetryConfig(initial_wait=1.5, max_wait=10.0, exponential_base=3.0).wait_before(retry) == wait


@pytest.mark.parametrize("item_id", ["", "  \n", None, 7])
def test_an_item_needs_an_id(item_id: Any, scripted: Any) -> None:
    with pytest.raises(ValueError, match=r"item_id .* give each item an id"):
        LLMWorkItem(item_id=item_id, strategy=scripted())
