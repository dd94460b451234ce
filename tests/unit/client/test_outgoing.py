"""The end of the frames is a half-close, which says that all items were sent: it must never come by mistake."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from batch_llm_client import WorkItem
from batch_llm_client._frames import Limits
from batch_llm_client._outgoing import Outgoing
from batch_llm_client._outgoing_aio import AsyncOutgoing
from batchllm.v1.batch_service_pb2 import OpenBatch, ProcessBatchRequest

WAIT = 30
LIMITS = Limits(64, 1 << 20, 1 << 20, 1000, 1 << 20)
OPENING = ProcessBatchRequest(open=OpenBatch(batch_id="b"))


def ids(frame: ProcessBatchRequest) -> list[str]:
    return [item.item_id for item in frame.items.items]


def failing() -> Iterator[WorkItem]:
    yield WorkItem("1", "x")
    raise KeyError("row 2")


async def async_failing() -> AsyncIterator[WorkItem]:
    for item in failing():
        yield item


class Ended(threading.Thread):
    """Reads a stream's frames as grpc does."""

    def __init__(self, frames: Iterator[ProcessBatchRequest], log: list[str]) -> None:
        super().__init__()
        self.frames = frames
        self.log = log
        self.start()

    def run(self) -> None:
        for _ in self.frames:
            pass
        self.log.append("half-close")


def test_a_source_that_fails_has_the_call_cancelled_before_the_frames_end() -> None:
    log: list[str] = []
    outgoing = Outgoing(failing(), LIMITS)
    frames = outgoing.new_stream(OPENING)
    cancelled = threading.Event()

    def cancel_call() -> None:
        log.append("cancelled")
        cancelled.set()

    outgoing.cancel_call = cancel_call
    reader = Ended(frames, log)
    outgoing.begin(0)
    assert cancelled.wait(WAIT)
    frames.end()  # as grpc does when the call has ended
    reader.join(WAIT)
    assert log == ["cancelled", "half-close"]
    assert isinstance(outgoing.failure, KeyError)
    assert outgoing.over.is_set()


def test_frames_that_wait_do_not_end_before_their_call() -> None:
    go_on = threading.Event()

    def blocking() -> Iterator[WorkItem]:
        yield WorkItem("1", "x")
        go_on.wait(WAIT)

    outgoing = Outgoing(blocking(), LIMITS)
    frames = outgoing.new_stream(OPENING)
    log: list[str] = []
    assert next(frames).HasField("open")
    outgoing.begin(0)
    assert ids(next(frames)) == ["1"]
    outgoing.stop()
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "batch-llm-source":
            thread.join(WAIT)
    reader = Ended(frames, log)
    log.append("call ended")
    frames.end()
    reader.join(WAIT)
    assert log == ["call ended", "half-close"]


def test_frames_of_a_former_stream_take_nothing() -> None:
    outgoing = Outgoing([WorkItem("1", "x")], LIMITS)
    former = outgoing.new_stream(OPENING)
    next(former)
    outgoing.begin(0)
    assert ids(next(former)) == ["1"]
    frames = outgoing.new_stream(OPENING)  # before grpc has told the former one that its call has ended
    assert next(frames).HasField("open")
    outgoing.begin(0)
    assert list(former) == []
    assert ids(next(frames)) == ["1"]
    outgoing.confirm(1)
    assert outgoing.settled
    assert list(frames) == []


@pytest.mark.parametrize("source", [failing, async_failing])
async def test_a_source_that_fails_has_the_call_cancelled_before_the_frames_end_async(source) -> None:
    log: list[str] = []
    outgoing = AsyncOutgoing(source(), LIMITS)
    frames = outgoing.new_stream(OPENING)
    cancelled = asyncio.Event()

    def cancel_call() -> None:
        log.append("cancelled")
        cancelled.set()

    async def read() -> None:
        async for _ in frames:
            pass
        log.append("half-close")

    outgoing.cancel_call = cancel_call
    reader = asyncio.create_task(read())
    outgoing.begin(0)
    await cancelled.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert log == ["cancelled"]
    frames.end()
    await reader
    assert log == ["cancelled", "half-close"]
    assert isinstance(outgoing.failure, KeyError)


async def test_frames_of_a_former_stream_take_nothing_async() -> None:
    outgoing = AsyncOutgoing([WorkItem("1", "x")], LIMITS)
    former = outgoing.new_stream(OPENING)
    await anext(former)
    outgoing.begin(0)
    assert ids(await anext(former)) == ["1"]
    frames = outgoing.new_stream(OPENING)
    await anext(frames)
    waiting = asyncio.ensure_future(anext(frames))
    await asyncio.sleep(0)
    assert not waiting.done()  # `opened` has not come on this stream
    outgoing.begin(0)
    with pytest.raises(StopAsyncIteration):
        await anext(former)
    assert ids(await waiting) == ["1"]
    outgoing.confirm(1)
    assert outgoing.settled
