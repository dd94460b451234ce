"""One strategy in several event loops: one after another, and at the same time in threads. Time is real here."""

import asyncio
import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batch_llm import (
    CallableStrategy,
    FixedDelayStrategy,
    LLMCallStrategy,
    LLMWorkItem,
    ParallelBatchProcessor,
    ProcessorConfig,
    RetryConfig,
)
from batch_llm.model import TokenUsage
from batch_llm.quota import Admission, QuotaLimits, QuotaScope
from batch_llm.shared import SharedStrategy, shared_for
from batch_llm.sync import Limiter


class Counting(LLMCallStrategy[str]):
    def __init__(self) -> None:
        self.prepares = self.cleanups = 0
        self.loops: set[int] = set()
        self.preparing = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.meeting: threading.Barrier | None = None

    async def prepare(self) -> None:
        self.prepares += 1
        self.preparing.set()
        await asyncio.to_thread(self.go_on.wait)  # another thread sets it

    async def execute(self, prompt: str, attempt: int, timeout: float) -> tuple[str, TokenUsage]:
        self.loops.add(id(asyncio.get_running_loop()))
        if self.meeting is not None and prompt == "0":
            await asyncio.to_thread(self.meeting.wait, 60)  # so that neither loop has ended before the other began
        return prompt, TokenUsage(input_tokens=1)

    async def cleanup(self) -> None:
        self.cleanups += 1


async def batch(strategy: LLMCallStrategy[Any], items: int = 50) -> int:
    async with ParallelBatchProcessor[str, Any](max_workers=4) as processor:
        for number in range(items):
            await processor.add_work(LLMWorkItem(str(number), strategy, str(number)))
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
    strategy.meeting = threading.Barrier(2)
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


def test_one_thread_for_calls_is_shared_by_event_loops_in_threads() -> None:
    strategy = CallableStrategy(str.upper, max_threads=1)
    outcomes = in_threads(*[lambda: asyncio.run(batch(strategy, 300))] * 3)
    assert outcomes == [300, 300, 300]
    (limiter,) = shared_for(strategy).limiters
    assert limiter.in_use == 0


async def visits(enter: Callable[[], Any], leave: Callable[[Any], None], inside: set[int], number: int) -> int:
    """Visits of which some are cancelled as they wait."""
    done = 0

    async def visit() -> None:
        nonlocal done
        place = await enter()
        try:
            inside.add(number)
            assert len(inside) == 1
            await asyncio.sleep(0)
            done += 1
        finally:
            inside.discard(number)
            leave(place)

    for round_ in range(100):
        tasks = [asyncio.create_task(visit()) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[round_ % 5].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            assert task.cancelled() or task.exception() is None
    return done


def test_a_limiter_lets_one_through_whatever_thread_it_comes_from() -> None:
    limiter, inside = Limiter(1), set[int]()
    outcomes = in_threads(
        *(
            lambda number=number: asyncio.run(visits(limiter.acquire, lambda _: limiter.release(), inside, number))
            for number in range(4)
        )
    )
    assert all(400 <= done <= 500 for done in outcomes)
    assert limiter.in_use == 0


def test_a_quota_scope_lets_one_through_whatever_thread_it_comes_from() -> None:
    scope, inside = QuotaScope(limits=QuotaLimits(max_concurrency=1)), set[int]()

    def leave(admission: Admission) -> None:
        scope.release(admission, succeeded=True)

    outcomes = in_threads(
        *(
            lambda number=number: asyncio.run(visits(lambda: scope.admit(number), leave, inside, number))
            for number in range(4)
        )
    )
    assert all(400 <= done <= 500 for done in outcomes)
    assert scope.in_flight == 0


def test_a_pause_holds_in_every_thread_and_ends_though_the_loop_that_began_it_is_gone() -> None:
    scope = QuotaScope(strategy=FixedDelayStrategy(0.02))
    asked_at = []

    async def meet_a_429() -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        loop.time = lambda: now  # type: ignore[method-assign]  # it is over before the pause, however slow it is
        admission = await scope.admit("a")
        await scope.throttled(admission, None)
        scope.release(admission, succeeded=False)
        waiting = asyncio.create_task(scope.admit("a"))  # its loop ends before the pause does
        await asyncio.sleep(0)
        asked_at.append(now)
        waiting.cancel()

    async def come_later() -> float:
        scope.release(await scope.admit("b"), succeeded=True)
        return asyncio.get_running_loop().time()

    asyncio.run(meet_a_429())
    first, second = in_threads(*[lambda: asyncio.run(come_later())] * 2)
    assert min(first, second) >= asked_at[0]
    assert scope.cooldown_remaining(first) == scope.cooldown_remaining(second) == 0
    assert scope.in_flight == 0


class Gaps:
    """A scope's lock that another thread uses whenever it is free."""

    def __init__(self, scope: QuotaScope) -> None:
        self._scope, self._lock = scope, threading.RLock()
        self._depth = 0
        self.admitted: list[bool] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        outermost = self._depth == 0
        self._lock.release()
        if outermost and threading.current_thread() is threading.main_thread():
            in_threads(lambda: asyncio.run(self._come()))

    async def _come(self) -> None:
        asking = asyncio.create_task(self._scope.admit("other"))
        await asyncio.sleep(0)
        self.admitted.append(asking.done())
        asking.cancel()


def test_no_thread_is_admitted_between_a_429_and_its_pause() -> None:
    scope = QuotaScope(strategy=FixedDelayStrategy(300))

    async def meet_a_429() -> Gaps:
        admission = await scope.admit("a")
        gaps = scope._mutex = Gaps(scope)  # type: ignore[assignment]
        await scope.throttled(admission, None)
        return gaps

    gaps = asyncio.run(meet_a_429())
    assert gaps.admitted == [False] * 2, "while the pause is decided on, and once it is on"


def test_a_loop_that_is_closed_while_it_prepares_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    # Such a loop ends with an exception that nobody can catch. pytest would keep it, and with it the loop's tasks.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    strategy = Counting()
    strategy.go_on.clear()

    def first() -> None:
        loop, threads = asyncio.new_event_loop(), ThreadPoolExecutor()
        loop.set_default_executor(threads)
        task = loop.create_task(batch(strategy))
        while not strategy.preparing.is_set():
            loop.run_until_complete(asyncio.sleep(0))
        strategy.go_on.set()
        threads.shutdown()  # until its thread has ended, what the loop leaves is not thrown away
        task.cancel()
        loop.close()  # without a cleanup, and while the strategy is being prepared

    in_threads(first)
    gc.collect()
    assert in_threads(lambda: asyncio.run(batch(strategy))) == [50]
    assert strategy.prepares == 2
    gc.collect()  # of the preparation as well: all that is said of it is said here, not in another test


def test_a_loop_that_ends_while_it_prepares_costs_nobody_else_an_attempt() -> None:
    strategy = Counting()
    strategy.go_on.clear()
    shared = shared_for(strategy)

    async def give_up() -> None:
        task = asyncio.create_task(batch(strategy))
        while shared.users < 2:  # noqa: ASYNC110 - the other one is in another thread
            await asyncio.sleep(0)
        task.cancel()
        strategy.go_on.set()  # else asyncio.run would wait for the thread for ever

    async def one_attempt() -> int:
        config = ProcessorConfig(retry=RetryConfig(max_attempts=1))
        async with ParallelBatchProcessor[str, Any](config) as processor:
            await processor.add_work(LLMWorkItem("1", strategy, "1"))
            return (await processor.process_all()).succeeded

    def second() -> int:
        strategy.preparing.wait(timeout=60)
        return asyncio.run(one_attempt())

    assert in_threads(lambda: asyncio.run(give_up()), second)[1] == 1
    assert shared.users == 0


def test_threads_that_meet_a_strategy_first_at_the_same_time_share_one() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            strategy, meeting = Counting(), threading.Barrier(4)

            def share(strategy: Counting = strategy, meeting: threading.Barrier = meeting) -> SharedStrategy:
                meeting.wait(60)
                return shared_for(strategy)

            assert len({id(shared) for shared in in_threads(*[share] * 4)}) == 1
    finally:
        sys.setswitchinterval(interval)
