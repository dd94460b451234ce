import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from batch_llm import (
    ErrorInfo,
    LLMWorkItem,
    ParallelBatchProcessor,
    ProcessorConfig,
    ProviderError,
    RetryConfig,
    TokenUsage,
)

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
    await stream.aclose()  # type: ignore[attr-defined]
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
    await stream.aclose()  # type: ignore[attr-defined]
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
