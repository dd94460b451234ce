"""`BatchService`: streams and single items."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from batch_llm.executor import Executor
from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.processor import engine_failure
from batch_llm.shared import SharedStrategy
from batchllm.v1 import batch_service_pb2, batch_service_pb2_grpc

from . import mapping
from .batch_stream import BatchStream
from .catalogue import Catalogue
from .intake import Intake
from .settings import ServerSettings
from .status import abort, draining

logger = logging.getLogger("batch_llm")

_MAX_BATCH_ID_BYTES = 256
_MAX_LABELS = 32
_MAX_LABEL_BYTES = 256


class BatchServicer(batch_service_pb2_grpc.BatchServiceServicer):
    """Serves `BatchService`.

    Args:
        catalogue: the named strategies.
        executor: runs items.
        settings: the server's limits.
    """

    def __init__(self, catalogue: Catalogue, executor: Executor, settings: ServerSettings) -> None:
        self._catalogue = catalogue
        self._executor = executor
        self._settings = settings
        self._streams: dict[str, BatchStream] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._drained = asyncio.Event()
        self._items: set[asyncio.Task[Any]] = set()
        self._cut: set[asyncio.Task[Any]] = set()

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
        batch_id = opening.batch_id
        if batch_id in self._streams:
            raise BatchLLMError(
                f"batch {batch_id!r} is open on another stream; wait for it to end or choose another batch_id",
                reason=ErrorReason.BATCH_IN_USE,
                metadata={"batch_id": batch_id},
            )
        stream = BatchStream(opening, context, self._catalogue, self._executor, self._settings)
        self._streams[batch_id] = stream
        logger.info("batch %r opened%s", batch_id, f" {dict(opening.labels)}" if opening.labels else "")
        try:
            await stream.run()
        finally:
            del self._streams[batch_id]
            logger.info("batch %r ended", batch_id)

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

    async def ProcessItem(
        self, request: batch_service_pb2.ProcessItemRequest, context: Any
    ) -> batch_service_pb2.ProcessItemResponse:
        """See batch_service.proto."""
        leased: list[SharedStrategy] = []

        def find(name: str) -> SharedStrategy:
            shared = self._catalogue.get(name).shared
            shared.lease()
            leased.append(shared)
            return shared

        if self._drained.is_set():
            await abort(context, draining())
        with self._tracked() as task:
            self._items.add(task)
            try:
                work = Intake("", find).take(request.item)
                if work is None:
                    raise RuntimeError("an item without an index cannot be a duplicate")
                work.accepted_at = asyncio.get_running_loop().time()
                try:
                    result = await self._executor.run(work)
                except Exception as error:
                    result = engine_failure(work, error)
            except asyncio.CancelledError:
                if task not in self._cut:
                    raise
                task.uncancel()
                await abort(context, draining())
            finally:
                self._items.discard(task)
                for shared in leased:
                    await shared.release()
        result.sequence = 1
        return batch_service_pb2.ProcessItemResponse(result=mapping.result_message(result))

    async def drain(self, timeout: float) -> None:
        """Take nothing new; wait until all that is held has ended, or `timeout` seconds, then cut it short."""
        self._drained.set()
        for stream in list(self._streams.values()):
            stream.drain()
        if not self._running:
            return
        _, left = await asyncio.wait(self._running, timeout=timeout)
        if left:
            message = f"the sidecar stopped {timeout:g} s after it was told to; send the item again"
            logger.warning("%d stream(s) and call(s) left: %s", len(left), message)
            for stream in list(self._streams.values()):
                stream.cut_short(message)
            self._cut = set(self._items)
            for task in self._cut:
                task.cancel()

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


def _invalid(field: str, problem: str) -> BatchLLMError:
    return BatchLLMError(f"{field} {problem}", reason=ErrorReason.INVALID_FIELD, metadata={"field": field})


def _checked(frame: Any) -> batch_service_pb2.OpenBatch:
    """The `open` in a stream's first frame, with a batch id.

    Raises:
        BatchLLMError: it is none, or a field is out of its range.
    """
    if frame is grpc.aio.EOF or frame.WhichOneof("frame") != "open":
        raise BatchLLMError("the first frame of a stream must be `open`", reason=ErrorReason.OPEN_FRAME_REQUIRED)
    opening: batch_service_pb2.OpenBatch = frame.open
    if len(opening.batch_id.encode()) > _MAX_BATCH_ID_BYTES:
        raise _invalid("batch_id", f"is longer than {_MAX_BATCH_ID_BYTES} bytes; use a shorter one")
    if opening.max_concurrency < 0:
        raise _invalid("max_concurrency", f"is {opening.max_concurrency}; use 0 for the strategies' own limits")
    if opening.result_order not in batch_service_pb2.ResultOrder.values():
        raise _invalid("result_order", f"has the unknown value {opening.result_order}")
    texts = [text for label in opening.labels.items() for text in label]
    if len(opening.labels) > _MAX_LABELS or any(len(text.encode()) > _MAX_LABEL_BYTES for text in texts):
        raise _invalid("labels", f"takes at most {_MAX_LABELS} entries of {_MAX_LABEL_BYTES} bytes")
    opening.batch_id = opening.batch_id or f"batch-{uuid.uuid4().hex}"
    return opening
