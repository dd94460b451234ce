"""The request side of an async batch: frames for grpc.aio's sending tasks."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable

from batch_llm_client._frames import Limits, encode
from batch_llm_client._window import Window
from batch_llm_client.model import WorkItem
from batchllm.v1.batch_service_pb2 import ProcessBatchRequest


class AsyncOutgoing:
    """Sends a batch's items, on one stream after the other.

    A task of its own reads the source, since an async one may wait between items: what is at hand goes out meanwhile.
    The window's bounds stop the reading when sending stalls.
    """

    def __init__(self, items: Iterable[WorkItem] | AsyncIterable[WorkItem], limits: Limits) -> None:
        self._items = items
        self._window = Window(limits)
        self._frames: AsyncFrames | None = None
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._pump_task: asyncio.Task[None] | None = None
        self._read = False
        self.over = asyncio.Event()
        """Nothing more is to be sent: the batch has ended, was cancelled, or its source failed."""
        self.failure: Exception | None = None
        """What the source raised."""
        self.cancel_call: Callable[[], object] = bool

    @property
    def settled(self) -> bool:
        """Whether the source has ended and the server holds all of it."""
        return self._read and not self._window

    def new_stream(self, opening: ProcessBatchRequest) -> "AsyncFrames":
        """Give the frames of the next stream: `opening`, then what is not confirmed, then what follows."""
        if self._frames is not None:
            self._frames.ended = True  # what it took now would be lost
        self._window.rewind()
        self._frames = AsyncFrames(self, opening)
        self._filled.set()
        return self._frames

    def begin(self, server_bytes: int) -> None:
        """Let items flow on the present stream, within the server's message limit."""
        self._window.limits = self._window.limits.within(server_bytes)
        if self._frames is not None:
            self._frames.flowing = True
        if self._pump_task is None:
            self._pump_task = asyncio.create_task(self._pump(), name="batch-llm-source")
        self._filled.set()

    def confirm(self, received: int) -> None:
        """Let go of the first `received` items of the present stream."""
        self._window.confirm(received)
        self._room.set()

    def end(self, frames: "AsyncFrames") -> None:
        """End the frames of a stream whose call has ended; the batch may go on with another."""
        frames.ended = True
        self._filled.set()

    def stop(self) -> None:
        """End the reading of the source; the batch is over, its call ended or cancelled."""
        self.over.set()
        if self._pump_task is not None:
            self._pump_task.cancel()

    async def next_frame(self, frames: "AsyncFrames") -> ProcessBatchRequest | None:
        """Wait for a stream's next frame; None: it has no more."""
        while not (frames.ended or (frames.flowing and self._has_frame())):
            self._filled.clear()
            await self._filled.wait()
        if frames.ended:
            return None
        frame = self._window.take()
        self._room.set()
        return frame

    def _has_frame(self) -> bool:
        # The end of the frames is a half-close, which tells the server that all is well. So a source that failed, or
        # that was not read to its end, leaves them waiting for the end of the call.
        return not self.over.is_set() and (self._read or self._window.waiting)

    async def _pump(self) -> None:
        try:
            if isinstance(self._items, AsyncIterable):
                async for item in self._items:
                    await self._add(item)
            else:
                for item in self._items:
                    await self._add(item)
        except Exception as error:  # kept for the one who iterates over the results
            self.failure = error
            self.over.set()
            self.cancel_call()
        else:
            self._read = True
            self._filled.set()

    async def _add(self, item: WorkItem) -> None:
        message, cost = encode(item, self._window.limits.max_message_bytes)
        while not self._window.fits(cost):
            self._room.clear()
            await self._room.wait()
        self._window.add(message, cost)
        self._filled.set()


class AsyncFrames:
    """One stream's frames, an async iterator."""

    def __init__(self, outgoing: AsyncOutgoing, opening: ProcessBatchRequest) -> None:
        self._outgoing = outgoing
        self._opening: ProcessBatchRequest | None = opening
        self.flowing = False
        """The server has answered `opened`."""
        self.ended = False

    def __aiter__(self) -> AsyncIterator[ProcessBatchRequest]:
        return self

    async def __anext__(self) -> ProcessBatchRequest:
        if self._opening is not None:
            frame, self._opening = self._opening, None
            return frame
        following = await self._outgoing.next_frame(self)
        if following is None:
            raise StopAsyncIteration
        return following

    def end(self) -> None:
        """End them; the stream is over."""
        self._outgoing.end(self)
