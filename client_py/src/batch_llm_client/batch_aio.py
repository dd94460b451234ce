"""A batch in flight, async."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from types import TracebackType
from typing import Final, Self

import grpc

from batch_llm_client._clock import AsyncClock
from batch_llm_client._ending_aio import Ending
from batch_llm_client._frames import Incoming
from batch_llm_client._outgoing_aio import AsyncOutgoing
from batch_llm_client._resume import Retries, is_resumable
from batch_llm_client.errors import BatchLLMClientError, cancelled, from_rpc_error
from batch_llm_client.model import BatchOpened, Progress, Result, Totals
from batchllm.v1 import work_pb2
from batchllm.v1.batch_service_pb2 import (
    BATCH_STATE_OPEN,
    GetBatchRequest,
    GetBatchResponse,
    ProcessBatchRequest,
    ProcessBatchResponse,
)

_SEAL_POLL_SECONDS: Final = 0.02


def task_is_cancelled() -> bool:
    """Tell the two meanings of CancelledError in grpc.aio apart: our task is cancelled, or only the call is."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@dataclass(slots=True)
class AsyncConnection:
    """What a batch needs of its client."""

    target: str
    start_stream: "Callable[..., grpc.aio.StreamStreamCall[ProcessBatchRequest, ProcessBatchResponse]]"
    get_batch: "grpc.aio.UnaryUnaryMultiCallable[GetBatchRequest, GetBatchResponse]"
    clock: AsyncClock
    closed: asyncio.Event = field(default_factory=asyncio.Event)


class AsyncBatch:
    """Results as they come: iterate over it with `async for`, from one task.

    Items flow once the stream has opened, which `async with`, `wait_opened()` and the first step of iteration wait
    for. As an async context manager it cancels the stream when it is left early. Iterating raises a
    `BatchLLMClientError` when the stream fails and cannot be resumed, and what the source of the items raised when it
    does.

    Once it has opened, a connection that breaks or a sidecar that restarts is ridden out: the batch is opened again,
    items that the sidecar had not confirmed are sent again, and results go on after the last one handed out, without
    a gap or a repeat.
    """

    def __init__(
        self, connection: AsyncConnection, outgoing: AsyncOutgoing, incoming: Incoming, retries: Retries
    ) -> None:
        """Made by `AsyncBatchClient.process_batch`."""
        self._connection = connection
        self._outgoing = outgoing
        self._incoming = incoming
        self._retries = retries
        self._ready: Iterator[work_pb2.WorkItemResult] = iter(())
        self._cancelled = False
        self._failure: Exception | None = None
        self._call: grpc.aio.StreamStreamCall[ProcessBatchRequest, ProcessBatchResponse] | None = None
        self._start()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        while (message := next(self._ready, None)) is None:
            self._ready = await self._receive()
        return Result(message)

    async def __aenter__(self) -> Self:
        await self.wait_opened()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # The sending task keeps the call alive, so that grpc's own clean-up would not come to it.
        self.cancel()

    async def wait_opened(self) -> BatchOpened:
        """Wait for the server's answer: what is in force. BatchLLMClientError: the server refused."""
        while (opened := self._incoming.opened) is None:
            self._ready = chain(self._ready, await self._receive())
        return opened

    @property
    def batch_id(self) -> str:
        """The batch's id: yours, or the one that this client made. Known from the start."""
        return self._incoming.batch_id

    @property
    def last_sequence(self) -> int:
        """Sequence of the last result handed out: what to give as `resume_after_sequence`."""
        return self._incoming.last_sequence

    @property
    def opened(self) -> BatchOpened:
        """What is in force. RuntimeError: the server has not answered yet."""
        if self._incoming.opened is None:
            raise RuntimeError("the batch has not opened yet: use `async with`, or await wait_opened() first")
        return self._incoming.opened

    @property
    def progress(self) -> Progress | None:
        """The latest report of the server; None before the first."""
        return self._incoming.progress

    @property
    def totals(self) -> Totals:
        """The totals, after the last result. RuntimeError: the batch has not ended."""
        return self._incoming.totals

    async def leave(self) -> int:
        """Wait until the sidecar holds all items and knows that these are all, then end the stream.

        The batch goes on by itself. Results that were not handed out yet are passed over:
        `AsyncBatchClient.resume_batch` gives them again.

        Returns:
            How many items the sidecar holds of the batch.

        Raises:
            RuntimeError: the batch was not opened with `detach`.
        """
        self._incoming.check_detached()
        try:
            while not (self._outgoing.settled and await self._is_sealed()):
                await self._receive()
        except StopAsyncIteration:
            pass  # all has ended meanwhile
        self.cancel()
        return self._incoming.held

    def cancel(self) -> None:
        """Cancel the stream; iterating then raises CallCancelledError. No effect after the end.

        The sidecar keeps the batch: items under way finish, others wait until the batch is opened again. To end the
        batch itself, see `AsyncBatchClient.cancel_batch`.
        """
        self._cancelled = True
        # Before the frames end: a half-close would tell the server that it has all items.
        if self._call is not None:
            self._call.cancel()
        self._outgoing.stop()

    async def _is_sealed(self) -> bool:
        """Wait until the server has noticed the half-close; False: the connection broke, as receiving will tell."""
        request = GetBatchRequest(batch_id=self.batch_id)
        try:
            while True:
                answer = await self._connection.get_batch(request, timeout=self._retries.timeout())
                if answer.batch.state != BATCH_STATE_OPEN:
                    return True
                await self._connection.clock.wait(self._outgoing.over, _SEAL_POLL_SECONDS)
        except grpc.RpcError as raw:
            error = from_rpc_error(raw, self._connection.target)
            if not is_resumable(error):
                raise error from raw
            return False
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise cancelled(self._connection.target) from None

    async def _receive(self) -> Iterator[work_pb2.WorkItemResult]:
        if self._failure is not None:
            raise self._failure
        try:
            return self._incoming.take(await self._next_frame())
        except asyncio.CancelledError:
            self.cancel()
            raise
        except Exception as failure:  # the end of the batch is one: StopAsyncIteration
            self._failure = failure
            self.cancel()
            raise

    async def _next_frame(self) -> ProcessBatchResponse:
        while True:
            try:
                return await anext(self._responses)
            except StopAsyncIteration:
                self._incoming.check_complete()
                raise
            except asyncio.CancelledError:
                if task_is_cancelled():
                    raise
                failure: BatchLLMClientError = cancelled(self._connection.target)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(await self._ending.of(error), self._connection.target)
                failure.__cause__ = error
            if self._incoming.ended:
                raise StopAsyncIteration
            if self._outgoing.failure is not None:
                raise self._outgoing.failure
            await self._resume(failure)

    async def _resume(self, error: BatchLLMClientError) -> None:
        """Open the batch on a new stream, after a while. Raises `error` when it cannot be, or not any more."""
        if self._cancelled or self._connection.closed.is_set() or self._incoming.opened is None:
            raise error
        delay = self._retries.delay(self._incoming.explain(error))
        if await self._connection.clock.wait(self._outgoing.over, delay):
            raise self._outgoing.failure or cancelled(self._connection.target)
        if self._connection.closed.is_set():
            raise error
        self._start()

    def _start(self) -> None:
        frames = self._outgoing.new_stream(self._incoming.opening())
        call = self._call = self._connection.start_stream(frames, timeout=self._retries.timeout())
        self._ending = Ending(call)
        self._responses: AsyncIterator[ProcessBatchResponse] = aiter(call)
        self._outgoing.cancel_call = call.cancel
        call.add_done_callback(lambda _: frames.end())
