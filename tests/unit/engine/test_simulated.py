import json
from typing import Any

import pytest

from batch_llm.caching import CachePolicy
from batch_llm.executor import Executor, Work
from batch_llm.model import AnyResult, ErrorReason, ExecutionPolicy, ProviderError, RetryConfig
from batch_llm.shared import SharedStrategy
from batch_llm.strategies.simulated import SimulatedStrategy, estimate_tokens

POLICY = ExecutionPolicy(RetryConfig(3, initial_wait=0, jitter=False))


def script(**simulate: Any) -> str:
    return json.dumps({"simulate": simulate})


async def run(prompt: str, strategy: SimulatedStrategy | None = None) -> AnyResult:
    shared = SharedStrategy(strategy or SimulatedStrategy())
    return await Executor(POLICY).run(Work("1", prompt, shared))


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2)])
def test_four_characters_are_a_token(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@pytest.mark.parametrize("prompt", ["hello", "{not json", '{"other": 1}', "[1]", "x" * 100])
async def test_any_other_prompt_is_echoed_shortly(prompt: str) -> None:
    result = await run(prompt)
    assert result.output == f"simulated: {prompt[:60]}"
    assert (result.finish_reason, result.model, result.attempts) == ("stop", "simulated", 1)
    assert result.token_usage["input_tokens"] == estimate_tokens(prompt)
    assert result.token_usage["output_tokens"] == estimate_tokens(result.output)


async def test_a_script_says_what_is_answered() -> None:
    prompt = "  " + script(
        reply="",
        finish_reason="length",
        safety_ratings={"harm": "low"},
        input_tokens=50,
        output_tokens=0,
        cached_input_tokens=20,
        thinking_tokens=3,
    )
    result = await run(prompt, SimulatedStrategy(model="other"))
    assert (result.success, result.output, result.finish_reason, result.model) == (True, "", "length", "other")
    assert result.gemini_safety_ratings == {"harm": "low"}
    usage = {
        "input_tokens": 50,
        "output_tokens": 0,
        "total_tokens": 50,
        "cached_input_tokens": 20,
        "thinking_tokens": 3,
    }
    assert result.token_usage == usage


async def test_a_call_takes_as_long_as_its_script_says() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    prompt = script(latency_ms=1500, errors=[{"status": 503, "latency_ms": 250}])
    await run(prompt, SimulatedStrategy(sleep=sleep))
    assert slept == [0.25, 1.5]


async def test_errors_come_attempt_by_attempt_then_success() -> None:
    result = await run(script(errors=[{"status": 503, "input_tokens": 7}, {"status": 429}], input_tokens=10))
    assert (result.success, result.attempts, result.token_usage["input_tokens"]) == (True, 2, 17)  # a 429 is none


async def test_null_among_errors_is_a_success() -> None:
    assert (await run(script(errors=[None, {"status": 400}]))).attempts == 1


async def test_error_is_for_every_attempt_that_errors_does_not_speak_of() -> None:
    result = await run(script(errors=[{"status": 503}], error={"status": 400, "message": "no"}))
    assert (result.reason, result.attempts, result.error) == (ErrorReason.PROVIDER_REJECTED, 2, "no")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({}, ErrorReason.PROVIDER_UNAVAILABLE),
        ({"status": 401}, ErrorReason.AUTHENTICATION_FAILED),
        ({"status": 504}, ErrorReason.PROVIDER_TIMEOUT),
        ({"kind": "timeout"}, ErrorReason.PROVIDER_TIMEOUT),
        ({"kind": "connection"}, ErrorReason.PROVIDER_UNAVAILABLE),
        ({"kind": "bug"}, ErrorReason.INTERNAL),
    ],
    ids=str,
)
async def test_an_error_is_what_its_script_says(error: dict[str, Any], reason: ErrorReason) -> None:
    result = await run(script(error=error))
    assert (result.success, result.reason) == (False, reason)
    assert result.token_usage.get("input_tokens", 0) == 0, "an error costs what it says and no more"


async def test_a_throttled_call_says_when_to_come_back() -> None:
    with pytest.raises(ProviderError) as raised:
        await SimulatedStrategy().execute(script(error={"status": 429, "retry_after_seconds": 12}), 1, 9)
    assert (raised.value.retry_after, raised.value.token_usage) == (12, None)


@pytest.mark.parametrize(
    ("simulate", "problem"),
    [
        ({"repply": "x"}, "repply"),
        ({"errors": [{"status": 200}]}, "errors.0.status"),
        ({"errors": [{"kind": "flood"}]}, "errors.0.kind"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"input_tokens": "many"}, "input_tokens"),
        ("x", "simulate"),
    ],
    ids=str,
)
async def test_a_script_that_cannot_be_followed_is_an_invalid_item(simulate: Any, problem: str) -> None:
    result = await run(json.dumps({"simulate": simulate}))
    assert (result.reason, result.retryable, result.attempts) == (ErrorReason.INVALID_ITEM, False, 1)
    assert result.error_metadata == {"field": "prompt"}
    assert result.error is not None
    assert f"{problem}: " in result.error
    assert "it may have: " in result.error
    assert "retry_after_seconds" not in result.error.partition("it may have: ")[2]


@pytest.mark.parametrize(
    "simulate",
    ['{"input_tokens": 9223372036854775808}', '{"latency_ms": Infinity}', '{"error": {"retry_after_seconds": 1e300}}'],
)
async def test_numbers_that_no_message_can_carry_are_refused(simulate: str) -> None:
    # On the wire such a result could not be written, and its stream would end for all other items.
    async def sleep(seconds: float) -> None:
        assert seconds < 1e9

    result = await run(f'{{"simulate": {simulate}}}', SimulatedStrategy(sleep=sleep))
    assert result.reason is ErrorReason.INVALID_ITEM


async def test_shared_content_counts_as_input_and_as_cached_while_the_cache_lives() -> None:
    time = 1000.0
    strategy = SimulatedStrategy(
        name="triage",
        system_instruction="s" * 40,
        cached_content=["c" * 400, "d" * 400],
        cache_policy=CachePolicy(100, 10),
        clock=lambda: time,
    )
    result = await run("p" * 8, strategy)
    assert (result.token_usage["input_tokens"], result.token_usage["cached_input_tokens"]) == (10 + 200 + 2, 210)
    assert strategy.context_cache is not None
    record = strategy.context_cache.record
    assert record is not None
    assert (record.strategy, record.total_token_count, record.expire_time) == ("triage", 210, 1100)
    time = 1100.0
    _, usage, _ = await strategy.execute("p" * 8, 1, 9)
    assert (usage["input_tokens"], usage["cached_input_tokens"]) == (212, 0)


async def test_without_cached_content_nothing_is_cached() -> None:
    strategy = SimulatedStrategy(system_instruction="s" * 40)
    result = await run("p" * 8, strategy)
    assert strategy.context_cache is None
    assert (result.token_usage["input_tokens"], result.token_usage["cached_input_tokens"]) == (12, 0)


async def test_the_instruction_is_part_of_the_caches_identity() -> None:
    identities = {
        strategy.context_cache.fingerprint
        for strategy in (
            SimulatedStrategy(cached_content=["c"]),
            SimulatedStrategy(cached_content=["c"], system_instruction="s"),
            SimulatedStrategy(cached_content=["c"], model="other"),
            SimulatedStrategy(cached_content=["c"], cache_tags={"v": "2"}),
        )
        if strategy.context_cache is not None
    }
    assert len(identities) == 4
