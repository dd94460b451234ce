import asyncio
import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from batch_llm import (
    BaseMiddleware,
    BaseObserver,
    ErrorReason,
    LLMWorkItem,
    ParallelBatchProcessor,
    ProcessingEvent,
    ProcessorConfig,
    ProviderError,
    RetryConfig,
    TokenUsage,
    WorkItemResult,
)
from batch_llm.processor.feed import Feed

Scripted = Callable[..., Any]
E = ProcessingEvent


def now() -> float:
    return asyncio.get_running_loop().time()


async def hang(*_: Any) -> None:
    await asyncio.sleep(1e9)


async def run(strategy: Any, *ids: str, config: ProcessorConfig | None = None, **hooks: Any) -> list[Any]:
    """Results by id."""
    async with ParallelBatchProcessor[Any, Any](config or ProcessorConfig(retry=FAST), **hooks) as processor:
        for item_id in ids or ("1",):
            await processor.add_work(LLMWorkItem(item_id, strategy, f"prompt {item_id}", context=f"context {item_id}"))
        batch = await processor.process_all()
    return sorted(batch.results, key=lambda result: result.item_id)


FAST = RetryConfig(max_attempts=3, initial_wait=0, jitter=False)
BILLED = TokenUsage(input_tokens=7, output_tokens=1)


class Recorder(BaseObserver):
    def __init__(self) -> None:
        self.events: list[tuple[ProcessingEvent, dict[str, Any]]] = []

    async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        self.events.append((event, data))

    def of(self, *kinds: ProcessingEvent) -> list[dict[str, Any]]:
        return [data for event, data in self.events if event in kinds]

    def counts(self) -> dict[str, int]:
        return Counter(event.name for event, _ in self.events)


class Diary(BaseMiddleware):
    """Notes each call in a list that it may share with others."""

    def __init__(self, name: str = "", notes: list[str] | None = None) -> None:
        self.name = name
        self.notes = [] if notes is None else notes
        self.errors: list[BaseException] = []

    async def before_process(self, item: Any) -> Any:
        self.notes.append(f"{self.name}before {item.item_id}")
        return item

    async def after_process(self, result: Any) -> Any:
        self.notes.append(f"{self.name}after {result.item_id}")
        return result

    async def on_error(self, item: Any, error: BaseException) -> Any:
        self.notes.append(f"{self.name}error {item.item_id}")
        self.errors.append(error)


# -- middlewares -------------------------------------------------------------------------------------------------------


async def test_a_middleware_is_called_once_per_item_not_per_attempt(scripted: Scripted) -> None:
    diary = Diary()
    flaky = scripted(ConnectionError(), ConnectionError(), "ok")
    (result,) = await run(flaky, middlewares=[diary])
    assert (result.success, result.attempts) == (True, 3)
    assert diary.notes == ["before 1", "after 1"]


async def test_on_error_comes_after_the_last_attempt_with_what_it_raised(scripted: Scripted) -> None:
    diary = Diary()
    errors = [ConnectionError("first"), ConnectionError("second"), ConnectionError("last")]
    (result,) = await run(scripted(*errors), middlewares=[diary])
    assert not result.success
    assert diary.notes == ["before 1", "error 1", "after 1"]
    assert diary.errors == [errors[-1]]


async def test_middlewares_wrap_one_another(scripted: Scripted) -> None:
    notes: list[str] = []
    await run(scripted(), middlewares=[Diary("outer ", notes), Diary("inner ", notes)])
    assert notes == ["outer before 1", "inner before 1", "inner after 1", "outer after 1"]


async def test_a_middleware_changes_prompt_context_and_strategy_but_not_the_id(scripted: Scripted) -> None:
    named, other = scripted("named"), scripted("other")

    class Change(BaseMiddleware):
        async def before_process(self, item: Any) -> Any:
            return LLMWorkItem("another id", other, item.prompt.upper(), context="new")

    (result,) = await run(named, middlewares=[Change()])
    assert (result.item_id, result.output, result.context) == ("1", "other", "new")
    assert (named.calls, other.calls) == ([], [("PROMPT 1", 1)])
    assert (other.prepares, other.cleanups, named.prepares) == (1, 1, 0)


async def test_a_middleware_gets_the_users_own_item(scripted: Scripted) -> None:
    class Tagged(LLMWorkItem[Any, Any]):
        tag = "mine"

    seen: list[Any] = []

    class Look(BaseMiddleware):
        async def before_process(self, item: Any) -> Any:
            seen.append(item)
            return item

    item = Tagged("1", scripted())
    async with ParallelBatchProcessor[Any, Any](middlewares=[Look()]) as processor:
        await processor.add_work(item)
        await processor.process_all()
    assert seen == [item]
    assert seen[0] is item


async def test_a_skipped_item_has_a_result_and_no_call(scripted: Scripted) -> None:
    class Odd(BaseMiddleware):
        async def before_process(self, item: Any) -> Any:
            return item if int(item.item_id) % 2 else None

    strategy, diary, recorder, seen = scripted(), Diary(), Recorder(), list[str]()
    results = await run(
        strategy,
        *"123",
        middlewares=[Odd(), diary],
        observers=[recorder],
        post_processor=lambda result: seen.append(result.item_id),
    )
    assert [result.success for result in results] == [True, False, True]
    skipped = results[1]
    assert (skipped.error, skipped.reason, skipped.retryable) == ("Skipped by middleware", ErrorReason.CANCELLED, False)
    assert (skipped.error_metadata, skipped.attempts, skipped.context) == ({"middleware": "Odd"}, 0, "context 2")
    assert sorted(strategy.calls) == [("prompt 1", 1), ("prompt 3", 1)]
    assert sorted(diary.notes) == ["after 1", "after 3", "before 1", "before 3"]
    assert [data["item_id"] for data in recorder.of(E.ITEM_FAILED)] == ["2"]
    assert sorted(seen) == ["1", "2", "3"]


async def test_a_result_in_place_of_a_failure_keeps_what_the_attempts_cost(scripted: Scripted) -> None:
    class Fallback(BaseMiddleware):
        async def on_error(self, item: Any, error: BaseException) -> Any:
            return WorkItemResult(item.item_id, True, output=f"instead of {error}")

    late, recorder = Diary(), Recorder()
    failing = scripted(ProviderError("no", status=500, token_usage=BILLED))
    (result,) = await run(failing, middlewares=[Fallback(), late], observers=[recorder])
    assert (result.success, result.output, result.error, result.reason) == (True, "instead of no", None, None)
    assert (result.token_usage["input_tokens"], result.attempts, result.context) == (21, 3, "context 1")
    assert late.notes == ["before 1", "after 1"], "the first result ends the search"
    assert len(recorder.of(E.ITEM_COMPLETED)) == 1
    assert recorder.of(E.ITEM_FAILED) == []


async def test_one_result_given_for_many_items_becomes_theirs(scripted: Scripted) -> None:
    constant: WorkItemResult[Any, Any] = WorkItemResult("constant", True, output="same")

    class Same(BaseMiddleware):
        async def after_process(self, result: Any) -> Any:
            return constant

    results = await run(scripted(), *"123", middlewares=[Same()])
    assert [(result.item_id, result.output) for result in results] == [("1", "same"), ("2", "same"), ("3", "same")]
    assert sorted(result.submission_index for result in results) == [0, 1, 2]
    assert constant.item_id == "constant"


async def test_the_totals_count_results_as_the_middlewares_leave_them(scripted: Scripted) -> None:
    class Refuse(BaseMiddleware):
        async def after_process(self, result: Any) -> Any:
            return WorkItemResult(result.item_id, False, error="not good enough")

    async with ParallelBatchProcessor[Any, Any](middlewares=[Refuse()]) as processor:
        await processor.add_work(LLMWorkItem("1", scripted(("out", BILLED))))
        batch = await processor.process_all()
        assert (await processor.get_stats())["failed"] == 1
    assert (batch.succeeded, batch.failed, batch.total_input_tokens) == (0, 1, 7)


class Broken(BaseMiddleware):
    """Every method does what is wrong with it."""

    def __init__(self, fault: Any) -> None:
        self.fault = fault
        self.before_process = self.after_process = self.on_error = self._do  # type: ignore[method-assign, assignment]

    async def _do(self, *_: Any) -> Any:
        return await self.fault() if callable(self.fault) else self.fault


async def raises() -> None:
    raise RuntimeError("a bug of the user's")


async def cancels_itself() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("fault", [raises, hang, cancels_itself, "nonsense"])
@pytest.mark.parametrize("success", [True, False])
async def test_a_broken_middleware_changes_no_result(
    scripted: Scripted, fault: Any, success: bool, caplog: pytest.LogCaptureFixture
) -> None:
    plain = scripted("ok") if success else scripted(ValueError("bad"))
    (expected,) = await run(plain)
    diary = Diary()
    (result,) = await run(plain, middlewares=[Broken(fault), diary])
    assert (result.success, result.output, result.error, result.reason) == (
        *(expected.success, expected.output),
        *(expected.error, expected.reason),
    )
    assert len(diary.notes) == (2 if success else 3), "the others are still called"
    assert len([record for record in caplog.records if "Broken." in record.message]) == (2 if success else 3)


async def test_an_after_process_that_forgets_to_return_loses_nothing(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgets(BaseMiddleware):
        async def after_process(self, result: Any) -> Any:
            pass

    (result,) = await run(scripted("ok"), middlewares=[Forgets()])
    assert result.output == "ok"
    assert "Forgets.after_process gave a NoneType" in caplog.text


async def test_a_hanging_middleware_is_waited_for_90_seconds(scripted: Scripted) -> None:
    class Hangs(BaseMiddleware):
        async def before_process(self, item: Any) -> Any:
            await hang()

    start = now()
    (result,) = await run(scripted(), middlewares=[Hangs()])
    assert (result.success, now() - start) == (True, 90)


# -- post-processor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_the_post_processor_sees_each_result_once_after_the_middlewares(
    scripted: Scripted, is_async: bool
) -> None:
    class Shout(BaseMiddleware):
        async def after_process(self, result: Any) -> Any:
            result.output = result.output.upper()
            return result

    seen: list[str] = []

    async def note_later(result: Any) -> None:
        await asyncio.sleep(1)
        seen.append(f"{result.item_id} {result.output}")

    def note(result: Any) -> None:
        seen.append(f"{result.item_id} {result.output}")

    await run(scripted("ok"), *"12", middlewares=[Shout()], post_processor=note_later if is_async else note)
    assert sorted(seen) == ["1 OK", "2 OK"]


@pytest.mark.parametrize("post_processor", [lambda _: 1 / 0, hang], ids=["raises", "hangs"])
async def test_a_broken_post_processor_is_logged_and_changes_nothing(
    scripted: Scripted, post_processor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    results = await run(scripted("ok"), *"12", post_processor=post_processor)
    assert [result.output for result in results] == ["ok", "ok"]
    assert caplog.text.count("post_processor failed") == 2


# -- observers ---------------------------------------------------------------------------------------------------------


async def test_every_item_has_one_start_and_one_end(scripted: Scripted) -> None:
    recorder = Recorder()
    flaky = scripted(ConnectionError(), ("ok", TokenUsage(total_tokens=9)), latency=2)
    bad = scripted(ValueError("bad"))
    async with ParallelBatchProcessor[Any, Any](ProcessorConfig(2, retry=FAST), observers=[recorder]) as processor:
        for number, strategy in enumerate([flaky, bad, flaky]):
            await processor.add_work(LLMWorkItem(str(number), strategy))
        await processor.process_all()
    assert sorted(data["item_id"] for data in recorder.of(E.ITEM_STARTED)) == ["0", "1", "2"]
    done = {data.pop("item_id"): data for data in recorder.of(E.ITEM_COMPLETED)}
    assert sorted(done) == ["0", "2"]
    assert done["0"] == {"worker_id": 0, "duration": 4, "tokens": 9, "attempts": 2}
    (failed,) = recorder.of(E.ITEM_FAILED)
    assert (failed["item_id"], failed["error_type"], failed["reason"]) == ("1", "ValueError", "INTERNAL")
    assert (failed["duration"], failed["attempts"]) == (0, 1)


async def test_a_batch_and_its_workers_start_and_stop(scripted: Scripted) -> None:
    recorder = Recorder()
    await run(scripted(latency=1), *"1234567", config=ProcessorConfig(3), observers=[recorder])
    assert recorder.events[0] == (E.BATCH_STARTED, {"total": 7, "max_workers": 3})
    end = {"total": 7, "succeeded": 7, "failed": 0, "duration": 3}
    assert recorder.events[-1] == (E.BATCH_COMPLETED, end)
    assert recorder.of(E.WORKER_STARTED) == [{"worker_id": 0}, {"worker_id": 1}, {"worker_id": 2}]
    assert sorted(data["worker_id"] for data in recorder.of(E.WORKER_STOPPED)) == [0, 1, 2]
    assert {data["worker_id"] for data in recorder.of(E.ITEM_COMPLETED)} == {0, 1, 2}


async def test_worker_ids_stay_below_the_number_of_workers(scripted: Scripted) -> None:
    recorder = Recorder()
    strategy = scripted()
    async with ParallelBatchProcessor[Any, Any](ProcessorConfig(2), observers=[recorder]) as processor:
        for number in range(5000):
            await processor.add_work(LLMWorkItem(str(number), strategy))
        async for _ in processor.process_stream():
            await asyncio.sleep(0.001)  # so slow that the workers stop meanwhile
    started = recorder.of(E.WORKER_STARTED)
    assert len(started) > 2, "the test should see workers come and go"
    assert {data["worker_id"] for data in started} <= {0, 1}


async def test_rate_limits_and_cooldowns_are_told(scripted: Scripted) -> None:
    recorder = Recorder()
    calls = 0

    async def once() -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ProviderError("slow down", status=429)
        return "ok"

    throttled = scripted(once)
    async with ParallelBatchProcessor[Any, Any](observers=[recorder]) as processor:
        await processor.add_work(LLMWorkItem("1", throttled))
        assert (await processor.process_all()).succeeded == 1
        assert (await processor.get_stats())["rate_limit_count"] == 1
        await processor.add_work(LLMWorkItem("2", throttled))
        await processor.process_all()
        assert (await processor.get_stats())["rate_limit_count"] == 0
    assert len(recorder.of(E.RATE_LIMIT_HIT)) == 1
    assert [data["duration"] for data in recorder.of(E.COOLDOWN_STARTED, E.COOLDOWN_ENDED)] == [300, 300]


async def test_each_observer_gets_its_own_data(scripted: Scripted) -> None:
    class Vandal(BaseObserver):
        async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
            data.clear()

    recorder = Recorder()
    await run(scripted(), observers=[Vandal(), recorder])
    assert recorder.of(E.ITEM_STARTED)[0]["item_id"] == "1"


@pytest.mark.parametrize("fault", [raises, hang, cancels_itself])
async def test_a_broken_observer_holds_up_neither_items_nor_other_observers(
    scripted: Scripted, fault: Any, left_behind: Callable[[], set[str]]
) -> None:
    class Faulty(BaseObserver):
        async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
            await fault()

    recorder, start = Recorder(), now()
    async with ParallelBatchProcessor[Any, Any](observers=[Faulty(), recorder]) as processor:
        for number in range(100):
            await processor.add_work(LLMWorkItem(str(number), scripted()))
        taken = [now() async for _ in processor.process_stream()]
    assert (len(taken), max(taken)) == (100, start)
    assert recorder.counts()["ITEM_COMPLETED"] == 100
    assert now() - start <= 5, "the end of a batch waits for observers no longer"
    assert left_behind() == set()


async def test_one_hanging_call_loses_one_event_only(scripted: Scripted) -> None:
    class HangsOnce(Recorder):
        async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
            if event is E.BATCH_STARTED:
                await hang()
            await super().on_event(event, data)

    observer = HangsOnce()
    await run(scripted(latency=60), observers=[observer])
    assert observer.counts() == {
        "WORKER_STARTED": 1,
        "WORKER_STOPPED": 1,
        "ITEM_STARTED": 1,
        "ITEM_COMPLETED": 1,
        "BATCH_COMPLETED": 1,
    }


async def test_a_feed_drops_the_oldest_and_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    async def note(number: int) -> None:
        seen.append(number)

    feed = Feed("observer", note, time_limit=None, capacity=3)
    for number in range(10):
        feed.offer(number)
    await feed.close()
    assert seen == [7, 8, 9]
    assert "observer was too slow: 7 of its calls were dropped" in caplog.text


async def test_what_a_slow_observer_has_not_seen_at_the_end_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    async def note_slowly(number: int) -> None:
        await asyncio.sleep(2)
        seen.append(number)

    feed = Feed("observer", note_slowly, time_limit=None)
    for number in range(10):
        feed.offer(number)
    await feed.close()
    assert seen == [0, 1]
    assert "observer was too slow: 7 of its calls were dropped" in caplog.text  # the third was under way


async def test_an_observer_that_keeps_up_misses_nothing_of_a_fast_batch(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    await run(scripted(), *map(str, range(20_000)), config=ProcessorConfig(256), observers=[recorder])
    counts = recorder.counts()
    assert (counts["ITEM_STARTED"], counts["ITEM_COMPLETED"]) == (20_000, 20_000)
    assert "dropped" not in caplog.text


async def test_a_batch_left_early_tells_its_end_and_leaves_no_task(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    recorder = Recorder()
    processor = ParallelBatchProcessor[Any, Any](observers=[recorder])
    await processor.add_work(LLMWorkItem("1", scripted()))
    await processor.add_work(LLMWorkItem("2", scripted(hang)))
    stream = processor.process_stream()
    await anext(stream)
    await stream.aclose()
    assert left_behind() == set()
    event, data = recorder.events[-1]
    assert (event, data["total"], data["succeeded"]) == (E.BATCH_COMPLETED, 2, 1)
    await processor.cleanup()


async def test_a_run_cancelled_again_while_it_ends_leaves_no_task_and_makes_way(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    class Hangs(BaseObserver):
        async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
            await hang()

    async with ParallelBatchProcessor[Any, Any](observers=[Hangs()]) as processor:
        await processor.add_work(LLMWorkItem("1", scripted(hang)))
        running = asyncio.create_task(processor.process_all())
        for _ in range(2):
            await asyncio.sleep(1)
            running.cancel()
        await asyncio.wait([running])
        assert left_behind() == set()
        await processor.add_work(LLMWorkItem("2", scripted()))
        assert (await processor.process_all()).succeeded == 1


async def test_a_middleware_that_hangs_three_times_in_a_row_is_not_called_again(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    class Hangs(BaseMiddleware):
        calls = 0

        async def before_process(self, item: Any) -> Any:
            self.calls += 1
            if self.calls != 3:
                await hang()
            return item

    middleware = Hangs()
    start = now()
    results = await run(
        scripted(), *map(str, range(20)), middlewares=[middleware], config=ProcessorConfig(max_workers=1)
    )
    assert [result.success for result in results] == [True] * 20
    assert middleware.calls == 6  # the third went well, so the count began anew
    assert now() - start == 5 * 90
    assert "Hangs.before_process hung 3 times in a row" in caplog.text


async def test_a_classifier_that_knows_nothing_is_replaced_by_the_default_one(scripted: Scripted) -> None:
    class Nonsense:
        def classify(self, exception: BaseException) -> Any:
            return None

    recorder, diary = Recorder(), Diary()
    (result,) = await run(
        scripted(ValueError()), observers=[recorder], middlewares=[diary], error_classifier=Nonsense()
    )
    assert (result.success, result.reason) == (False, ErrorReason.INTERNAL)
    assert len(recorder.of(E.ITEM_FAILED)) == 1
    assert diary.notes == ["before 1", "error 1", "after 1"]


# -- progress ----------------------------------------------------------------------------------------------------------


async def test_progress_comes_at_each_interval_and_at_the_end(scripted: Scripted) -> None:
    seen: list[tuple[int, int, str]] = []

    async def note(completed: int, total: int, item_id: str) -> None:
        seen.append((completed, total, item_id))

    config = ProcessorConfig(max_workers=1, progress_interval=3)
    await run(scripted(), *"1234567", config=config, progress_callback=note)
    assert seen == [(3, 7, "3"), (6, 7, "6"), (7, 7, "7")]


async def test_progress_is_not_told_twice_when_the_end_is_an_interval(scripted: Scripted) -> None:
    seen: list[int] = []

    async def note(completed: int, total: int, item_id: str) -> None:
        seen.append(completed)

    await run(scripted(), *"1234", config=ProcessorConfig(progress_interval=2), progress_callback=note)
    assert seen == [2, 4]


async def test_a_hanging_progress_callback_holds_up_no_item(
    scripted: Scripted, caplog: pytest.LogCaptureFixture, left_behind: Callable[[], set[str]]
) -> None:
    config = ProcessorConfig(progress_interval=1, progress_callback_timeout=2)
    start = now()
    async with ParallelBatchProcessor[Any, Any](config, progress_callback=hang) as processor:
        for number in range(9):
            await processor.add_work(LLMWorkItem(str(number), scripted()))
        ended = [now() async for _ in processor.process_stream()]
    assert (len(ended), max(ended)) == (9, start)
    assert caplog.text.count("progress_callback failed") == 2  # within the five seconds at the end
    assert left_behind() == set()


def test_a_progress_callback_that_blocks_runs_beside_the_event_loop(scripted: Scripted) -> None:
    # On a real event loop: a thread knows nothing of virtual time.
    seen: list[tuple[int, int]] = []
    release = threading.Event()

    def block(completed: int, total: int, item_id: str) -> None:
        assert release.wait(30), "the event loop waits for the callback"
        seen.append((completed, total))

    async def main() -> list[str]:
        config = ProcessorConfig(max_workers=1, progress_interval=1, progress_callback_timeout=None)
        async with ParallelBatchProcessor[Any, Any](config, progress_callback=block) as processor:
            for number in "12":
                await processor.add_work(LLMWorkItem(number, scripted()))
            ended = []
            async for result in processor.process_stream():
                ended.append(result.item_id)
                if len(ended) == 2:
                    release.set()
        return ended

    assert asyncio.run(main()) == ["1", "2"]
    assert seen == [(1, 2), (2, 2)]


async def test_an_object_with_an_async_call_is_a_progress_callback_too(scripted: Scripted) -> None:
    class Bar:
        at = 0

        async def __call__(self, completed: int, total: int, item_id: str) -> None:
            self.at = completed

    bar = Bar()
    await run(scripted(), *"123", progress_callback=bar)
    assert bar.at == 3


# -- code that does not give in ----------------------------------------------------------------------------------------


async def never_gives_in(*_: Any) -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1e9)


async def exits(*_: Any) -> None:
    sys.exit(3)


def exits_at_once(*_: Any) -> None:
    sys.exit(3)


class Does(BaseObserver, BaseMiddleware):
    """An observer and a middleware that does one thing."""

    def __init__(self, thing: Callable[..., Any]) -> None:
        self.thing = thing

    async def on_event(self, event: ProcessingEvent, data: dict[str, Any]) -> None:
        await self.thing()

    async def before_process(self, item: Any) -> Any:
        await self.thing()


@pytest.mark.parametrize(
    ("hook", "seconds"),
    [
        ({"observers": [Does(never_gives_in)]}, 6),
        ({"middlewares": [Does(never_gives_in)]}, 91),
        ({"post_processor": never_gives_in}, 91),
        ({"progress_callback": never_gives_in}, 6),
    ],
    ids=["observer", "middleware", "post-processor", "progress"],
)
async def test_a_hook_that_swallows_its_cancellation_is_closed(
    scripted: Scripted,
    hook: dict[str, Any],
    seconds: float,
    caplog: pytest.LogCaptureFixture,
    left_behind: Callable[[], set[str]],
) -> None:
    start = now()
    (result,) = await run(scripted("ok"), **hook)
    assert (result.output, now() - start) == ("ok", seconds)
    assert "goes on although it was cancelled" in caplog.text
    assert left_behind() == set()


async def test_a_batch_is_left_though_a_middleware_swallows_its_cancellation(
    scripted: Scripted, left_behind: Callable[[], set[str]]
) -> None:
    async with ParallelBatchProcessor[Any, Any](middlewares=[Does(never_gives_in)]) as processor:
        await processor.add_work(LLMWorkItem("1", scripted()))
        running = asyncio.create_task(processor.process_all())
        await asyncio.sleep(5)
        running.cancel()
        start = now()
        await asyncio.wait([running])
        assert (running.cancelled(), now() - start) == (True, 1)
    assert left_behind() == set()


@pytest.mark.parametrize(
    "hook",
    [
        {"observers": [Does(exits)]},
        {"middlewares": [Does(exits)]},
        {"post_processor": exits},
        {"post_processor": exits_at_once},
        {"progress_callback": exits},
    ],
    ids=["observer", "middleware", "post-processor", "post-processor, not async", "progress"],
)
async def test_a_hook_that_wants_to_end_the_process_has_failed(
    scripted: Scripted, hook: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (result,) = await run(scripted("ok"), **hook)
    assert result.output == "ok"
    assert "raised SystemExit: 3" in caplog.text


def test_a_progress_callback_in_a_thread_that_wants_to_end_the_process_has_failed(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    (result,) = asyncio.run(run(scripted("ok"), progress_callback=exits_at_once))
    assert result.output == "ok"
    assert "raised SystemExit: 3" in caplog.text


async def test_a_middleware_that_is_not_called_again_stays_so_whatever_its_last_calls_do(scripted: Scripted) -> None:
    class Slow(BaseMiddleware):
        calls = 0

        async def before_process(self, item: Any) -> Any:
            self.calls += 1
            await asyncio.sleep(80 if item.item_id == "3" else 1e9)
            return item

    middleware = Slow()

    class Delay(BaseMiddleware):
        """Item 3 and later ones come to the slow one when the others have been there for a while."""

        async def before_process(self, item: Any) -> Any:
            await asyncio.sleep(30 if item.item_id >= "3" else 0)
            return item

    await run(scripted(), *"012345678", middlewares=[Delay(), middleware], config=ProcessorConfig(max_workers=4))
    assert middleware.calls == 4


async def test_what_a_middleware_sets_in_context_variables_reaches_the_strategy(scripted: Scripted) -> None:
    trace: ContextVar[str] = ContextVar("trace", default="")

    class Trace(BaseMiddleware):
        async def before_process(self, item: Any) -> Any:
            trace.set(f"of {item.item_id}")
            return item

    async def answer() -> str:
        return trace.get()

    (result,) = await run(scripted(answer), middlewares=[Trace()])
    assert result.output == "of 1"
