"""Both clients against a sidecar that breaks off, restarts, loses its journal: results without a gap or a repeat."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from batch_llm_client import (
    AsyncBatch,
    AsyncBatchClient,
    Batch,
    BatchClient,
    BatchInUseError,
    BatchLLMClientError,
    BatchLostError,
    BatchNotFoundError,
    BatchState,
    CallCancelledError,
    DeadlineExceededError,
    InvalidRequestError,
    JournalFullError,
    JournalUnavailableError,
    ResumePolicy,
    ServerDrainingError,
    SidecarUnavailableError,
    UnexpectedError,
    WorkItem,
)
from batch_llm_client._clock import AsyncClock, Clock
from batchllm.v1.batch_service_pb2 import ItemsAccepted, ProcessBatchResponse

from .conftest import FakeSidecar, Fault, at_the_end

WAIT = 30
POLICY = ResumePolicy(max_tries=5, initial_backoff_seconds=1, max_backoff_seconds=4)


def items(count: int, start: int = 0) -> list[WorkItem]:
    return [WorkItem(str(number), f"prompt {number}") for number in range(start, count)]


@dataclass
class Time:
    """Waits that take no time: noted, and the moment for what happens meanwhile, which may want the client's name."""

    meanwhile: Callable[[int], object] = lambda number: None
    waits: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def passes(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds
        self.meanwhile(len(self.waits))


class TimeClock(Clock):
    def __init__(self, time: Time) -> None:
        self.time = time

    def now(self) -> float:
        return self.time.seconds

    def random(self) -> float:
        return 1.0

    def wait(self, over: threading.Event, seconds: float) -> bool:
        self.time.passes(seconds)
        return over.is_set()


class AsyncTimeClock(AsyncClock):
    def __init__(self, time: Time) -> None:
        self.time = time

    def now(self) -> float:
        return self.time.seconds

    def random(self) -> float:
        return 1.0

    async def wait(self, over: asyncio.Event, seconds: float) -> bool:
        self.time.passes(seconds)
        await asyncio.sleep(0)
        return over.is_set()


@dataclass
class Run:
    """What came of a batch."""

    sequences: list[int] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    replayed: list[bool] = field(default_factory=list)
    error: Exception | None = None
    batch: Batch | AsyncBatch | None = None

    def add(self, result) -> None:
        self.sequences.append(result.sequence)
        self.texts.append(result.text)
        self.replayed.append(result.replayed)


Runner = Callable[..., Run]


@pytest.fixture(params=["sync", "async"])
def run(request) -> Runner:
    """Runs a batch to its end with either client; the error that ended it is kept."""

    def sync(sidecar: FakeSidecar, work, time: Time | None = None, policy=POLICY, limits=None, **options) -> Run:
        outcome = Run()
        clock = TimeClock(time or Time())
        with BatchClient(sidecar.target, resume_policy=policy, clock=clock, **(limits or {})) as client:
            try:
                outcome.batch = client.process_batch(work, **options)
                for result in outcome.batch:
                    outcome.add(result)
            except (BatchLLMClientError, KeyError) as error:
                outcome.error = error
        return outcome

    async def aio(sidecar: FakeSidecar, work, time: Time | None = None, policy=POLICY, limits=None, **options) -> Run:
        outcome = Run()
        clock = AsyncTimeClock(time or Time())
        async with AsyncBatchClient(sidecar.target, resume_policy=policy, clock=clock, **(limits or {})) as client:
            try:
                outcome.batch = client.process_batch(work, **options)
                async for result in outcome.batch:
                    outcome.add(result)
            except (BatchLLMClientError, KeyError) as error:
                outcome.error = error
        return outcome

    if request.param == "sync":
        return sync
    return lambda *arguments, **options: asyncio.run(aio(*arguments, **options))


def whole(outcome: Run, count: int) -> None:
    """Each result once, in order, and the right one."""
    if outcome.error is not None:
        raise outcome.error
    assert outcome.sequences == list(range(1, count + 1))
    assert outcome.texts == [f"prompt {number}" for number in range(count)]
    assert outcome.batch is not None
    assert outcome.batch.totals.total_items == count


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("moment", ["items", "accepted", "result", "totals"])
def test_a_stream_that_breaks_is_resumed(sidecar, run: Runner, moment: str, lazy: bool) -> None:
    sidecar.faults = [Fault(moment, 0), Fault(moment, 70), Fault(moment, 100)]
    work = items(130)
    whole(run(sidecar, iter(work) if lazy else work), 130)
    (log,) = sidecar.journal.values()
    assert len(log.results) == 130
    assert log.sealed


def test_only_what_was_not_confirmed_is_sent_again(sidecar, run: Runner) -> None:
    sidecar.faults = [Fault("accepted", 20), Fault("items", 40)]
    whole(run(sidecar, items(60), limits={"frame_items": 10}), 60)
    first, second, third = sidecar.received
    assert first == [str(n) for n in range(20)]  # all confirmed
    assert second == [str(n) for n in range(20, 50)]  # the last ten not confirmed
    assert third == [str(n) for n in range(40, 60)]


def test_it_resumes_after_the_last_result_handed_out(sidecar, run: Runner) -> None:
    sidecar.faults = [Fault("result", 7)]
    outcome = run(sidecar, items(20))
    whole(outcome, 20)
    first, second = sidecar.opens
    assert (first.resume_after_sequence, second.resume_after_sequence) == (0, 7)
    assert first.batch_id == second.batch_id == outcome.batch.batch_id
    assert first.batch_id.startswith("batch-")


def test_it_opens_as_before(sidecar, run: Runner) -> None:
    sidecar.faults = [Fault("result", 2)]
    said = {"strategy": "s", "batch_id": "b", "max_concurrency": 3, "labels": {"a": "b"}, "detach": True}
    whole(run(sidecar, items(5), result_order="submission", **said), 5)
    first, second = sidecar.opens
    first.resume_after_sequence = second.resume_after_sequence
    assert first == second
    assert (second.strategy, second.detach, second.labels["a"]) == ("s", True, "b")


def test_a_sidecar_that_restarts(sidecar, run: Runner) -> None:
    gone = threading.Event()

    def script(requests, context):
        for number, frame in enumerate(sidecar.echo(requests, context)):
            yield frame
            if number == 20:
                sidecar.script = None
                gone.set()
                at_the_end(context, threading.Event()).wait(WAIT)

    def restart(number: int) -> None:
        if number == 1:
            stopping.join()  # while the old one still listened, the client could reach that one
            sidecar.start()

    sidecar.script = script
    stopping = threading.Thread(target=lambda: gone.wait(WAIT) and sidecar.stop())
    stopping.start()
    whole(run(sidecar, items(50), Time(restart)), 50)


def test_results_that_count_anew_after_progress(sidecar, run: Runner) -> None:
    sidecar.faults = [Fault("result", count) for count in range(1, 30)]
    time = Time()
    whole(run(sidecar, items(30), time), 30)
    assert time.waits == [1.0] * 29  # more than max_tries, each the first after progress


def test_it_gives_up_after_its_tries(sidecar, run: Runner) -> None:
    sidecar.faults = [Fault("result", 3)]
    sidecar_refuses = [Fault("", code=grpc.StatusCode.UNAVAILABLE)] * 9
    time = Time(lambda number: sidecar.refusals.extend(sidecar_refuses) if number == 1 else None)
    outcome = run(sidecar, items(10), time)
    assert isinstance(outcome.error, SidecarUnavailableError)
    assert time.waits == [1, 2, 4, 4, 4]
    assert outcome.sequences == [1, 2, 3]
    assert outcome.batch.last_sequence == 3


def test_the_delay_that_the_server_asks_for(sidecar, run: Runner) -> None:
    draining = Fault("result", 3, reason="SERVER_DRAINING", retry_after=5.0)
    sidecar.faults = [draining]
    time = Time(lambda number: sidecar.refusals.append(draining) if number < 3 else None)
    whole(run(sidecar, items(10), time, policy=ResumePolicy(max_tries=0)), 10)
    assert time.waits == [5.2, 5.2, 5.2]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.INTERNAL, ""),
        (grpc.StatusCode.UNKNOWN, ""),
        (grpc.StatusCode.CANCELLED, ""),
        (grpc.StatusCode.UNAVAILABLE, "JOURNAL_UNAVAILABLE"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "JOURNAL_FULL"),
        (grpc.StatusCode.ABORTED, "BATCH_IN_USE"),
    ],
)
def test_what_is_ridden_out(sidecar, run: Runner, code: grpc.StatusCode, reason: str) -> None:
    sidecar.faults = [Fault("result", 3, code, reason)]
    whole(run(sidecar, items(10)), 10)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.INTERNAL, "INTERNAL", UnexpectedError),
        (grpc.StatusCode.INVALID_ARGUMENT, "FRAME_EMPTY", InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, "STRATEGY_NOT_FOUND", BatchLLMClientError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", BatchLLMClientError),
    ],
)
def test_what_is_not_ridden_out(sidecar, run: Runner, code, reason: str, expected: type[Exception]) -> None:
    sidecar.faults = [Fault("result", 3, code, reason)]
    time = Time()
    outcome = run(sidecar, items(10), time)
    assert isinstance(outcome.error, expected)
    assert (outcome.error.code, time.waits, outcome.sequences) == (code.name, [], [1, 2, 3])


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (Fault("", code=grpc.StatusCode.ABORTED, reason="BATCH_IN_USE"), BatchInUseError),
        (Fault("", reason="SERVER_DRAINING", retry_after=2.0), ServerDrainingError),
        (Fault("", reason="JOURNAL_UNAVAILABLE"), JournalUnavailableError),
        (Fault("", code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="JOURNAL_FULL"), JournalFullError),
    ],
)
def test_a_batch_that_never_opened_is_not_tried_again(sidecar, run: Runner, refusal, expected) -> None:
    sidecar.refusals = [refusal]
    time = Time()
    outcome = run(sidecar, items(10), time)
    assert type(outcome.error) is expected
    assert time.waits == []


def test_resume_can_be_switched_off(sidecar, run: Runner) -> None:
    sidecar.faults = [Fault("result", 3)]
    time = Time()
    outcome = run(sidecar, items(10), time, resume=False)
    assert isinstance(outcome.error, SidecarUnavailableError)
    assert (time.waits, outcome.sequences) == ([], [1, 2, 3])


def test_the_deadline_bounds_it_all(sidecar, run: Runner) -> None:
    sidecar.faults = [Fault("result", 3)]
    sidecar_refuses = [Fault("")] * 9
    time = Time(lambda number: sidecar.refusals.extend(sidecar_refuses) if number == 1 else None)
    outcome = run(sidecar, items(10), time, timeout=1 + 2 + 3)
    assert isinstance(outcome.error, DeadlineExceededError)
    assert time.waits == [1, 2]


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("moment", ["accepted", "result"])
def test_a_journal_that_is_gone(sidecar, run: Runner, moment: str, durable: bool) -> None:
    sidecar.durable = durable
    sidecar.faults = [Fault(moment, 5)]
    time = Time(lambda number: sidecar.journal.clear())
    outcome = run(sidecar, items(10), time, batch_id="b")
    assert isinstance(outcome.error, BatchLostError)
    lost = outcome.error
    assert (lost.batch_id, lost.held, lost.durable) == ("b", 10, durable)
    assert lost.last_sequence == len(outcome.sequences) == (5 if moment == "result" else 0)
    assert len(time.waits) == 1


def test_a_journal_in_memory_that_had_nothing_yet(sidecar, run: Runner) -> None:
    sidecar.durable = False
    sidecar.faults = [Fault("items")]
    whole(run(sidecar, items(10), Time(lambda number: sidecar.journal.clear())), 10)


def test_a_result_left_out_is_noticed(sidecar, run: Runner) -> None:
    def script(requests, context):
        for frame in sidecar.echo(requests, context):
            if [result.sequence for result in frame.results.results] != [4]:
                yield frame

    sidecar.script = script
    outcome = run(sidecar, items(10))
    assert isinstance(outcome.error, UnexpectedError)
    assert "result 5 follows 3" in str(outcome.error)
    assert outcome.sequences == [1, 2, 3]


def test_what_comes_twice_is_handed_out_once(sidecar, run: Runner) -> None:
    def script(requests, context):
        for frame in sidecar.echo(requests, context):
            yield from [frame, frame] if frame.HasField("results") else [frame]

    sidecar.script = script
    whole(run(sidecar, items(10)), 10)


def test_a_new_client_resumes(sidecar, run: Runner) -> None:
    sidecar.faults = [Fault("result", 4)]
    first = run(sidecar, items(10), batch_id="b", resume=False)
    assert first.sequences == [1, 2, 3, 4]
    second = run(sidecar, items(12), batch_id="b", resume_after_sequence=first.batch.last_sequence)
    assert second.sequences == list(range(5, 13))
    assert second.texts == [f"prompt {number}" for number in range(4, 12)]
    third = run(sidecar, items(12), batch_id="b")
    whole(third, 12)
    assert third.replayed == [True] * 12
    assert len(sidecar.journal["b"].items) == 12


def test_a_batch_without_id_cannot_be_resumed_by_another(sidecar, run: Runner) -> None:
    with pytest.raises(ValueError, match="needs the batch_id"):
        run(sidecar, [], resume_after_sequence=3)


def test_what_the_source_raises_while_the_stream_is_away(sidecar) -> None:
    sidecar.faults = [Fault("result", 1)]
    waiting = threading.Event()

    def source() -> Iterator[WorkItem]:
        yield WorkItem("0", "prompt 0")
        assert waiting.wait(WAIT)
        raise KeyError("row 1")

    class Clocked(TimeClock):
        def wait(self, over: threading.Event, seconds: float) -> bool:
            waiting.set()
            return over.wait(WAIT)

    with BatchClient(sidecar.target, clock=Clocked(Time())) as client, pytest.raises(KeyError, match="row 1"):
        list(client.process_batch(source()))
    assert len(sidecar.opens) == 1


def test_cancelling_while_the_stream_is_away(sidecar) -> None:
    sidecar.faults = [Fault("result", 1)]

    class Clocked(TimeClock):
        def wait(self, over: threading.Event, seconds: float) -> bool:
            threading.Thread(target=batch.cancel).start()
            return over.wait(WAIT)

    with BatchClient(sidecar.target, clock=Clocked(Time())) as client:
        batch = client.process_batch(items(3))
        with pytest.raises(CallCancelledError):
            list(batch)
    assert len(sidecar.opens) == 1


async def test_cancelling_while_the_stream_is_away_async(sidecar) -> None:
    sidecar.faults = [Fault("result", 1)]

    class Clocked(AsyncClock):
        async def wait(self, over: asyncio.Event, seconds: float) -> bool:
            asyncio.get_running_loop().call_soon(batch.cancel)
            return await over.wait()

    async with AsyncBatchClient(sidecar.target, clock=Clocked()) as client:
        batch = client.process_batch(items(3))
        with pytest.raises(CallCancelledError):
            _ = [result async for result in batch]
    assert len(sidecar.opens) == 1


def test_a_source_that_blocks_goes_on_after_a_break(sidecar) -> None:
    sidecar.faults = [Fault("result", 3)]
    resumed = threading.Event()

    def source() -> Iterator[WorkItem]:
        yield from items(5)
        assert resumed.wait(WAIT)
        yield from items(8, start=5)

    outcome = Run()
    with BatchClient(sidecar.target, clock=TimeClock(Time())) as client:
        outcome.batch = client.process_batch(source())
        for result in outcome.batch:
            outcome.add(result)
            if len(sidecar.opens) == 2:
                resumed.set()
    whole(outcome, 8)


async def test_a_source_that_waits_goes_on_after_a_break(sidecar) -> None:
    sidecar.faults = [Fault("result", 3)]
    resumed = asyncio.Event()

    async def source() -> AsyncIterator[WorkItem]:
        for item in items(5):
            yield item
        await resumed.wait()
        for item in items(8, start=5):
            yield item

    outcome = Run()
    async with AsyncBatchClient(sidecar.target, clock=AsyncTimeClock(Time())) as client:
        outcome.batch = client.process_batch(source())
        async for result in outcome.batch:
            outcome.add(result)
            if len(sidecar.opens) == 2:
                resumed.set()
    whole(outcome, 8)


@pytest.mark.parametrize("limits", [{"unconfirmed_items": 20}, {"unconfirmed_bytes": 2000}])
def test_the_source_is_not_read_beyond_what_is_kept(sidecar, run: Runner, limits: dict[str, int]) -> None:
    taken = 0
    most: list[int] = []

    def source() -> Iterator[WorkItem]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield WorkItem(str(number), "x" * 80)

    def grudging(requests, context):
        yield sidecar.opened(next(requests).open)
        received = 0
        waiting = 0
        while received < 200:
            waiting += len(next(requests).items.items)
            if received + waiting == 200 or waiting >= 20:  # so far and no further until it is confirmed
                most.append(taken - received)
                received += waiting
                waiting = 0
                yield ProcessBatchResponse(accepted=ItemsAccepted(items=received, received=received))
        context.abort(grpc.StatusCode.NOT_FOUND, "enough")

    sidecar.script = grudging
    outcome = run(sidecar, source(), limits={"frame_items": 5, **limits})
    assert outcome.error is not None
    assert outcome.error.code == "NOT_FOUND"
    assert taken == 200
    assert max(most) <= 22  # the bound, and one more in the reader's hand


def test_the_error_comes_again(sidecar) -> None:
    sidecar.faults = [Fault("result", 3)]
    with BatchClient(sidecar.target) as client:
        batch = client.process_batch(items(10), resume=False)
        for _ in range(3):
            next(batch)
        for _ in range(2):
            with pytest.raises(SidecarUnavailableError):
                next(batch)
    assert len(sidecar.opens) == 1


def test_closing_the_client_ends_it(sidecar) -> None:
    sidecar.faults = [Fault("result", 1)]

    class Clocked(TimeClock):
        def wait(self, over: threading.Event, seconds: float) -> bool:
            client.close()
            return over.is_set()

    client = BatchClient(sidecar.target, clock=Clocked(Time()))
    with pytest.raises(SidecarUnavailableError):
        list(client.process_batch(items(3)))


def test_leaving_a_detached_batch(sidecar) -> None:
    sidecar.faults = [Fault("accepted", 20), Fault("result", 1), Fault("result", 2)]
    limits = {"frame_items": 10, "unconfirmed_items": 10}
    with BatchClient(sidecar.target, clock=TimeClock(Time()), resume_policy=POLICY, **limits) as client:
        batch = client.process_batch(items(100), batch_id="b", detach=True)
        assert batch.leave() == 100
        assert sidecar.journal["b"].opening.detach
        with pytest.raises(CallCancelledError):
            next(batch)
        results = list(client.resume_batch("b"))
        assert [result.sequence for result in results] == list(range(1, 101))
        assert sidecar.opens[-1].detach
        assert [result.sequence for result in client.resume_batch("b", after=98)] == [99, 100]
        with pytest.raises(BatchNotFoundError):
            client.resume_batch("typo")
        assert "typo" not in sidecar.journal
        with pytest.raises(RuntimeError, match="detach=True"):
            client.process_batch(items(1)).leave()


async def test_leaving_a_detached_batch_async(sidecar) -> None:
    sidecar.faults = [Fault("accepted", 20), Fault("result", 1)]
    limits = {"frame_items": 10, "unconfirmed_items": 10}
    async with AsyncBatchClient(sidecar.target, clock=AsyncTimeClock(Time()), resume_policy=POLICY, **limits) as client:
        batch = client.process_batch(items(100), batch_id="b", detach=True)
        assert await batch.leave() == 100
        async with await client.resume_batch("b") as resumed:
            assert [result.sequence async for result in resumed] == list(range(1, 101))
        with pytest.raises(BatchNotFoundError):
            await client.resume_batch("typo")
        with pytest.raises(RuntimeError, match="detach=True"):
            await client.process_batch(items(1)).leave()


# Single items with a key


def test_a_call_with_a_key_is_made_again(sidecar) -> None:
    time = Time()
    with BatchClient(sidecar.target, clock=TimeClock(time), resume_policy=POLICY) as client:
        sidecar.refusals = [Fault(""), Fault("", code=grpc.StatusCode.INTERNAL)]
        assert client.process_item(WorkItem("1", "hi"), idempotency_key="k").text == "hi"
        assert [request.idempotency_key for request in sidecar.requests] == ["k"] * 3
        assert time.waits == [1, 2]
        sidecar.refusals = [Fault("")] * 9
        with pytest.raises(SidecarUnavailableError):
            client.process_item(WorkItem("1", "hi"), idempotency_key="k")
        assert len(sidecar.refusals) == 9 - 6
        with pytest.raises(DeadlineExceededError):
            client.process_item(WorkItem("1", "hi"), idempotency_key="k", timeout=0.9)


def test_a_call_without_a_key_is_made_once(sidecar) -> None:
    sidecar.refusals = [Fault("")]
    with BatchClient(sidecar.target) as client, pytest.raises(SidecarUnavailableError):
        client.process_item(WorkItem("1", "hi"))
    assert len(sidecar.requests) == 1


async def test_a_call_with_a_key_is_made_again_async(sidecar) -> None:
    time = Time()
    async with AsyncBatchClient(sidecar.target, clock=AsyncTimeClock(time), resume_policy=POLICY) as client:
        sidecar.refusals = [Fault("")] * 2
        assert (await client.process_item(WorkItem("1", "hi"), idempotency_key="k")).text == "hi"
        assert time.waits == [1, 2]
        sidecar.refusals = [Fault("")]
        with pytest.raises(SidecarUnavailableError):
            await client.process_item(WorkItem("1", "hi"))


# Leaving waits for the server to know that there are no more items


def slow_to_seal(sidecar: FakeSidecar) -> list[str]:
    """GetBatch says that items may still come, then breaks off, then tells the truth."""
    asked: list[str] = []
    answer = sidecar.GetBatch

    def get_batch(request, context):
        asked.append(request.batch_id)
        if len(asked) == 2:
            sidecar.abort(context, Fault(""))
        response = answer(request, context)
        if len(asked) == 1:
            response.batch.state = BatchState.BATCH_STATE_OPEN
        return response

    sidecar.GetBatch = get_batch  # type: ignore[method-assign]
    return asked


def test_leaving_waits_until_the_end_is_known(sidecar) -> None:
    asked = slow_to_seal(sidecar)
    sidecar.stop()
    sidecar.start("127.0.0.1:0")
    with BatchClient(sidecar.target, clock=TimeClock(Time())) as client:
        assert client.process_batch(items(3), batch_id="b", detach=True).leave() == 3
    assert len(asked) >= 2
    assert sidecar.journal["b"].sealed


async def test_leaving_waits_until_the_end_is_known_async(sidecar) -> None:
    asked = slow_to_seal(sidecar)
    sidecar.stop()
    sidecar.start("127.0.0.1:0")
    async with AsyncBatchClient(sidecar.target, clock=AsyncTimeClock(Time())) as client:
        assert await client.process_batch(items(3), batch_id="b", detach=True).leave() == 3
    assert len(asked) >= 2
    assert sidecar.journal["b"].sealed


def test_leaving_a_batch_that_was_deleted_says_so(sidecar) -> None:
    def script(requests, context):
        for frame in sidecar.echo(requests, context):
            yield frame
            if frame.HasField("accepted"):
                sidecar.journal.clear()
                at_the_end(context, threading.Event()).wait(WAIT)

    sidecar.script = script
    with BatchClient(sidecar.target, clock=TimeClock(Time())) as client, pytest.raises(BatchNotFoundError):
        client.process_batch(items(3), batch_id="b", detach=True).leave()
