"""One strategy in several event loops: one after another, and at the same time in threads. Time is real here."""

import asyncio
import threading
from typing import Any

from batch_llm import LLMCallStrategy, LLMWorkItem, ParallelBatchProcessor
from batch_llm.model import TokenUsage
from batch_llm.shared import SharedStrategy, shared_for


class Counting(LLMCallStrategy[str]):
    def __init__(self) -> None:
        self.prepares = self.cleanups = 0
        self.loops: set[int] = set()
        self.preparing = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    async def prepare(self) -> None:
        self.prepares += 1
        self.preparing.set()
        await asyncio.to_thread(self.go_on.wait)  # another thread sets it

    async def execute(self, prompt: str, attempt: int, timeout: float) -> tuple[str, TokenUsage]:
        self.loops.add(id(asyncio.get_running_loop()))
        return prompt, TokenUsage(input_tokens=1)

    async def cleanup(self) -> None:
        self.cleanups += 1


async def batch(strategy: Counting, items: int = 50) -> int:
    async with ParallelBatchProcessor[str, Any](max_workers=4) as processor:
        for number in range(items):
            await processor.add_work(LLMWorkItem(str(number), strategy, "x"))
        return (await processor.process_all()).succeeded


def in_threads(*functions: Any) -> list[Any]:
    outcomes: list[Any] = [None] * len(functions)

    def run(index: int) -> None:
        outcomes[index] = functions[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return outcomes


def test_one_loop_after_another_prepares_and_cleans_up_in_each() -> None:
    strategy = Counting()
    assert in_threads(lambda: asyncio.run(batch(strategy))) == [50]
    assert in_threads(lambda: asyncio.run(batch(strategy))) == [50]
    assert (strategy.prepares, strategy.cleanups) == (2, 2)


def test_a_loop_that_ended_without_cleanup_takes_what_was_prepared_with_it() -> None:
    strategy = Counting()

    async def without_cleanup() -> int:
        processor = ParallelBatchProcessor[str, Any](max_workers=1)
        await processor.add_work(LLMWorkItem("1", strategy, "x"))
        return (await processor.process_all()).succeeded

    assert in_threads(lambda: asyncio.run(without_cleanup())) == [1]
    assert in_threads(lambda: asyncio.run(without_cleanup())) == [1]
    assert strategy.prepares == 2


def test_loops_at_the_same_time_share_one_preparation_and_the_last_one_cleans_up() -> None:
    strategy = Counting()
    strategy.go_on.clear()
    shared: SharedStrategy = shared_for(strategy)

    def second() -> int:
        strategy.preparing.wait(timeout=60)  # the other loop is preparing
        threading.Thread(target=release_when_both_use_it).start()
        return asyncio.run(batch(strategy))

    def release_when_both_use_it() -> None:
        while shared.users < 2:
            pass
        strategy.go_on.set()

    assert in_threads(lambda: asyncio.run(batch(strategy)), second) == [50, 50]
    assert (strategy.prepares, strategy.cleanups) == (1, 1)
    assert len(strategy.loops) == 2
