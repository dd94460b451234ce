"""One `ProcessBatch` stream, from `open` to `batch_result`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from batch_llm._version import __version__
from batch_llm.executor import Executor
from batch_llm.model import AnyResult, BatchLLMError, ErrorReason
from batch_llm.processor import BatchSession
from batch_llm.shared import SharedStrategy
from batchllm.v1 import batch_service_pb2, work_pb2

from . import mapping
from .intake import Intake
from .item_index import ItemIndex
from .status import draining

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .catalogue import Catalogue
    from .settings import ServerSettings

    Context = grpc.aio.ServicerContext[batch_service_pb2.ProcessBatchRequest, batch_service_pb2.ProcessBatchResponse]

PROGRESS_SECONDS = 1.0
_RESULTS_AT_ONCE = 512
# For a client's half-close that is on its way: with it the stream ends with its totals instead of an error.
_DRAIN_READ_SECONDS = 0.2
_FRAME_BYTES = 1024 * 1024
_Response = batch_service_pb2.ProcessBatchResponse


class BatchStream:
    """Reads frames into a session and writes its results, at the same time.

    Args:
        opening: the checked `open` frame.
        context: the RPC.
        catalogue: the named strategies.
        executor: runs items.
        settings: the server's limits.
    """

    def __init__(
        self,
        opening: batch_service_pb2.OpenBatch,
        context: Context,
        catalogue: Catalogue,
        executor: Executor,
        settings: ServerSettings,
    ) -> None:
        self._context = context
        self._catalogue = catalogue
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._opened_at = self._loop.time()
        self._leased: dict[str, SharedStrategy] = {}
        limit = settings.max_concurrency
        ordered = opening.result_order == batch_service_pb2.RESULT_ORDER_SUBMISSION
        self._opened = batch_service_pb2.BatchOpened(
            batch_id=opening.batch_id,
            strategy=opening.strategy,
            max_concurrency=min(opening.max_concurrency or limit, limit),
            result_order=(
                batch_service_pb2.RESULT_ORDER_SUBMISSION if ordered else batch_service_pb2.RESULT_ORDER_COMPLETION
            ),
            max_message_bytes=settings.max_message_bytes,
            server_version=__version__,
        )
        if opening.strategy:
            self._find(opening.strategy)
        self._session = BatchSession(executor.run, max_concurrency=self._opened.max_concurrency, ordered=ordered)
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()  # results and progress come from two tasks
        self._half_closed = False
        self._draining = False

    async def run(self) -> None:
        """Run the batch to its end.

        Raises:
            BatchLLMError: a frame out of order, or the sidecar is draining.
        """
        index = ItemIndex()
        try:
            await self._context.write(_Response(opened=self._opened))
            async with asyncio.TaskGroup() as group:
                self._reader = group.create_task(self._read(index))
                if self._draining:  # told so before there was a reader
                    self.drain()
                progress = group.create_task(self._report_progress())
                await self._write_results()
                async with self._writing:  # so that no half-written frame is cancelled
                    progress.cancel()
            if not self._half_closed:
                raise draining()
            elapsed = self._loop.time() - self._opened_at
            session = self._session
            totals = mapping.batch_result_message(self._opened.batch_id, session.totals, session.settle(), elapsed)
            await self._context.write(_Response(batch_result=totals))
        except BaseExceptionGroup as group_error:
            # One task failed and took the others with it: its error is the stream's.
            raise group_error.exceptions[0] from None
        finally:
            await self._session.abort()
            index.close()
            for shared in self._leased.values():
                await shared.release()

    def drain(self) -> None:
        """Read no more than what is under way already; what is held ends, then the stream."""
        self._draining = True
        if self._reader is not None:
            self._loop.call_later(_DRAIN_READ_SECONDS, self._reader.cancel)

    def cut_short(self, message: str) -> None:
        """End what is still held, now."""
        self._session.cut_short(message)

    # -- in ----------------------------------------------------------------------------------------------------------

    async def _read(self, index: ItemIndex) -> None:
        intake = Intake(self._opened.strategy, self._find, index)
        try:
            while (frame := await self._context.read()) != grpc.aio.EOF:
                match frame.WhichOneof("frame"):
                    case "items":
                        works = [work for item in frame.items.items if (work := intake.take(item)) is not None]
                        await self._session.submit(works)
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
        self._session.close()

    def _find(self, name: str) -> SharedStrategy:
        """The shared strategy of a name, leased to this stream until it ends."""
        shared = self._leased.get(name)
        if shared is None:
            shared = self._catalogue.get(name).shared
            shared.lease()
            self._leased[name] = shared
        return shared

    # -- out ---------------------------------------------------------------------------------------------------------

    async def _write_results(self) -> None:
        while taken := await self._session.take(_RESULTS_AT_ONCE):
            for frame in _frames(taken):
                await self._write(frame)

    async def _report_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            if not (self._session.in_flight or self._session.waiting):
                continue
            elapsed = self._loop.time() - self._opened_at
            now = self._loop.time()
            cooldown = max((shared.scope.cooldown_remaining(now) for shared in self._leased.values()), default=0.0)
            await self._write(_Response(progress=mapping.progress_message(self._session, elapsed, cooldown)))

    async def _write(self, frame: _Response) -> None:
        async with self._writing:
            await self._context.write(frame)


def _frames(results: list[AnyResult]) -> Iterator[_Response]:
    """Frames of results, each about as large as `_FRAME_BYTES` at most; one result may exceed it."""
    messages: list[work_pb2.WorkItemResult] = []
    size = 0
    for result in results:
        message = mapping.result_message(result)
        message_size = message.ByteSize()
        if messages and size + message_size > _FRAME_BYTES:
            yield _frame(messages)
            messages, size = [], 0
        messages.append(message)
        size += message_size
    yield _frame(messages)


def _frame(messages: list[Any]) -> _Response:
    return _Response(results=batch_service_pb2.WorkItemResults(results=messages))
