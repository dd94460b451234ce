"""`BatchService`: streams, single items, and what can be done with batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from batch_llm.model import BatchLLMError, ErrorReason
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1 import batch_service_pb2_grpc

from .batch_stream import BatchStream
from .batches import Batches
from .single_items import SingleItems
from .status import abort, draining, invalid

logger = logging.getLogger("batch_llm")

_MAX_BATCH_ID_BYTES = 256
_MAX_LABELS = 32
_MAX_LABEL_BYTES = 256
_LAST_FRAMES_SECONDS = 5.0  # a client that reads no results has them in the journal

T = TypeVar("T")


class BatchServicer(batch_service_pb2_grpc.BatchServiceServicer):
    """Serves `BatchService`.

    Args:
        batches: all batches.
        singles: runs single items.
    """

    def __init__(self, batches: Batches, singles: SingleItems) -> None:
        self._batches = batches
        self._singles = singles
        self._streams: set[BatchStream] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._drained = asyncio.Event()
        self._items: set[asyncio.Task[Any]] = set()
        self._cut: set[asyncio.Task[Any]] = set()

    # -- running -----------------------------------------------------------------------------------------------------

    async def ProcessBatch(  # type: ignore[override]  # the stub knows generators only; grpc.aio takes writers too
        self, request_iterator: Any, context: Any
    ) -> None:
        """See batch_service.proto."""
        with self._tracked():
            try:
                await self._process_batch(context)
            except Exception as error:
                # CancelledError passes: swallowing it leaks native memory in grpcio (grpc issue 43360).
                if context.done():
                    logger.info("a client went away: %s", type(error).__name__)
                else:
                    await abort(context, error)

    async def _process_batch(self, context: Any) -> None:
        opening = _checked(await self._first_frame(context))
        batch = await self._batches.open(opening)
        logger.info("batch %r opened%s", batch.batch_id, f" {dict(opening.labels)}" if opening.labels else "")
        stream = BatchStream(batch, opening.resume_after_sequence, context)
        self._streams.add(stream)
        if self._drained.is_set():
            stream.drain()
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
            batch.leave()
            logger.info("the stream of batch %r ended", batch.batch_id)

    async def _first_frame(self, context: Any) -> Any:
        """The first frame of a stream, unless the sidecar drains before it comes."""
        reading = asyncio.ensure_future(context.read())
        drained = asyncio.ensure_future(self._drained.wait())
        try:
            await asyncio.wait((reading, drained), return_when=asyncio.FIRST_COMPLETED)
            if self._drained.is_set():
                raise draining()
            return reading.result()
        finally:
            reading.cancel()
            drained.cancel()

    async def ProcessItem(self, request: pb.ProcessItemRequest, context: Any) -> pb.ProcessItemResponse:
        """See batch_service.proto."""
        if self._drained.is_set():
            await abort(context, draining())
        with self._tracked() as task:
            self._items.add(task)
            try:
                return pb.ProcessItemResponse(result=await self._singles.run(request.item, request.idempotency_key))
            except BatchLLMError as error:
                await abort(context, error)
            except asyncio.CancelledError:
                if task not in self._cut:
                    raise
                task.uncancel()
                await abort(context, draining())
            finally:
                self._items.discard(task)

    # -- looking and acting ------------------------------------------------------------------------------------------

    async def GetBatch(self, request: pb.GetBatchRequest, context: Any) -> pb.GetBatchResponse:
        """See batch_service.proto."""
        return pb.GetBatchResponse(batch=await _answer(context, self._batches.get(request.batch_id)))

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Any) -> pb.ListBatchesResponse:
        """See batch_service.proto."""
        batches, token = await _answer(context, self._batches.page(request.page_size, request.page_token))
        return pb.ListBatchesResponse(batches=batches, next_page_token=token)

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: Any) -> pb.CancelBatchResponse:
        """See batch_service.proto."""
        return pb.CancelBatchResponse(batch=await _answer(context, self._batches.cancel(request.batch_id)))

    async def DeleteBatch(self, request: pb.DeleteBatchRequest, context: Any) -> pb.DeleteBatchResponse:
        """See batch_service.proto."""
        await _answer(context, self._batches.delete(request.batch_id))
        return pb.DeleteBatchResponse()

    # -- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout: float) -> None:
        """Take nothing new; wait until what is in flight has ended, or `timeout` seconds, then cut it short."""
        self._drained.set()
        for stream in self._streams:
            stream.drain()
        await asyncio.gather(self._batches.drain(timeout), self._drain_items(timeout))
        if self._running:
            await asyncio.wait(self._running, timeout=_LAST_FRAMES_SECONDS)

    async def _drain_items(self, timeout: float) -> None:
        items = self._items | self._singles.under_way
        if not items:
            return
        _, left = await asyncio.wait(items, timeout=timeout)
        if left:
            logger.warning("%d call(s) left after %g s", len(left), timeout)
            self._cut = set(left)
            for task in left:
                task.cancel()
            await asyncio.wait(left)

    @contextmanager
    def _tracked(self) -> Iterator[asyncio.Task[Any]]:
        """Have `drain` wait for the RPC that runs inside."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an RPC runs in a task")
        self._running.add(task)
        try:
            yield task
        finally:
            self._running.discard(task)


async def _answer(context: Any, call: Awaitable[T]) -> T:
    try:
        return await call
    except Exception as error:
        await abort(context, error)


def _checked(frame: Any) -> pb.OpenBatch:
    """The `open` in a stream's first frame.

    Raises:
        BatchLLMError: it is none, or a field is out of its range.
    """
    if frame is grpc.aio.EOF or frame.WhichOneof("frame") != "open":
        raise BatchLLMError("the first frame of a stream must be `open`", reason=ErrorReason.OPEN_FRAME_REQUIRED)
    opening: pb.OpenBatch = frame.open
    if len(opening.batch_id.encode()) > _MAX_BATCH_ID_BYTES or "\0" in opening.batch_id:
        raise invalid("batch_id", f"is longer than {_MAX_BATCH_ID_BYTES} bytes or has a zero byte; use another")
    if opening.max_concurrency < 0:
        raise invalid("max_concurrency", f"is {opening.max_concurrency}; use 0 for the strategies' own limits")
    if opening.result_order not in pb.ResultOrder.values():
        raise invalid("result_order", f"has the unknown value {opening.result_order}")
    if opening.resume_after_sequence < 0:
        raise invalid("resume_after_sequence", f"is {opening.resume_after_sequence}; use 0 for all results")
    texts = [text for label in opening.labels.items() for text in label]
    if len(opening.labels) > _MAX_LABELS or any(len(text.encode()) > _MAX_LABEL_BYTES for text in texts):
        raise invalid("labels", f"takes at most {_MAX_LABELS} entries of {_MAX_LABEL_BYTES} bytes")
    return opening
