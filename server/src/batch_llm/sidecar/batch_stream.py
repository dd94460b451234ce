"""One `ProcessBatch` stream, from `opened` to `batch_result`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import grpc

from batch_llm.model import BatchLLMError, ErrorReason
from batchllm.v1 import batch_service_pb2, work_pb2

from .status import draining

if TYPE_CHECKING:
    from .live_batch import LiveBatch

    Context = grpc.aio.ServicerContext[batch_service_pb2.ProcessBatchRequest, batch_service_pb2.ProcessBatchResponse]

PROGRESS_SECONDS = 1.0
_RESULTS_AT_ONCE = 512
# For a client's half-close that is on its way: with it the stream ends with its totals instead of an error.
_DRAIN_READ_SECONDS = 0.2
_FRAME_BYTES = 1024 * 1024
# What is read while what was read before is being written to the journal.
_AHEAD_ITEMS = 512
_AHEAD_BYTES = 4 * 1024 * 1024
_Response = batch_service_pb2.ProcessBatchResponse


class BatchStream:
    """Reads frames into a batch and writes its results, at the same time.

    Args:
        batch: the batch, this stream attached.
        resume_after: results up to this sequence are not sent.
        context: the RPC.
    """

    def __init__(self, batch: LiveBatch, resume_after: int, context: Context) -> None:
        self._batch = batch
        self._resume_after = resume_after
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()  # results, progress and acknowledgements come from different tasks
        self._frames: list[batch_service_pb2.WorkItems] = []
        self._ahead_items = 0
        self._ahead_bytes = 0
        self._received = 0
        self._moved = asyncio.Event()
        self._half_closed = False
        self._draining = False

    async def run(self) -> None:
        """Serve the stream to its end.

        Raises:
            BatchLLMError: a frame out of order, the journal fails, or the sidecar is draining.
        """
        batch = self._batch
        try:
            await self._context.write(_Response(opened=batch.opened()))
            async with asyncio.TaskGroup() as group:
                self._reader = group.create_task(self._read())
                if self._draining:  # told so before there was a reader
                    self.drain()
                others = (self._reader, group.create_task(self._accept()), group.create_task(self._report_progress()))
                await self._write_results()
                await batch.closed.wait()
                async with self._writing:  # so that no half-written frame is cancelled
                    for task in others:
                        task.cancel()
        except BaseExceptionGroup as group_error:
            # One task failed and took the others with it: its error is the stream's.
            raise group_error.exceptions[0] from None
        if batch.result is None:
            raise batch.failure or draining()
        await self._context.write(_Response(batch_result=batch.result))

    def drain(self) -> None:
        """Read no more than what is under way already."""
        self._draining = True
        if self._reader is not None:
            self._loop.call_later(_DRAIN_READ_SECONDS, self._reader.cancel)

    # -- in ----------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read ahead, within bounds."""
        try:
            while (frame := await self._context.read()) != grpc.aio.EOF:
                match frame.WhichOneof("frame"):
                    case "items":
                        self._frames.append(frame.items)
                        self._ahead_items += len(frame.items.items)
                        self._ahead_bytes += frame.ByteSize()
                        self._moved.set()
                        while self._ahead_items >= _AHEAD_ITEMS or self._ahead_bytes >= _AHEAD_BYTES:
                            await self._next_move()
                    case "open":
                        raise BatchLLMError(
                            "a second `open` frame; a stream has one, start another stream for another batch",
                            reason=ErrorReason.OPEN_FRAME_REPEATED,
                        )
                    case _:
                        raise BatchLLMError("a frame with neither `open` nor `items`", reason=ErrorReason.FRAME_EMPTY)
            self._half_closed = True
        except asyncio.CancelledError:
            if not self._draining:
                raise
        self._reader = None
        self._moved.set()

    async def _accept(self) -> None:
        """Have the batch take in what was read, and say so; then that there is no more."""
        while self._frames or self._reader is not None:
            if not self._frames:
                await self._next_move()
                continue
            frames, self._frames = self._frames, []
            items, self._ahead_items, self._ahead_bytes = self._ahead_items, 0, 0
            self._moved.set()
            if not await self._batch.accept(frames):
                return
            self._received += items
            await self._confirm()
        if self._half_closed:
            # A client that goes away looks like a half-close at first; this fails if it is gone.
            await self._confirm()
            self._batch.seal()
        else:
            self._batch.stop_reading()

    async def _confirm(self) -> None:
        accepted = batch_service_pb2.ItemsAccepted(items=self._batch.items, received=self._received)
        await self._write(_Response(accepted=accepted))

    async def _next_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    # -- out ---------------------------------------------------------------------------------------------------------

    async def _write_results(self) -> None:
        async for replayed in self._batch.replay(self._resume_after):
            await self._write_frames(replayed)
        while taken := await self._batch.take(_RESULTS_AT_ONCE):
            await self._write_frames(taken)

    async def _write_frames(self, results: Sequence[work_pb2.WorkItemResult]) -> None:
        for frame in _frames(results):
            await self._write(frame)

    async def _report_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            progress = self._batch.progress()
            if progress is not None:
                await self._write(_Response(progress=progress))

    async def _write(self, frame: _Response) -> None:
        async with self._writing:
            await self._context.write(frame)


def _frames(results: Sequence[work_pb2.WorkItemResult]) -> Iterator[_Response]:
    """Frames of results, each about as large as `_FRAME_BYTES` at most; one result may exceed it."""
    messages: list[work_pb2.WorkItemResult] = []
    size = 0
    for message in results:
        message_size = message.ByteSize()
        if messages and size + message_size > _FRAME_BYTES:
            yield _frame(messages)
            messages, size = [], 0
        messages.append(message)
        size += message_size
    if messages:
        yield _frame(messages)


def _frame(messages: list[work_pb2.WorkItemResult]) -> _Response:
    return _Response(results=batch_service_pb2.WorkItemResults(results=messages))
