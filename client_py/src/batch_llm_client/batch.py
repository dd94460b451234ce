"""A batch in flight, sync."""

from collections.abc import Callable, Iterator
from itertools import chain
from types import TracebackType
from typing import Self

import grpc

from batch_llm_client._frames import Incoming
from batch_llm_client._outgoing import Outgoing
from batch_llm_client.errors import from_rpc_error
from batch_llm_client.model import BatchOpened, Progress, Result, Totals
from batchllm.v1 import work_pb2
from batchllm.v1.batch_service_pb2 import ProcessBatchResponse


class Batch:
    """Results as they come: iterate over it, from one thread.

    Items flow once the stream has opened, which entering it, `opened` and the first step of iteration wait for.
    As a context manager it cancels the stream when it is left early. Iterating raises a `BatchLLMClientError` when
    the stream fails, and what the source of the items raised when it does.
    """

    def __init__(
        self,
        call: "grpc._CallIterator[ProcessBatchResponse]",  # only the stubs have this name
        outgoing: Outgoing,
        target: str,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Made by `BatchClient.process_batch`."""
        self._call = call
        self._outgoing = outgoing
        self._target = target
        self._incoming = Incoming(on_opened=outgoing.begin, on_progress=on_progress)
        self._ready: Iterator[work_pb2.WorkItemResult] = iter(())
        outgoing.cancel_call = call.cancel
        if not call.add_callback(outgoing.stop):
            outgoing.stop()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        while (message := next(self._ready, None)) is None:
            self._ready = self._receive()
        return Result(message)

    def __enter__(self) -> Self:
        self._wait_until_open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # The sending thread keeps the call alive, so that grpc's own clean-up would not come to it.
        self._call.cancel()

    @property
    def opened(self) -> BatchOpened:
        """What is in force; waits for the server's answer. BatchLLMClientError: the server refused."""
        return self._wait_until_open()

    @property
    def progress(self) -> Progress | None:
        """The latest report of the server; None before the first."""
        return self._incoming.progress

    @property
    def totals(self) -> Totals:
        """The totals, after the last result. RuntimeError: the batch has not ended."""
        return self._incoming.totals

    def cancel(self) -> None:
        """Cancel the stream, from any thread; iterating then raises CallCancelledError. No effect after the end."""
        self._call.cancel()

    def _wait_until_open(self) -> BatchOpened:
        while (opened := self._incoming.opened) is None:
            self._ready = chain(self._ready, self._receive())
        return opened

    def _receive(self) -> Iterator[work_pb2.WorkItemResult]:
        try:
            return self._incoming.take(next(self._call))
        except StopIteration:
            self._incoming.check_complete()
            raise
        except grpc.RpcError as error:
            if self._outgoing.failure is not None:
                raise self._outgoing.failure from None
            raise from_rpc_error(error, self._target) from error
