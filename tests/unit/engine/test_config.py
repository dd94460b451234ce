import math
import reprlib
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from batch_llm.caching import CachePolicy
from batch_llm.model import ExecutionPolicy, LLMWorkItem, ProcessorConfig, RateLimitConfig, RetryConfig
from batch_llm.quota import ExponentialBackoffStrategy, FixedDelayStrategy, QuotaLimits


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
        (ExecutionPolicy, {"attempt_timeout": 0.009}, "attempt_timeout", "try 120"),
        (ProcessorConfig, {"timeout_per_item": -3}, "timeout_per_item", "try 120"),
        (ProcessorConfig, {"timeout_per_item": 0.009}, "timeout_per_item", "try 120; no provider answers in less"),
        (ProcessorConfig, {"max_requests_per_minute": 0}, "max_requests_per_minute", "use None"),
        (ProcessorConfig, {"progress_interval": 0}, "progress_interval", "use 1"),
        (ProcessorConfig, {"progress_callback_timeout": 0}, "progress_callback_timeout", "use None"),
        (ProcessorConfig, {"max_queue_size": -1}, "max_queue_size", "use 0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_field_value_and_way_out(
    kind: Any, values: dict[str, float], field: str, way_out: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must .*{way_out}") as refused:
        kind(**values)
    assert str(values[field]) in str(refused.value)


NO_WHOLE_NUMBERS = [True, 5.0, 2.5, "5", math.nan, math.inf, [], b"1"]
NO_NUMBERS = [False, "5", math.nan, math.inf, -math.inf, 10**400, 1j, []]
NO_TRUTHS = [1, "false", None]


def values_of(kind: Any, refused: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(kind, field, value) for field, values in refused.items() for value in values]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *values_of(
            RetryConfig,
            {
                "max_attempts": [*NO_WHOLE_NUMBERS, None],
                "initial_wait": [*NO_NUMBERS, None],
                "max_wait": [*NO_NUMBERS, None, -1],
                "exponential_base": [*NO_NUMBERS, None],
                "jitter": NO_TRUTHS,
                "max_rate_limit_retries": [*NO_WHOLE_NUMBERS, None],
            },
        ),
        *values_of(
            RateLimitConfig,
            {
                "cooldown_seconds": [*NO_NUMBERS, None],
                "slow_start_items": [*NO_WHOLE_NUMBERS, None],
                "slow_start_initial_delay": [*NO_NUMBERS, None],
                "slow_start_final_delay": [*NO_NUMBERS, None],
                "backoff_multiplier": [*NO_NUMBERS, None],
            },
        ),
        *values_of(
            ExecutionPolicy,
            {"retry": [None, {}, 3], "attempt_timeout": [*NO_NUMBERS, None], "check_output": ["check", 5]},
        ),
        *values_of(
            ProcessorConfig,
            {
                "max_workers": [*NO_WHOLE_NUMBERS, None],
                "timeout_per_item": [*NO_NUMBERS, None],
                "retry": [None, {}, {"max_attempts": 5}, RetryConfig],
                "rate_limit": [None, {}, RetryConfig()],
                "max_requests_per_minute": [*NO_NUMBERS, 0.5],
                "progress_interval": [*NO_WHOLE_NUMBERS, None],
                "progress_callback_timeout": NO_NUMBERS,
                "max_queue_size": [*NO_WHOLE_NUMBERS, None],
                "dry_run": NO_TRUTHS,
            },
        ),
        *values_of(
            ExponentialBackoffStrategy,
            {
                "initial_cooldown": [*NO_NUMBERS, None, -1],
                "max_cooldown": [*NO_NUMBERS, None, -1],
                "backoff_multiplier": [*NO_NUMBERS, None, 0.9],
                "slow_start_items": [*NO_WHOLE_NUMBERS, None, -1],
                "slow_start_initial_delay": [*NO_NUMBERS, None, 0.05],
                "slow_start_final_delay": [*NO_NUMBERS, None, -1],
            },
        ),
        *values_of(FixedDelayStrategy, {"cooldown": [*NO_NUMBERS, None, -1]}),
        *values_of(
            QuotaLimits,
            {
                "max_concurrency": [*NO_WHOLE_NUMBERS, ""],
                "requests_per_minute": [*NO_WHOLE_NUMBERS, "adaptive"],
                "tokens_per_minute": NO_WHOLE_NUMBERS,
            },
        ),
    ],
)
def test_a_value_of_another_kind_is_refused_with_field_value_and_way_out(kind: Any, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must .*, got .*; \S+") as refused:
        kind(**{field: value})
    assert reprlib.repr(value) in str(refused.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("cache_ttl_seconds", value) for value in [*NO_NUMBERS, None, 0]],
        *[("cache_renewal_buffer_seconds", value) for value in [*NO_NUMBERS, None, -1]],
        *[("auto_renew", value) for value in NO_TRUTHS],
    ],
)
def test_a_caches_policy_is_checked_likewise(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must .*, got "):
        CachePolicy(**{field.removeprefix("cache_"): value})


def test_a_long_value_is_told_in_short() -> None:
    with pytest.raises(ValueError, match=r"^max_workers must be a whole number") as refused:
        ProcessorConfig(max_workers="5" * 10_000)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 200


def test_whole_numbers_do_for_fractions() -> None:
    assert RetryConfig(initial_wait=1, max_wait=2, exponential_base=3).wait_before(1) == 1
    assert ExponentialBackoffStrategy(900, slow_start_items=0).max_cooldown == 900  # a longer first pause stands


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
        (ProcessorConfig, {"max_workers": 1, "timeout_per_item": 0.01, "max_queue_size": 0}),
        (ProcessorConfig, {"max_requests_per_minute": 1, "progress_interval": 1, "progress_callback_timeout": 0.001}),
        (ProcessorConfig, {"max_requests_per_minute": None, "progress_callback_timeout": None}),
    ],
)
def test_the_ends_of_ranges_are_allowed(kind: Any, values: dict[str, float]) -> None:
    config = kind(**values)
    assert all(getattr(config, name) == value for name, value in values.items())


@pytest.mark.parametrize(("given", "kept"), [(60.0, 60), (2.5, 2), (1, 1), (None, None)])
def test_a_fraction_of_a_call_a_minute_is_left_out(given: float | None, kept: int | None) -> None:
    rate = ProcessorConfig(max_requests_per_minute=given).max_requests_per_minute
    assert (rate, type(rate)) == (kept, type(kept))


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


@pytest.mark.parametrize("prompt", [None, 7, b"hello", ["secret"], {"simulate": "secret"}])
def test_a_prompt_is_text_and_no_other_is_shown(prompt: Any, scripted: Any) -> None:
    with pytest.raises(ValueError, match=f"^prompt must be a string, got {type(prompt).__name__}; ") as refused:
        LLMWorkItem("1", scripted(), prompt)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("strategy", [None, "triage", print])
def test_an_item_needs_a_strategy(strategy: Any) -> None:
    with pytest.raises(TypeError, match=r"^strategy must be an LLMCallStrategy, got .*; wrap a function in Callable"):
        LLMWorkItem("1", strategy)


async def test_no_wait_and_no_pause_stay_none_however_often() -> None:
    assert RetryConfig(initial_wait=0, exponential_base=1e200).wait_before(3) == 0
    assert await ExponentialBackoffStrategy(initial_cooldown=0).on_rate_limit(0, 2000) == 0
    assert await ExponentialBackoffStrategy(initial_cooldown=1).on_rate_limit(0, 2000) == 600
