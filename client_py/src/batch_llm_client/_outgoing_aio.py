"""The request side of an async stream: frames for grpc.aio's sending task."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable

from batch_llm_client._frames import FrameBuffer, Limits, chunk, encode
from batch_llm_client.model import WorkItem
from batchllm.v1.batch_service_pb2 import ProcessBatchRequest


class AsyncOutgoing:
    """Sends `opening`, waits for the server's limits, then sends the items.

    A task of its own reads an async source into a buffer of one frame, so that what is at hand goes out while the
    source waits; the buffer's bound stops the reading when sending stalls.
    """

    def __init__(
        self, opening: ProcessBatchRequest, items: Iterable[WorkItem] | AsyncIterable[WorkItem], limits: Limits
    ) -> None:
        self._opening = opening
        self._items = items
        self._limits = limits
        self._opened = asyncio.Event()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._pump_task: asyncio.Task[None] | None = None
        self._stopped = False
        self.failure: Exception | None = None
        """What the source raised."""

    def begin(self, server_bytes: int) -> None:
        """Let items flow, within the server's message limit."""
        self._limits = self._limits.within(server_bytes)
        self._opened.set()

    def stop(self) -> None:
        """End the frames and the reading of the source; the stream is over."""
        self._stopped = True
        if self._pump_task is not None:
            self._pump_task.cancel()
        self._opened.set()
        self._filled.set()

    async def frames(self) -> AsyncIterator[ProcessBatchRequest]:
        """Yield the frames. Raises what the source raises, upon which grpc.aio cancels the call."""
        yield self._opening
        await self._opened.wait()
        if self._stopped:
            return
        try:
            if isinstance(self._items, AsyncIterable):
                async for frame in self._frames_at_hand(self._items):
                    yield frame
            else:
                for frame in chunk(self._items, self._limits):
                    yield frame
        except Exception as error:
            self.failure = error
            raise

    async def _frames_at_hand(self, items: AsyncIterable[WorkItem]) -> AsyncIterator[ProcessBatchRequest]:
        buffer = FrameBuffer(self._limits)
        pump = self._pump_task = asyncio.create_task(self._pump(items, buffer), name="batch-llm-source")
        while True:
            await self._filled.wait()
            if self.failure is not None:
                raise self.failure
            if self._stopped or not buffer:
                return
            frame = buffer.take()
            self._room.set()
            if not pump.done():
                self._filled.clear()
            yield frame

    async def _pump(self, items: AsyncIterable[WorkItem], buffer: FrameBuffer) -> None:
        try:
            async for item in items:
                message, cost = encode(item, self._limits.max_message_bytes)
                while not buffer.fits(cost):
                    self._room.clear()
                    await self._room.wait()
                buffer.add(message, cost)
                self._filled.set()
        except Exception as error:  # kept for the one who iterates over the results
            self.failure = error
        finally:
            self._filled.set()
