"""A batch in flight, sync."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from types import TracebackType
from typing import Final, Self

import grpc

from batch_llm_client._clock import Clock
from batch_llm_client._frames import Incoming
from batch_llm_client._outgoing import Outgoing
from batch_llm_client._resume import Retries, is_resumable
from batch_llm_client.errors import BatchLLMClientError, cancelled, closed, from_rpc_error
from batch_llm_client.model import BatchOpened, Progress, Result, Totals
from batchllm.v1 import work_pb2
from batchllm.v1.batch_service_pb2 import BATCH_STATE_OPEN, GetBatchRequest, GetBatchResponse, ProcessBatchResponse

_SEAL_POLL_SECONDS: Final = 0.02


@dataclass(slots=True)
class Connection:
    """What a batch needs of its client."""

    target: str
    start_stream: "Callable[..., grpc._CallIterator[ProcessBatchResponse]]"  # only the stubs have this name
    get_batch: "grpc.UnaryUnaryMultiCallable[GetBatchRequest, GetBatchResponse]"
    clock: Clock
    closed: threading.Event = field(default_factory=threading.Event)

    def check_open(self) -> None:
        """ClientClosedError: the client is closed."""
        if self.closed.is_set():
            raise closed(self.target)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Take grpc's ValueError of a channel that another thread has closed meanwhile for a ClientClosedError."""
        self.check_open()
        try:
            yield
        except ValueError:
            self.check_open()
            raise


class Batch:
    """Results as they come: iterate over it, from one thread.

    Items flow once the stream has opened, which entering it, `opened` and the first step of iteration wait for.
    As a context manager it cancels the stream when it is left early. Iterating raises a `BatchLLMClientError` when
    the stream fails and cannot be resumed, and what the source of the items raised when it does.

    Once it has opened, a connection that breaks or a sidecar that restarts is ridden out: the batch is opened again,
    items that the sidecar had not confirmed are sent again, and results go on after the last one handed out, without
    a gap or a repeat.
    """

    def __init__(self, connection: Connection, outgoing: Outgoing, incoming: Incoming, retries: Retries) -> None:
        """Made by `BatchClient.process_batch`."""
        self._connection = connection
        self._outgoing = outgoing
        self._incoming = incoming
        self._retries = retries
        self._ready: Iterator[work_pb2.WorkItemResult] = iter(())
        self._lock = threading.Lock()
        self._cancelled = False
        self._failure: BaseException | None = None
        self._call: grpc._CallIterator[ProcessBatchResponse] | None = None
        self._start()

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
        self.cancel()

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

    def leave(self) -> int:
        """Wait until the sidecar holds all items and knows that these are all, then end the stream.

        The batch goes on by itself. Results that were not handed out yet are passed over: `BatchClient.resume_batch`
        gives them again.

        Returns:
            How many items the sidecar holds of the batch.

        Raises:
            RuntimeError: the batch was not opened with `detach`.
        """
        self._incoming.check_detached()
        try:
            while not (self._outgoing.settled and self._is_sealed()):
                self._receive()
        except StopIteration:
            pass  # all has ended meanwhile
        self.cancel()
        return self._incoming.held

    def cancel(self) -> None:
        """Cancel the stream, from any thread; iterating then raises CallCancelledError. No effect after the end.

        The sidecar keeps the batch: items under way finish, others wait until the batch is opened again. To end the
        batch itself, see `BatchClient.cancel_batch`.
        """
        with self._lock:
            self._cancelled = True
            call = self._call
        # Before the frames end: a half-close would tell the server that it has all items.
        if call is not None:
            call.cancel()
        self._outgoing.stop()

    def _wait_until_open(self) -> BatchOpened:
        while (opened := self._incoming.opened) is None:
            self._ready = chain(self._ready, self._receive())
        return opened

    def _is_sealed(self) -> bool:
        """Wait until the server has noticed the half-close; False: the connection broke, as receiving will tell."""
        request = GetBatchRequest(batch_id=self.batch_id)
        try:
            while True:
                with self._connection.in_use():
                    answer = self._connection.get_batch(request, timeout=self._retries.timeout())
                if answer.batch.state != BATCH_STATE_OPEN:
                    return True
                self._connection.clock.wait(self._outgoing.over, _SEAL_POLL_SECONDS)
        except grpc.RpcError as raw:
            error = from_rpc_error(raw, self._connection.target)
            if not is_resumable(error):
                raise error from raw
            return False

    def _receive(self) -> Iterator[work_pb2.WorkItemResult]:
        if self._failure is not None:
            raise self._failure
        try:
            return self._incoming.take(self._next_frame())
        except Exception as failure:  # the end of the batch is one: StopIteration
            self._failure = failure
            self.cancel()
            raise

    def _next_frame(self) -> ProcessBatchResponse:
        while True:
            try:
                return next(self._call)  # type: ignore[arg-type]  # there is one
            except StopIteration:
                self._incoming.check_complete()
                raise
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self._connection.target)
                failure.__cause__ = error
            if self._incoming.ended:
                raise StopIteration
            if self._outgoing.failure is not None:
                raise self._outgoing.failure
            self._resume(failure)

    def _resume(self, error: BatchLLMClientError) -> None:
        """Open the batch on a new stream, after a while. Raises `error` when it cannot be, or not any more."""
        if self._cancelled or self._connection.closed.is_set() or self._incoming.opened is None:
            raise error
        delay = self._retries.delay(self._incoming.explain(error))
        if self._connection.clock.wait(self._outgoing.over, delay):
            raise self._outgoing.failure or cancelled(self._connection.target)
        if self._connection.closed.is_set():
            raise error
        self._start()

    def _start(self) -> None:
        frames = self._outgoing.new_stream(self._incoming.opening())
        with self._lock:
            if self._cancelled:
                raise cancelled(self._connection.target)
            with self._connection.in_use():
                call = self._call = self._connection.start_stream(frames, timeout=self._retries.timeout())
        self._outgoing.cancel_call = call.cancel
        if self._outgoing.failure is not None:
            call.cancel()
        if not call.add_callback(frames.end):
            frames.end()
