from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from batch_llm.model import ExecutionPolicy, LLMWorkItem, ProcessorConfig, RateLimitConfig, RetryConfig


@pytest.mark.parametrize(
    ("kind", "values", "field", "way_out"),
    [
        (RetryConfig, {"max_attempts": 0}, "max_attempts", "use 1"),
        (RetryConfig, {"initial_wait": -0.5}, "initial_wait", "use 0"),
        (RetryConfig, {"max_wait": 0.25}, "max_wait", "raise max_wait"),
        (RetryConfig, {"exponential_base": 0.5}, "exponential_base", "use 1"),
        (RetryConfig, {"max_rate_limit_retries": -1}, "max_rate_limit_retries", "use 0"),
        (RateLimitConfig, {"cooldown_seconds": -1}, "cooldown_seconds", "use 0"),
        (RateLimitConfig, {"slow_start_items": -1}, "slow_start_items", "use 0"),
        (RateLimitConfig, {"slow_start_final_delay": -0.1}, "slow_start_final_delay", "use 0"),
        (RateLimitConfig, {"slow_start_initial_delay": 0.05}, "slow_start_initial_delay", "lower the final one"),
        (RateLimitConfig, {"backoff_multiplier": 0.9}, "backoff_multiplier", "use 1"),
        (ExecutionPolicy, {"attempt_timeout": 0}, "attempt_timeout", "try 120"),
        (ProcessorConfig, {"max_workers": 0}, "max_workers", "use 1"),
        (ProcessorConfig, {"timeout_per_item": -3}, "timeout_per_item", "try 120"),
        (ProcessorConfig, {"max_requests_per_minute": 0}, "max_requests_per_minute", "use None"),
        (ProcessorConfig, {"progress_interval": 0}, "progress_interval", "use 1"),
        (ProcessorConfig, {"progress_callback_timeout": 0}, "progress_callback_timeout", "use None"),
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
        (RetryConfig, {"max_rate_limit_retries": 0}),
        (
            RateLimitConfig,
            {"cooldown_seconds": 0, "slow_start_items": 0, "slow_start_initial_delay": 0, "slow_start_final_delay": 0},
        ),
        (RateLimitConfig, {"slow_start_initial_delay": 2, "slow_start_final_delay": 2, "backoff_multiplier": 1}),
        (ProcessorConfig, {"max_workers": 1, "timeout_per_item": 0.001, "max_queue_size": 0}),
        (ProcessorConfig, {"max_requests_per_minute": 1, "progress_interval": 1, "progress_callback_timeout": 0.001}),
        (ProcessorConfig, {"max_requests_per_minute": None, "progress_callback_timeout": None}),
    ],
)
def test_the_ends_of_ranges_are_allowed(kind: Any, values: dict[str, float]) -> None:
    config = kind(**values)
    assert all(getattr(config, name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        (
            ProcessorConfig,
            {
                "max_workers": 5,
                "timeout_per_item": 120.0,
                "retry": RetryConfig(),
                "rate_limit": RateLimitConfig(),
                "max_requests_per_minute": None,
                "progress_interval": 10,
                "progress_callback_timeout": 5.0,
                "max_queue_size": 0,
                "dry_run": False,
            },
        ),
        (
            RetryConfig,
            {
                "max_attempts": 3,
                "initial_wait": 1.0,
                "max_wait": 60.0,
                "exponential_base": 2.0,
                "jitter": True,
                "max_rate_limit_retries": 20,
            },
        ),
        (
            RateLimitConfig,
            {
                "cooldown_seconds": 300.0,
                "slow_start_items": 50,
                "slow_start_initial_delay": 2.0,
                "slow_start_final_delay": 0.1,
                "backoff_multiplier": 1.5,
            },
        ),
    ],
)
def test_names_and_defaults_are_those_of_the_first_release(kind: Any, defaults: dict[str, Any]) -> None:
    assert {field.name: getattr(kind(), field.name) for field in fields(kind)} == defaults


def test_the_policy_retries_as_the_processor_does() -> None:
    assert ExecutionPolicy().retry == ProcessorConfig().retry


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
