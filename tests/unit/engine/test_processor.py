import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from batch_llm import (
    ErrorInfo,
    FixedDelayStrategy,
    LLMCallStrategy,
    LLMWorkItem,
    ParallelBatchProcessor,
    ProcessorConfig,
    ProviderError,
    RateLimitConfig,
    RetryConfig,
    TokenUsage,
)
from batch_llm.shared import shared_for

Scripted = Callable[..., Any]
Processor = ParallelBatchProcessor[Any, Any]


async def hang() -> None:
    await asyncio.sleep(1e9)


async def add(processor: Processor, strategy: Any, *ids: str) -> None:
    for item_id in ids:
        await processor.add_work(LLMWorkItem(item_id=item_id, strategy=strategy, prompt=f"prompt {item_id}"))


async def test_all_items_run_and_their_totals_add_up(scripted: Scripted) -> None:
    good = scripted(("out", TokenUsage(input_tokens=100, cached_input_tokens=50, output_tokens=10)))
    bad = scripted(ProviderError("no", status=400, token_usage=TokenUsage(input_tokens=100)))
    async with Processor() as processor:
        await add(processor, good, "1", "2")
        await add(processor, bad, "3")
        batch = await processor.process_all()
    assert (batch.total_items, batch.succeeded, batch.failed) == (3, 2, 1)
    assert (batch.total_input_tokens, batch.total_cached_tokens, batch.total_output_tokens) == (300, 100, 20)
    assert batch.effective_input_tokens() == 210
    assert batch.failures_by_reason == {"PROVIDER_REJECTED": 1}
    assert sorted(good.calls) == [("prompt 1", 1), ("prompt 2", 1)]


async def test_the_context_comes_back_untouched(scripted: Scripted) -> None:
    context = object()
    async with Processor() as processor:
        await processor.add_work(LLMWorkItem(item_id="1", strategy=scripted(), context=context))
        (result,) = (await processor.process_all()).results
    assert result.context is context


async def test_settings_reach_the_items(scripted: Scripted) -> None:
    start = asyncio.get_running_loop().time()
    hanging, slow = scripted(hang), scripted(latency=3)
    config = ProcessorConfig(max_workers=2, timeout_per_item=5, retry=RetryConfig(max_attempts=1))
    async with Processor(config) as processor:
        await add(processor, slow, *"1234")
        await processor.process_all()
        await add(processor, hanging, "5")
        batch = await processor.process_all()
    assert (slow.peak, batch.failures_by_reason) == (2, {"ATTEMPT_TIMEOUT": 1})
    assert asyncio.get_running_loop().time() - start == 3 + 3 + 5


async def test_the_error_classifier_is_used(scripted: Scripted) -> None:
    class Never:
        def classify(self, exception: BaseException) -> ErrorInfo:
            return ErrorInfo(is_retryable=False, is_rate_limit=False, is_timeout=False, error_category="never")

    strategy = scripted(ConnectionError())
    async with Processor(error_classifier=Never()) as processor:
        await add(processor, strategy, "1")
        await processor.process_all()
    assert len(strategy.calls) == 1


async def test_a_second_run_has_its_own_items_and_the_same_preparation(scripted: Scripted) -> None:
    strategy = scripted()
    async with Processor() as processor:
        await add(processor, strategy, "1", "2")
        assert (await processor.process_all()).total_items == 2
        assert strategy.cleanups == 0
        await add(processor, strategy, "3")
        assert [result.item_id for result in (await processor.process_all()).results] == ["3"]
        assert (await processor.process_all()).results == []
    assert (strategy.prepares, strategy.cleanups) == (1, 1)


async def test_processors_share_a_strategy_and_the_last_one_cleans_up(scripted: Scripted) -> None:
    strategy = scripted(latency=1)
    async with Processor() as first:
        async with Processor() as second:
            for processor in (first, second):
                await add(processor, strategy, "1")
            await asyncio.gather(first.process_all(), second.process_all())
        assert strategy.cleanups == 0
    assert (strategy.prepares, strategy.cleanups) == (1, 1)


async def test_failing_cleanups_are_all_told_and_keep_nobody_from_theirs(scripted: Scripted) -> None:
    strategies = [scripted(cleanup=OSError("a")), scripted(), scripted(cleanup=OSError("b"))]
    processor = Processor()
    for strategy in strategies:
        await add(processor, strategy, "1")
    await processor.process_all()
    with pytest.raises(ExceptionGroup) as raised:
        await processor.cleanup()
    assert {str(error) for error in raised.value.exceptions} == {"a", "b"}
    assert [strategy.cleanups for strategy in strategies] == [1, 1, 1]
    await processor.cleanup()  # nothing is left to do


async def test_results_stream_as_they_finish(scripted: Scripted) -> None:
    async with Processor() as processor:
        await add(processor, scripted(latency=9), "slow")
        await add(processor, scripted(latency=1), "quick")
        assert [result.item_id async for result in processor.process_stream()] == ["quick", "slow"]


async def test_closing_the_stream_cancels_what_is_under_way(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    hanging = scripted(hang)
    processor = Processor()
    await add(processor, scripted(), "1")
    await add(processor, hanging, "2", "3")
    stream = processor.process_stream()
    assert (await anext(stream)).item_id == "1"
    await stream.aclose()
    assert left_behind() == set()
    assert hanging.running == 0
    await processor.cleanup()


async def test_leaving_the_processor_early_cancels_what_is_under_way_before_cleanup(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    hanging = scripted(hang)
    running: list[int] = []

    async def clean_up() -> None:
        running.append(hanging.running)

    hanging._cleanup = clean_up
    async with Processor() as processor:
        await add(processor, scripted(), "1")
        await add(processor, hanging, "2", "3")
        stream = processor.process_stream()
        async for _ in stream:
            break
        await asyncio.sleep(1)
    left, still_running = left_behind(), list(running)
    await stream.aclose()
    assert still_running == [0], "cleaned up under items that still run"
    assert left == set()


@pytest.mark.parametrize("streams", [1, 2, 3])
async def test_breaking_out_of_streams_and_leaving_ends_them_all(
    scripted: Scripted, left_behind: Callable[[], set[str]], streams: int
) -> None:
    hanging = scripted(hang)
    async with Processor() as processor:
        for _ in range(streams):
            await add(processor, scripted(), "1")
            await add(processor, hanging, "2", "3")
            async for _ in processor.process_stream():
                break
    assert (hanging.running, hanging.cleanups) == (0, 1)
    await asyncio.sleep(0.001)  # the loop closes an abandoned stream in a task of its own
    assert left_behind() == set()


async def test_leaving_early_with_more_items_than_the_inbox_holds_leaves_nobody_feeding(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    async with Processor() as processor:
        await add(processor, scripted(latency=1), *map(str, range(2000)))
        stream = processor.process_stream()
        await anext(stream)
    left = left_behind()
    await stream.aclose()  # type: ignore[attr-defined]
    assert left == set()


async def test_a_cancelled_run_leaves_nothing_behind(scripted: Scripted, left_behind: Callable[[], set[str]]) -> None:
    hanging = scripted(hang)
    processor = Processor()
    await add(processor, hanging, "1", "2")
    running = asyncio.create_task(processor.process_all())
    await asyncio.sleep(1)
    running.cancel()
    await asyncio.wait([running])
    assert (left_behind(), hanging.running) == (set(), 0)
    await processor.cleanup()
    assert hanging.cleanups == 1


async def test_a_stream_left_early_makes_way_for_the_next_batch(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    hanging = scripted(hang)
    async with Processor() as processor:
        await add(processor, scripted(), "1")
        await add(processor, hanging, "2")
        async for _ in processor.process_stream():
            break
        await add(processor, scripted(), "3")
        assert [result.item_id for result in (await processor.process_all()).results] == ["3"]
        assert hanging.running == 0
        assert left_behind() == set()


async def test_one_batch_at_a_time(scripted: Scripted) -> None:
    async with Processor() as processor:
        await add(processor, scripted(latency=5), "1")
        first = asyncio.create_task(processor.process_all())
        await asyncio.sleep(1)
        await add(processor, scripted(), "2")
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"runs a batch already; .* use another processor"):
                await processor.process_all()
        assert [result.item_id for result in (await first).results] == ["1"]
        assert [result.item_id for result in (await processor.process_all()).results] == ["2"]


async def test_a_batch_whose_processor_is_cleaned_up_does_not_pass_for_complete(scripted: Scripted) -> None:
    processor = Processor()
    await add(processor, scripted(), "1")
    await add(processor, scripted(hang), "2")
    running = asyncio.create_task(processor.process_all())
    await asyncio.sleep(1)
    await processor.cleanup()
    with pytest.raises(RuntimeError, match="cleaned up before its batch had ended"):
        await running


# -- figures -----------------------------------------------------------------------------------------------------------


async def test_stats_before_while_and_after(scripted: Scripted) -> None:
    billed = TokenUsage(input_tokens=100, cached_input_tokens=50, output_tokens=10, total_tokens=115)
    async with Processor(ProcessorConfig(max_workers=1)) as processor:
        await add(processor, scripted(("out", billed), latency=2), "1", "2")
        await add(processor, scripted(ProviderError("no", status=400)), "3")
        before = await processor.get_stats()
        assert (before["total"], before["processed"], before["start_time"]) == (3, 0, None)
        stream = processor.process_stream()
        await anext(stream)
        during = await processor.get_stats()
        assert (during["total"], during["processed"], during["elapsed_seconds"]) == (3, 1, 2)
        assert during["start_time"] is not None
        async for _ in stream:
            pass
        await asyncio.sleep(60)
        after = await processor.get_stats()
    assert after == {
        "total": 3,
        "processed": 3,
        "succeeded": 2,
        "failed": 1,
        "rate_limit_count": 0,
        "error_counts": {"PROVIDER_REJECTED": 1},
        "start_time": during["start_time"],
        "elapsed_seconds": 4,
        "total_input_tokens": 200,
        "total_output_tokens": 20,
        "total_tokens": 230,
        "cached_input_tokens": 100,
    }
    assert list(before) == list(after)


async def test_stats_start_clean_with_each_batch(scripted: Scripted) -> None:
    async with Processor() as processor:
        await add(processor, scripted(ValueError()), "1", "2")
        await processor.process_all()
        await add(processor, scripted(), "3")
        await processor.process_all()
        stats = await processor.get_stats()
    assert (stats["total"], stats["succeeded"], stats["failed"], stats["error_counts"]) == (1, 1, 0, {})


# -- dry run -----------------------------------------------------------------------------------------------------------


async def test_a_dry_run_prepares_calls_and_cleans_up_nothing(scripted: Scripted) -> None:
    strategy = scripted()
    async with Processor(ProcessorConfig(dry_run=True)) as processor:
        await add(processor, strategy, "1")
        (result,) = (await processor.process_all()).results
    assert (result.success, result.output, result.attempts) == (True, "[dry run] prompt 1", 0)
    assert (strategy.calls, strategy.prepares, strategy.cleanups) == ([], 0, 0)


async def test_a_dry_run_makes_no_context_cache(scripted: Scripted) -> None:
    class Paid:
        async def ensure(self) -> None:
            raise AssertionError("a cache was created")

        async def join(self) -> None:
            pass

    strategy = scripted()
    strategy.context_cache = Paid()
    async with Processor(ProcessorConfig(dry_run=True)) as processor:
        await add(processor, strategy, "1")
        assert (await processor.process_all()).succeeded == 1


async def test_a_dry_run_that_hangs_has_the_attempts_limit(scripted: Scripted) -> None:
    class Hangs(LLMCallStrategy[str]):
        async def execute(self, prompt: str, attempt: int, timeout: float) -> Any:
            raise AssertionError

        async def dry_run(self, prompt: str) -> Any:
            await hang()

    start = asyncio.get_running_loop().time()
    async with Processor(ProcessorConfig(dry_run=True, timeout_per_item=7)) as processor:
        await add(processor, Hangs(), "1")
        (result,) = (await processor.process_all()).results
    assert result.reason == "ATTEMPT_TIMEOUT"
    assert "dry_run() took longer than 7 s" in (result.error or "")
    assert asyncio.get_running_loop().time() - start == 7


async def test_a_dry_run_counts_and_hooks_like_any_other(scripted: Scripted) -> None:
    class Dry(LLMCallStrategy[str]):
        cache_discount = 0.5

        async def execute(self, prompt: str, attempt: int, timeout: float, state: Any = None) -> Any:
            raise AssertionError("called")

        async def dry_run(self, prompt: str) -> Any:
            if prompt == "prompt bad":
                raise KeyError("bad")
            return prompt, TokenUsage(input_tokens=10, cached_input_tokens=4)

    seen: list[str] = []
    config = ProcessorConfig(dry_run=True)
    async with Processor(config, post_processor=lambda result: seen.append(result.item_id)) as processor:
        await add(processor, Dry(), "1", "bad")
        batch = await processor.process_all()
    assert (batch.succeeded, batch.failed, batch.effective_input_tokens()) == (1, 1, 8)
    assert sorted(seen) == ["1", "bad"]


# -- settings ----------------------------------------------------------------------------------------------------------


async def test_the_rate_limit_settings_reach_the_engine(scripted: Scripted) -> None:
    calls: list[float] = []

    async def note() -> str:
        calls.append(asyncio.get_running_loop().time())
        return "ok"

    async with Processor(ProcessorConfig(max_requests_per_minute=2)) as processor:
        await add(processor, scripted(note), *"123")
        await processor.process_all()
    assert calls[1] - calls[0] < 60 <= calls[2] - calls[0]


@pytest.mark.parametrize("own", [True, False])
async def test_the_pause_after_a_rate_limit_is_as_configured(scripted: Scripted, own: bool) -> None:
    throttled = True

    async def once() -> str:
        nonlocal throttled
        if throttled:
            throttled = False
            raise ProviderError("slow down", status=429)
        return "ok"

    config = ProcessorConfig(rate_limit=RateLimitConfig(cooldown_seconds=30, slow_start_items=0))
    start = asyncio.get_running_loop().time()
    async with Processor(config, rate_limit_strategy=FixedDelayStrategy(7) if own else None) as processor:
        await add(processor, scripted(once), "1")
        assert (await processor.process_all()).succeeded == 1
    assert asyncio.get_running_loop().time() - start == (7 if own else 30)


async def test_the_queue_is_bounded_until_it_is_run(scripted: Scripted) -> None:
    async with Processor(ProcessorConfig(max_queue_size=2)) as processor:
        await add(processor, scripted(), "1", "2")
        with pytest.raises(ValueError, match=r"max_queue_size is 2 .* raise max_queue_size"):
            await add(processor, scripted(), "3")
        await processor.process_all()
        await add(processor, scripted(), "3")
        assert (await processor.process_all()).total_items == 1


@pytest.mark.parametrize("extra", [{"max_workers": 2}, {"timeout_per_item": 9.0}])
def test_settings_come_from_one_place(extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either config or"):
        Processor(ProcessorConfig(), **extra)


@pytest.mark.parametrize("extra", [{"max_workers": 0}, {"timeout_per_item": 0.0}])
def test_settings_given_directly_are_checked_too(extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(extra))):
        Processor(**extra)


@pytest.mark.parametrize("config", [{}, {"max_workers": 2}, 5])
def test_a_config_of_another_kind_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match=r"^config must be a ProcessorConfig, got .*; "):
        Processor(config)


async def test_a_strategy_that_swallows_its_cancellation_is_not_called_again_after_leaving() -> None:
    class Stubborn(LLMCallStrategy[str]):
        calls = 0

        async def execute(self, prompt: str, attempt: int, timeout: float) -> Any:
            self.calls += 1
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1 if prompt == "0" else 10)
            return "ok", {}

    strategy = Stubborn()
    processor = ParallelBatchProcessor[str, Any](max_workers=5)
    for number in range(50):
        await processor.add_work(LLMWorkItem(str(number), strategy, str(number)))
    stream = processor.process_stream()
    await anext(stream)
    calls = strategy.calls
    await stream.aclose()
    await processor.cleanup()
    assert strategy.calls == calls


async def test_one_failing_cleanup_keeps_no_other_step_from_its_own(scripted: Scripted) -> None:
    first, second, third = scripted(), scripted(cleanup=OSError("open")), scripted()
    first.escalation = [second, third]
    processor = ParallelBatchProcessor[str, Any](max_workers=1)
    await processor.add_work(LLMWorkItem("1", first, "x"))
    await processor.process_all()
    await processor.cleanup()
    assert [shared_for(strategy).users for strategy in (first, second, third)] == [0, 0, 0]


def test_an_escalation_that_comes_back_and_a_strategy_that_is_none_are_refused(scripted: Scripted) -> None:
    first, second = scripted(), scripted()
    first.escalation, second.escalation = [second], [first]
    with pytest.raises(ValueError, match=r"escalation: .* comes back to itself"):
        shared_for(first)
    with pytest.raises(TypeError, match="wrap a function in CallableStrategy"):
        shared_for(print)  # type: ignore[arg-type]


# -- several processors ----------------------------------------------------------------------------------------------


class ThrottledOnce(LLMCallStrategy[str]):
    calls = 0

    async def execute(self, prompt: str, attempt: int, timeout: float) -> tuple[str, TokenUsage]:
        self.calls += 1
        if self.calls == 1:
            raise ProviderError("slow down", status=429)
        return "ok", TokenUsage()


async def test_a_429_that_one_processor_meets_pauses_the_others_on_its_strategy(scripted: Scripted) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    strategy, other = ThrottledOnce(), scripted()
    async with (
        Processor(max_workers=1, rate_limit_strategy=FixedDelayStrategy(30)) as first,
        Processor(max_workers=1, rate_limit_strategy=FixedDelayStrategy(1000)) as second,
    ):
        await add(first, strategy, "1")
        running = asyncio.create_task(first.process_all())
        await asyncio.sleep(1)
        await add(second, other, "2")
        assert (await second.process_all()).succeeded == 1
        assert loop.time() - start == 1
        await add(second, strategy, "3")
        assert (await second.process_all()).succeeded == 1
        assert loop.time() - start == 30  # as long as the one that met it pauses
        assert (await running).succeeded == 1
        assert (await first.get_stats())["rate_limit_count"] == 1
        assert (await second.get_stats())["rate_limit_count"] == 0


async def test_the_least_budget_of_the_processors_that_share_a_quota_holds(scripted: Scripted) -> None:
    loop = asyncio.get_running_loop()
    strategy, same_quota = scripted(), scripted()
    strategy.quota_key = same_quota.quota_key = "provider/model"
    start = loop.time()
    async with Processor(ProcessorConfig(max_requests_per_minute=100)) as roomy:
        async with Processor(ProcessorConfig(max_requests_per_minute=2)) as tight:
            await add(tight, strategy, "1", "2")
            await tight.process_all()
            await add(roomy, same_quota, "3")
            await roomy.process_all()
            assert loop.time() - start >= 60
        start = loop.time()
        await add(roomy, same_quota, *map(str, range(90)))
        await roomy.process_all()
        assert loop.time() == start


async def test_a_strategy_for_each_item_leaves_nothing_behind(scripted: Scripted) -> None:
    strategies = [scripted() for _ in range(100)]
    scopes = [weakref.ref(shared_for(strategy).scope) for strategy in strategies]
    async with Processor() as processor:
        for strategy in strategies:
            await add(processor, strategy, "1")
        await processor.process_all()
    del strategies, strategy, processor
    gc.collect()
    assert not [scope for scope in scopes if scope() is not None]


# -- cleaning up though the caller is cancelled ------------------------------------------------------------------------


async def test_a_cleanup_goes_on_though_its_caller_is_cancelled(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    strategy = scripted(cleanup=lambda: asyncio.sleep(4))
    processor = Processor()
    await add(processor, strategy, "1")
    await processor.process_all()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await processor.cleanup()
    await processor.cleanup()  # the same one
    assert (strategy.cleanups, shared_for(strategy).users) == (1, 0)
    assert left_behind() == set()


async def test_a_task_cancelled_as_it_leaves_the_processor_leaves_nothing_running(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    strategy = scripted(hang)

    async def work() -> None:
        async with Processor() as processor:
            await add(processor, strategy, "1")
            stream = processor.process_stream()
            first = asyncio.create_task(anext(stream))
            await asyncio.sleep(1)
            first.cancel()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())
    await asyncio.sleep(1)
    assert left_behind() == set()
    assert (strategy.running, strategy.cleanups, shared_for(strategy).users) == (0, 1, 0)
