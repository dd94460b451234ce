"""Plain functions as strategies. On real event loops: virtual time would not wait for threads."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from typing import Any

import pytest

from batch_llm import CallableStrategy, ErrorReason, LLMWorkItem, ParallelBatchProcessor, ProviderError

USAGE = {"input_tokens": 3, "output_tokens": 2}


def run(strategy: CallableStrategy, *prompts: str) -> list[Any]:
    async def main() -> list[Any]:
        async with ParallelBatchProcessor(max_workers=8, timeout_per_item=30) as processor:
            for number, prompt in enumerate(prompts):
                await processor.add_work(LLMWorkItem(item_id=str(number), strategy=strategy, prompt=prompt))
            return (await processor.process_all()).results

    return sorted(asyncio.run(main()), key=lambda result: result.submission_index)


class Shouter:
    async def __call__(self, prompt: str) -> str:
        return prompt.upper()

    async def method(self, prompt: str) -> str:
        return prompt.upper()

    def plain(self, prompt: str) -> str:
        return prompt.upper()


async def shout(prompt: str, times: int = 1) -> str:
    return prompt.upper() * times


@pytest.mark.parametrize(
    "function",
    [
        shout,
        functools.partial(shout, times=1),
        lambda prompt: prompt.upper(),
        lambda prompt: shout(prompt),
        str.upper,
        Shouter(),
        Shouter().method,
        Shouter().plain,
    ],
)
def test_any_kind_of_function_will_do(function: Any) -> None:
    (result,) = run(CallableStrategy(function), "a")
    assert (result.success, result.output, result.token_usage.get("input_tokens", 0)) == (True, "A", 0)


@pytest.mark.parametrize(
    ("returned", "output", "tokens"),
    [
        (("yes", USAGE), "yes", 3),
        (("yes", {}), "yes", 0),
        (("yes", {"label": "a"}), ("yes", {"label": "a"}), 0),
        ((1, 2), (1, 2), 0),
        (["yes", USAGE], ["yes", USAGE], 0),
        (None, None, 0),
        ({"label": "a"}, {"label": "a"}, 0),
    ],
)
def test_a_pair_with_usage_counts_tokens_and_any_other_value_is_the_output(
    returned: Any, output: Any, tokens: int
) -> None:
    async def function(prompt: str) -> Any:
        return returned

    (result,) = run(CallableStrategy(function), "a")
    assert (result.output, result.token_usage.get("input_tokens", 0)) == (output, tokens)


def test_a_failure_is_classified_and_its_tokens_count() -> None:
    def refuse(prompt: str) -> str:
        raise ProviderError("no", status=400, token_usage={"input_tokens": 7})

    async def bug(prompt: str) -> str:
        raise KeyError("label")

    (refused,) = run(CallableStrategy(refuse), "a")
    assert (refused.reason, refused.token_usage["input_tokens"]) == (ErrorReason.PROVIDER_REJECTED, 7)
    (broken,) = run(CallableStrategy(bug), "a")
    assert (broken.reason, broken.attempts) == (ErrorReason.INTERNAL, 1)


def test_plain_functions_run_beside_each_other_up_to_the_limit() -> None:
    meet = threading.Barrier(3, timeout=30)  # passes only if three are running at once
    leave = threading.Barrier(3, timeout=30)
    running = peak = 0
    lock = threading.Lock()

    def function(prompt: str) -> str:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        meet.wait()
        with lock:
            running -= 1
        leave.wait()  # nobody is counted in before all three are counted out
        return threading.current_thread().name

    results = run(CallableStrategy(function, max_threads=3), *"abcdef")
    assert peak == 3
    assert [result.error for result in results] == [None] * 6
    assert all(result.output.startswith("batch-llm-call") for result in results)


def test_a_plain_function_sees_context_variables() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")
    strategy = CallableStrategy(lambda prompt: tenant.get())

    async def main() -> str:
        await strategy.prepare()
        tenant.set("acme")
        output, _ = await strategy.execute("a", 1, 30)
        await strategy.cleanup()
        return output

    assert asyncio.run(main()) == "acme"


def test_it_can_be_prepared_again_after_cleanup() -> None:
    strategy = CallableStrategy(lambda prompt: prompt)
    for _ in range(2):
        (result,) = run(strategy, "a")
        assert result.output == "a"
    for thread in threading.enumerate():
        if thread.name.startswith("batch-llm-call"):
            thread.join(10)
            assert not thread.is_alive()


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="got str"):
        CallableStrategy("prompt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_threads must be at least 1, got 0"):
        CallableStrategy(str.upper, max_threads=0)
    with pytest.raises(ValueError, match=r"max_threads must be a whole number, got 2\.5"):
        CallableStrategy(str.upper, max_threads=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cache_discount must be at most 1, got 90"):
        CallableStrategy(str.upper, cache_discount=90)
