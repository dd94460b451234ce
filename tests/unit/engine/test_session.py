import asyncio
import gc
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batch_llm.executor import Executor, Work, out_of_time
from batch_llm.model import AnyResult, BatchLLMError, ErrorReason, TokenUsage, WorkItemResult
from batch_llm.processor import BatchSession
from batch_llm.shared import SharedStrategy

Scripted = Callable[..., Any]


def now() -> float:
    return asyncio.get_running_loop().time()


class StubExecutor(Executor):
    """An item takes as many seconds as its prompt says; without a number it does not even wait once."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []
        self.running = self.peak = 0

    async def run(self, work: Work) -> AnyResult:
        self.started.append(work.item_id)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            if work.prompt == "bug":
                raise RuntimeError("a bug of the engine's own")
            if work.prompt == "cancelled":
                raise asyncio.CancelledError("by a user's code, not by anybody who wants this to end")
            if work.prompt.isdigit():
                await asyncio.sleep(int(work.prompt))
        finally:
            self.running -= 1
        return WorkItemResult(work.item_id, True, submission_index=work.index)


def works(*prompts: str, shared: SharedStrategy | None = None, prefix: str = "") -> list[Work]:
    return [Work(f"{prefix}{number}", prompt, shared) for number, prompt in enumerate(prompts)]


def session(executor: Executor | None = None, **settings: Any) -> BatchSession:
    return BatchSession((executor or StubExecutor()).run, **{"max_concurrency": 100, **settings})


async def rest_of(batch: BatchSession) -> list[AnyResult]:
    """Closes the batch and takes all that is left."""
    batch.close()
    results: list[AnyResult] = []
    while taken := await batch.take(7):
        results += taken
    return results


async def settle() -> None:
    await asyncio.sleep(0.001)


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ordered", "order"), [(False, ["2", "0", "1"]), (True, ["0", "1", "2"])])
async def test_results_come_in_the_order_asked_for_and_are_numbered_as_they_come(
    ordered: bool, order: list[str]
) -> None:
    batch = session(ordered=ordered)
    await batch.submit(works("5", "9", "1"))
    results = await rest_of(batch)
    assert [result.item_id for result in results] == order
    assert [result.submission_index for result in results] == [int(item_id) for item_id in order]
    assert [result.sequence for result in results] == [1, 2, 3]


async def test_a_result_is_not_held_up_by_slower_ones() -> None:
    batch = session()
    await batch.submit(works("60", "1"))
    start = now()
    assert [result.item_id for result in await batch.take(10)] == ["1"]
    assert now() - start == 1
    await batch.abort()


@pytest.mark.parametrize("ordered", [False, True])
async def test_each_of_many_items_has_exactly_one_result(scripted: Scripted, ordered: bool) -> None:
    strategies = [SharedStrategy(scripted(latency=number), max_concurrency=number + 1) for number in range(3)]
    strategies.append(SharedStrategy(scripted(ValueError("bug"))))
    batch = session(Executor(), max_concurrency=9, ordered=ordered, inbox_items=30, outbox_items=5)
    items = [Work(str(number), "p", strategies[number % 4]) for number in range(400)]
    feeding = asyncio.create_task(batch.submit(items))
    results: list[AnyResult] = []
    while len(results) < 400:
        results += await batch.take(7)
    await feeding
    assert await rest_of(batch) == []
    assert sorted(int(result.item_id) for result in results) == list(range(400))
    assert [result.sequence for result in results] == list(range(1, 401))
    assert (batch.totals.succeeded, batch.totals.failed) == (300, 100)
    assert (batch.submitted, batch.waiting, batch.in_flight) == (400, 0, 0)


async def test_a_bug_of_the_engine_costs_no_result(caplog: pytest.LogCaptureFixture) -> None:
    batch = session(max_concurrency=1)
    await batch.submit(works("bug", "1"))
    bug, fine = await rest_of(batch)
    assert (bug.success, bug.reason, bug.retryable) == (False, ErrorReason.INTERNAL, False)
    assert bug.error == "RuntimeError: a bug of the engine's own"
    assert fine.success
    assert "the engine failed on item '0'" in caplog.text


async def test_take_gives_no_more_than_asked_for() -> None:
    batch = session()
    await batch.submit(works(*"00000"))
    await settle()
    assert [len(await batch.take(3)), len(await batch.take(3))] == [3, 2]
    assert not batch.has_ready


async def test_an_empty_batch_ends() -> None:
    assert await rest_of(session()) == []


# -- bounds ------------------------------------------------------------------------------------------------------------


async def submits_at_once(batch: BatchSession, items: list[Work]) -> bool:
    """Whether all are taken in without waiting."""
    feeding = asyncio.create_task(batch.submit(items))
    await settle()
    done = feeding.done()
    feeding.cancel()
    await asyncio.wait([feeding])
    return done


@pytest.mark.parametrize(("items", "at_once"), [(4, True), (5, False)])
async def test_the_inbox_is_bounded_by_items(items: int, at_once: bool) -> None:
    batch = session(max_concurrency=1, inbox_items=3)
    await batch.submit(works("60"))
    await settle()
    assert await submits_at_once(batch, works(*["60"] * (items - 1))) is at_once
    assert batch.waiting == 3
    await batch.abort()


@pytest.mark.parametrize(
    ("prompts", "context", "at_once"),
    [
        (["x" * 50, "x" * 49, "x"], b"", True),
        (["x" * 50, "x" * 50, "x"], b"", False),
        (["x" * 1000], b"", True),  # one item may exceed it
        (["x", "x"], b"c" * 100, False),
        (["é" * 50, "x"], b"", False),  # 100 bytes
    ],
    ids=["fits", "full", "one large", "contexts count", "bytes not characters"],
)
async def test_the_inbox_is_bounded_by_bytes(prompts: list[str], context: bytes, at_once: bool) -> None:
    batch = session(max_concurrency=1, inbox_bytes=100)
    await batch.submit(works("60"))
    await settle()
    items = works(*prompts)
    for item in items:
        item.context = context
    assert await submits_at_once(batch, items) is at_once
    await batch.abort()


async def test_a_full_inbox_takes_more_as_it_empties() -> None:
    batch = session(max_concurrency=1, inbox_items=4)
    start = now()
    feeding = asyncio.create_task(batch.submit(works(*["1"] * 20)))
    results: list[AnyResult] = []
    while len(results) < 20:
        results += await batch.take(100)
        assert batch.waiting <= 4
    await feeding
    assert now() - start == 20


async def test_items_are_not_started_while_results_wait_to_be_taken() -> None:
    executor = StubExecutor()
    batch = session(executor, outbox_items=3)
    await batch.submit(works(*["x"] * 10))
    await settle()
    assert len(executor.started) == 3
    await batch.take(2)
    await settle()
    assert len(executor.started) == 5
    assert len(await rest_of(batch)) == 8


async def test_in_order_results_that_wait_for_an_earlier_one_count_too() -> None:
    executor = StubExecutor()
    batch = session(executor, ordered=True, outbox_items=3)
    await batch.submit(works("60", *["x"] * 10))
    await settle()
    assert executor.started == ["0", "1", "2"]
    assert len(await batch.take(1)) == 1
    await settle()
    assert executor.started == ["0", "1", "2", "3"]
    await batch.abort()


@pytest.mark.parametrize("timeout", [None, 3600])
async def test_memory_follows_what_is_in_flight_not_the_batch(timeout: float | None) -> None:
    class Counted(Work):
        pass

    made = most = taken = 0

    def endless() -> Iterator[Work]:
        nonlocal made, most
        for number in range(5000):
            made += 1
            most = max(most, made - taken)
            yield Counted(str(number), "x", None, deadline=None if timeout is None else now() + timeout)

    batch = session(max_concurrency=8, inbox_items=16, outbox_items=32)
    feeding = asyncio.create_task(batch.submit(endless()))
    while taken < 5000:
        taken += len(await batch.take(5))
        if taken % 1000 < 5:
            assert sum(isinstance(thing, Counted) for thing in gc.get_objects()) <= 16 + 8 + 1
    await feeding
    assert most <= 16 + 32 + 1


# -- concurrency -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5])
async def test_the_batchs_limit_is_reached_and_kept(limit: int) -> None:
    executor = StubExecutor()
    batch = session(executor, max_concurrency=limit)
    start = now()
    await batch.submit(works(*["1"] * 20))
    await rest_of(batch)
    assert (executor.peak, now() - start) == (limit, 20 / limit)


async def test_the_batchs_limit_holds_over_strategies(scripted: Scripted) -> None:
    executor = StubExecutor()
    batch = session(executor, max_concurrency=5)
    for prefix in "abc":
        await batch.submit(works(*["1"] * 10, shared=SharedStrategy(scripted()), prefix=prefix))
    await rest_of(batch)
    assert executor.peak == 5


async def test_each_strategys_limit_is_reached_and_kept(scripted: Scripted) -> None:
    narrow, wide = scripted(latency=1), scripted(latency=1)
    batch = session(Executor())
    start = now()
    await batch.submit(works(*["p"] * 20, shared=SharedStrategy(narrow, max_concurrency=2)))
    await batch.submit(works(*["p"] * 20, shared=SharedStrategy(wide, max_concurrency=10)))
    await rest_of(batch)
    assert (narrow.peak, wide.peak, now() - start) == (2, 10, 10)


async def test_a_strategys_limit_holds_over_batches(scripted: Scripted) -> None:
    strategy = scripted(latency=1)
    shared = SharedStrategy(strategy, max_concurrency=2)
    batches = [session(Executor()) for _ in range(3)]
    start = now()
    for batch in batches:
        await batch.submit(works(*["p"] * 4, shared=shared))
    await asyncio.gather(*map(rest_of, batches))
    assert (strategy.peak, now() - start) == (2, 6)


async def test_a_slow_strategy_does_not_hold_up_anothers_items(scripted: Scripted) -> None:
    slow = SharedStrategy(scripted(latency=100), max_concurrency=2)
    quick = SharedStrategy(scripted(), max_concurrency=1)
    batch = session(Executor(), max_concurrency=3)
    start = now()
    await batch.submit(works(*["p"] * 10, shared=slow, prefix="slow"))
    await batch.submit(works(*["p"] * 10, shared=quick, prefix="quick"))
    results: list[AnyResult] = []
    while len(results) < 10:
        results += await batch.take(1)
    assert now() == start
    assert all(result.item_id.startswith("quick") for result in results)
    await batch.abort()


async def test_in_order_items_that_wait_for_their_strategy_are_not_locked_out_by_later_results(
    scripted: Scripted,
) -> None:
    slow = SharedStrategy(scripted(latency=1), max_concurrency=1)
    quick = SharedStrategy(scripted())
    batch = session(Executor(), ordered=True, outbox_items=2)
    await batch.submit(works("p", "p", shared=slow, prefix="slow") + works(*["p"] * 4, shared=quick, prefix="quick"))
    assert [result.item_id for result in await rest_of(batch)] == [
        *("slow0", "slow1"),
        *("quick0", "quick1", "quick2", "quick3"),
    ]


async def test_items_that_never_wait_let_others_run() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    watching = asyncio.create_task(other())
    batch = session(max_concurrency=1, outbox_items=2000)
    await batch.submit(works(*["x"] * 1000))
    assert len(await batch.take(2000)) < 1000
    await rest_of(batch)
    watching.cancel()
    assert turns >= 1000 // 64


# -- deadlines ---------------------------------------------------------------------------------------------------------


def limited(timeout: float, *prompts: str, shared: SharedStrategy | None = None, prefix: str = "") -> list[Work]:
    """Items with so many seconds from now."""
    items = works(*prompts, shared=shared, prefix=prefix)
    for item in items:
        item.deadline = now() + timeout
    return items


@pytest.mark.parametrize(("of_strategy", "of_batch"), [(1, 100), (100, 1)], ids=["the strategy's", "the batch's"])
async def test_a_deadline_ends_an_item_that_waits_for_a_place(
    scripted: Scripted, of_strategy: int, of_batch: int
) -> None:
    strategy = scripted(latency=60)
    shared = SharedStrategy(strategy, max_concurrency=of_strategy)
    batch = session(Executor(), max_concurrency=of_batch)
    await batch.submit(works("slow", shared=shared))
    await batch.submit([*limited(0.1, "x", shared=shared, prefix="late"), *works("next", shared=shared, prefix="next")])
    start = now()
    (late,) = await batch.take(10)
    assert (late.item_id, now() - start) == ("late0", pytest.approx(0.1))
    assert (late.reason, late.retryable, late.attempts) == (ErrorReason.ITEM_DEADLINE_EXCEEDED, True, 0)
    assert (late.elapsed_seconds, late.sequence, late.submission_index) == (pytest.approx(0.1), 1, 1)
    assert (batch.waiting, batch.in_flight, batch.totals.failed) == (1, 1, 1)
    assert [result.item_id for result in await rest_of(batch)] == ["0", "next0"]
    assert ([prompt for prompt, _ in strategy.calls], now() - start) == (["slow", "next"], 120)


async def test_it_ends_as_it_would_if_it_were_run(scripted: Scripted) -> None:
    (work,) = limited(0, "x", shared=SharedStrategy(scripted()))
    work.context, work.strategy, work.index = b"c", "s", 7
    run, waiting = await Executor().run(work), out_of_time(work)
    run.exception = None
    assert run == waiting


async def test_a_deadline_that_passes_while_results_wait_to_be_taken_is_kept_when_there_is_room() -> None:
    executor = StubExecutor()
    batch = session(executor, outbox_items=2)
    await batch.submit(limited(5, *["x"] * 9))
    await asyncio.sleep(6)
    assert (len(executor.started), batch.waiting, batch.totals.total_items) == (2, 7, 2)
    taken = await batch.take(10)
    for waiting in (5, 3, 1, 0):
        assert (batch.waiting, batch.totals.total_items) == (waiting, 9 - waiting)
        taken += await batch.take(10)
    assert [result.reason for result in taken] == [None] * 2 + [ErrorReason.ITEM_DEADLINE_EXCEEDED] * 7
    assert [result.sequence for result in taken] == list(range(1, 10))
    assert len(executor.started) == 2


async def test_in_order_deadlines_are_kept_as_far_as_there_is_room(scripted: Scripted) -> None:
    slow = SharedStrategy(scripted(latency=60), max_concurrency=1)
    batch = session(Executor(), ordered=True, outbox_items=3)
    # The later an item, the earlier its deadline: those without room must not hold up those with.
    start = now()
    items = works("p", shared=slow, prefix="slow")
    for number in range(1, 6):
        items += limited(10 - number, "p", shared=slow, prefix=f"late{number}-")
    await batch.submit(items)
    await asyncio.sleep(20)
    assert (batch.totals.total_items, batch.waiting, batch.has_ready) == (2, 3, False)
    results: list[AnyResult] = []
    while len(results) < 6:
        results += await batch.take(1)
        assert batch.totals.total_items <= len(results) + 3
    assert [result.submission_index for result in results] == list(range(6))
    assert [result.success for result in results] == [True] + [False] * 5
    assert results[1].elapsed_seconds == 9
    assert now() - start == 60


async def test_a_paused_batch_keeps_its_deadlines_when_it_goes_on() -> None:
    executor = StubExecutor()
    batch = session(executor, max_concurrency=1)
    batch.pause()
    await batch.submit([*limited(5, "x"), *works("x", prefix="fine")])
    await asyncio.sleep(10)
    assert (batch.waiting, batch.totals.total_items, executor.started) == (2, 0, [])
    batch.resume()
    assert (batch.waiting, batch.totals.total_items) == (1, 1)
    late, fine = await rest_of(batch)
    assert (late.reason, late.elapsed_seconds) == (ErrorReason.ITEM_DEADLINE_EXCEEDED, 10)
    assert (fine.success, executor.started) == (True, ["fine0"])


async def test_deadlines_make_room_in_the_inbox() -> None:
    batch = session(max_concurrency=1, inbox_items=4)
    await batch.submit(works("60"))
    await settle()
    start = now()
    await batch.submit(limited(5, *["x"] * 12))
    assert now() - start == 5
    assert [result.success for result in await rest_of(batch)] == [False] * 12 + [True]


async def test_a_strategy_whose_items_have_all_run_out_of_time_is_used_again(scripted: Scripted) -> None:
    batch = session(max_concurrency=1)
    shared = SharedStrategy(scripted())
    await batch.submit(works("60"))
    await batch.submit(limited(5, "x", "x", shared=shared))
    assert [result.success for result in await batch.take(3)] == [False, False]
    assert [result.success for result in await batch.take(3)] == [True]
    await settle()
    await batch.submit(works("x", shared=shared))
    assert [result.success for result in await rest_of(batch)] == [True]


@pytest.mark.parametrize("ordered", [False, True])
async def test_each_of_many_items_with_deadlines_has_exactly_one_result_in_time(
    scripted: Scripted, ordered: bool
) -> None:
    drawn = random.Random(7)
    strategies = [SharedStrategy(scripted(latency=number + 1), max_concurrency=number + 1) for number in range(3)]
    batch = session(Executor(), max_concurrency=5, ordered=ordered, inbox_items=30, outbox_items=12)

    def items() -> Iterator[Work]:
        for number in range(600):
            timeout = drawn.choice([None, 0, 1, 2.5, 6, 30])
            deadline = None if timeout is None else now() + timeout
            yield Work(str(number), "p", strategies[number % 3], context=timeout, deadline=deadline)

    feeding = asyncio.create_task(batch.submit(items()))
    results: list[AnyResult] = []
    while len(results) < 600:
        results += await batch.take(7)
    await feeding
    assert await rest_of(batch) == []
    assert sorted(int(result.item_id) for result in results) == list(range(600))
    assert [result.sequence for result in results] == list(range(1, 601))
    late = [result for result in results if not result.success]
    assert {result.reason for result in late} == {ErrorReason.ITEM_DEADLINE_EXCEEDED}
    assert {result.context for result in late} >= {0, 1, 2.5, 6}
    if not ordered:  # else an item may wait for room
        assert all(result.elapsed_seconds <= result.context for result in late)
    assert (batch.totals.failed, batch.waiting, batch.in_flight) == (len(late), 0, 0)


@pytest.mark.parametrize("after", [1, 9])
async def test_cut_short_ends_items_with_a_deadline_once(after: float) -> None:
    batch = session(max_concurrency=1, outbox_items=2)
    await batch.submit([*works("60"), *limited(5, *["x"] * 3)])
    await asyncio.sleep(after)
    batch.cut_short("enough")
    await asyncio.sleep(10)
    reasons = [result.reason for result in await rest_of(batch)]
    late = int(after > 5)  # the outbox has room for one
    assert sorted(map(str, reasons)) == ["CANCELLED"] * (4 - late) + ["ITEM_DEADLINE_EXCEEDED"] * late
    assert batch.waiting == 0


async def test_an_aborted_batch_is_not_kept_for_its_deadlines() -> None:
    batch = session(max_concurrency=1)
    await batch.submit([*works("60"), *limited(3600, "x")])
    await settle()
    await batch.abort()
    kept = weakref.ref(batch)
    del batch
    gc.collect()
    assert kept() is None


# -- ending early ------------------------------------------------------------------------------------------------------


async def test_abort_leaves_no_task_and_starts_nothing_more(left_behind: Callable[[], set[str]]) -> None:
    executor = StubExecutor()
    batch = session(executor, max_concurrency=3)
    await batch.submit(works(*["60"] * 10))
    await settle()
    await batch.abort()
    assert left_behind() == set()
    assert (len(executor.started), executor.running, batch.in_flight) == (3, 0, 0)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("started", [False, True])
async def test_cut_short_each_item_ends_cancelled_once(ordered: bool, started: bool) -> None:
    batch = session(max_concurrency=3, ordered=ordered)
    await batch.submit(works("1", *["60"] * 9))
    if started:
        await asyncio.sleep(2)
    batch.cut_short("the sidecar is shutting down")
    results = await rest_of(batch)
    assert sorted(int(result.item_id) for result in results) == list(range(10))
    assert [result.sequence for result in results] == list(range(1, 11))
    ended = [result for result in results if result.success]
    assert [result.item_id for result in ended] == (["0"] if started else [])
    for result in results:
        if not result.success:
            assert (result.reason, result.retryable) == (ErrorReason.CANCELLED, True)
            assert result.error == "the sidecar is shutting down"
    assert (batch.waiting, batch.in_flight) == (0, 0)


async def test_what_an_item_has_cost_before_it_is_cut_short_counts(scripted: Scripted) -> None:
    async def hang() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            error.token_usage = TokenUsage(input_tokens=30)  # type: ignore[attr-defined]
            raise

    failed = BatchLLMError("no", reason=ErrorReason.VALIDATION_FAILED)
    failed.token_usage = TokenUsage(input_tokens=100)  # type: ignore[attr-defined]
    shared = SharedStrategy(scripted(failed, hang))
    batch = session(Executor())
    await batch.submit(works("x", shared=shared))
    while len(shared.strategy.calls) < 2:
        await settle()
    batch.cut_short("enough")
    (result,) = await rest_of(batch)
    assert (result.reason, result.error, result.retryable) == (ErrorReason.CANCELLED, "enough", True)
    assert (result.attempts, result.token_usage["input_tokens"]) == (2, 130)
    assert batch.totals.input_tokens == 130


async def test_cut_short_with_a_full_outbox_still_gives_every_result() -> None:
    batch = session(outbox_items=2)
    await batch.submit(works(*["x"] * 10))
    await settle()
    batch.cut_short("enough")
    assert [result.success for result in await rest_of(batch)] == [True] * 2 + [False] * 8


async def test_cut_short_ends_items_that_wait_for_the_inbox_too() -> None:
    executor = StubExecutor()
    batch = session(executor, max_concurrency=1, inbox_items=2)
    feeding = asyncio.create_task(batch.submit(works(*["60"] * 10)))
    await settle()
    batch.cut_short("enough")
    await feeding
    results = await rest_of(batch)
    assert [result.reason for result in results] == [ErrorReason.CANCELLED] * 10
    assert executor.started == ["0"]


async def test_a_cancellation_from_within_costs_its_item_and_no_worker() -> None:
    batch = session(max_concurrency=1)
    await batch.submit(works("cancelled", "1", "cancelled", "1"))
    results = await rest_of(batch)
    assert [result.success for result in results] == [False, True, False, True]
    assert {result.reason for result in results if not result.success} == {ErrorReason.INTERNAL}
    await batch.abort()
