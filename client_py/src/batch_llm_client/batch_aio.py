"""A batch in flight, async."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain
from types import TracebackType
from typing import Self

import grpc

from batch_llm_client._ending_aio import Ending
from batch_llm_client._frames import Incoming
from batch_llm_client._outgoing_aio import AsyncOutgoing
from batch_llm_client.errors import cancelled, from_rpc_error
from batch_llm_client.model import BatchOpened, Progress, Result, Totals
from batchllm.v1 import work_pb2
from batchllm.v1.batch_service_pb2 import ProcessBatchRequest, ProcessBatchResponse


def task_is_cancelled() -> bool:
    """Tell the two meanings of CancelledError in grpc.aio apart: our task is cancelled, or only the call is."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class AsyncBatch:
    """Results as they come: iterate over it with `async for`, from one task.

    Items flow once the stream has opened, which `async with`, `wait_opened()` and the first step of iteration wait
    for. As an async context manager it cancels the stream when it is left early. Iterating raises a
    `BatchLLMClientError` when the stream fails, and what the source of the items raised when it does.
    """

    def __init__(
        self,
        call: "grpc.aio.StreamStreamCall[ProcessBatchRequest, ProcessBatchResponse]",
        outgoing: AsyncOutgoing,
        target: str,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Made by `AsyncBatchClient.process_batch`."""
        self._call = call
        self._ending = Ending(call)
        self._responses: AsyncIterator[ProcessBatchResponse] = aiter(call)
        self._outgoing = outgoing
        self._target = target
        self._incoming = Incoming(on_opened=outgoing.begin, on_progress=on_progress)
        self._ready: Iterator[work_pb2.WorkItemResult] = iter(())
        call.add_done_callback(lambda _: outgoing.stop())

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
        self._call.cancel()

    async def wait_opened(self) -> BatchOpened:
        """Wait for the server's answer: what is in force. BatchLLMClientError: the server refused."""
        while (opened := self._incoming.opened) is None:
            self._ready = chain(self._ready, await self._receive())
        return opened

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

    def cancel(self) -> None:
        """Cancel the stream; iterating then raises CallCancelledError. No effect after the end."""
        self._call.cancel()

    async def _receive(self) -> Iterator[work_pb2.WorkItemResult]:
        try:
            return self._incoming.take(await anext(self._responses))
        except StopAsyncIteration:
            self._incoming.check_complete()
            raise
        except asyncio.CancelledError:
            if task_is_cancelled():
                self._call.cancel()
                raise
            raise (self._outgoing.failure or cancelled(self._target)) from None
        except grpc.aio.AioRpcError as error:
            if self._outgoing.failure is not None:
                raise self._outgoing.failure from None
            raise from_rpc_error(await self._ending.of(error), self._target) from error
