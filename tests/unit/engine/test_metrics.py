import json
from collections.abc import Callable
from typing import Any

import pytest

from batch_llm import LLMWorkItem, MetricsObserver, ParallelBatchProcessor, ProcessingEvent, ProcessorConfig

Scripted = Callable[..., Any]
E = ProcessingEvent


async def test_metrics_of_a_batch(scripted: Scripted) -> None:
    metrics = MetricsObserver()
    strategies = [scripted(latency=1), scripted(latency=5), scripted(ValueError()), scripted(KeyError())]
    async with ParallelBatchProcessor[Any, Any](observers=[metrics]) as processor:
        for number, strategy in enumerate(strategies):
            await processor.add_work(LLMWorkItem(str(number), strategy))
        await processor.process_all()
    assert await metrics.get_metrics() == {
        "items_processed": 4,
        "items_succeeded": 2,
        "items_failed": 2,
        "rate_limits_hit": 0,
        "total_cooldown_time": 0.0,
        "error_counts": {"ValueError": 1, "KeyError": 1},
        "total_processing_time": 6.0,
        "avg_processing_time": 3.0,
        "min_processing_time": 1.0,
        "max_processing_time": 5.0,
        "processing_times": [1.0, 5.0],
        "success_rate": 0.5,
    }


async def test_time_in_the_queue_is_not_processing_time(scripted: Scripted) -> None:
    metrics = MetricsObserver()
    strategy = scripted(latency=2)
    async with ParallelBatchProcessor[Any, Any](ProcessorConfig(1), observers=[metrics]) as processor:
        for number in range(3):
            await processor.add_work(LLMWorkItem(str(number), strategy))
        await processor.process_all()
    assert (await metrics.get_metrics())["processing_times"] == [2, 2, 2]


async def test_rate_limits_and_cooldowns_are_counted() -> None:
    metrics = MetricsObserver()
    for event, data in [
        (E.RATE_LIMIT_HIT, {}),
        (E.COOLDOWN_STARTED, {"duration": 300.0}),
        (E.COOLDOWN_ENDED, {"duration": 250.0}),
        (E.RATE_LIMIT_HIT, {}),
        (E.COOLDOWN_ENDED, {"duration": 10.0}),
    ]:
        await metrics.on_event(event, data)
    figures = await metrics.get_metrics()
    assert (figures["rate_limits_hit"], figures["total_cooldown_time"], figures["items_processed"]) == (2, 260.0, 0)


async def test_without_items_all_figures_are_zero_and_json_can_carry_them() -> None:
    figures = json.loads(await MetricsObserver().export_json())
    assert figures.pop("error_counts") == {}
    assert figures.pop("processing_times") == []
    assert set(figures.values()) == {0}


async def test_metrics_go_on_over_batches_until_reset(scripted: Scripted) -> None:
    metrics = MetricsObserver()
    async with ParallelBatchProcessor[Any, Any](observers=[metrics]) as processor:
        for expected in (1, 2):
            await processor.add_work(LLMWorkItem("1", scripted()))
            await processor.process_all()
            assert (await metrics.get_metrics())["items_processed"] == expected
    metrics.reset()
    assert await metrics.get_metrics() == await MetricsObserver().get_metrics()


@pytest.mark.parametrize("figure", ["error_counts", "processing_times"])
async def test_what_is_given_out_is_a_copy(figure: str) -> None:
    metrics = MetricsObserver()
    (await metrics.get_metrics())[figure].clear()
    await metrics.on_event(E.ITEM_COMPLETED, {"duration": 1.0})
    await metrics.on_event(E.ITEM_FAILED, {"error_type": "E"})
    (await metrics.get_metrics())[figure].clear()
    assert len((await metrics.get_metrics())[figure]) == 1


async def test_memory_does_not_grow_with_the_batch() -> None:
    metrics = MetricsObserver()
    for number in range(1000):
        await metrics.on_event(E.ITEM_COMPLETED, {"duration": float(number)})
    figures = await metrics.get_metrics()
    assert figures["processing_times"] == list(range(900, 1000))
    assert (figures["min_processing_time"], figures["max_processing_time"]) == (0, 999)
