"""The sync client."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from batch_llm_client import _channel
from batch_llm_client._clock import Clock
from batch_llm_client._durations import check_timeout, to_duration
from batch_llm_client._frames import Incoming, Limits, encode, open_frame
from batch_llm_client._outgoing import Outgoing
from batch_llm_client._resume import DEFAULT_POLICY, ResumePolicy, Retries
from batch_llm_client.batch import Batch, Connection
from batch_llm_client.errors import BatchLLMClientError, from_rpc_error, unavailable
from batch_llm_client.model import Progress, Result, ResultOrder, WorkItem
from batch_llm_client.strategies import to_spec
from batchllm.v1 import batch_service_pb2 as batches_pb2
from batchllm.v1 import cache_lifecycle_service_pb2 as caches_pb2
from batchllm.v1 import strategy_service_pb2 as strategies_pb2
from batchllm.v1.batch_service_pb2 import BatchInfo
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub
from batchllm.v1.cache_lifecycle_service_pb2 import Cache
from batchllm.v1.cache_lifecycle_service_pb2_grpc import CacheLifecycleServiceStub
from batchllm.v1.strategy_service_pb2 import Strategy, StrategySpec
from batchllm.v1.strategy_service_pb2_grpc import StrategyServiceStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class BatchClient:
    """One connection to a sidecar; may be shared by threads.

    Every method that talks to the sidecar raises a `BatchLLMClientError`, see `batch_llm_client.errors`.

    Args:
        target: the sidecar's address as gRPC takes it: `unix:/run/batch-llm/batch-llm.sock` or `host:port`.
        timeout: deadline of one call in seconds; batches have their own. Default 60.
        max_message_bytes: larger items are refused before sending. Default 16 MiB; the server's limit holds as well.
        frame_items: at most so many items in a frame. Default 64.
        frame_bytes: at most so many bytes in a frame of more than one item. Default 512 KiB.
        unconfirmed_items: at most so many items of a batch are kept to be sent again until the sidecar has confirmed
            them; then its source is read on. Default 4,096.
        unconfirmed_bytes: likewise in bytes. Default 32 MiB; one item may exceed it.
        resume_policy: how long batches, and calls with an idempotency key, go on trying when the connection breaks.
        clock: time and randomness; tests bring their own.

    Raises:
        TypeError or ValueError: the target, or an option, can be none.
    """

    def __init__(
        self,
        target: str = _channel.DEFAULT_TARGET,
        *,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        max_message_bytes: int = _channel.DEFAULT_MAX_MESSAGE_BYTES,
        frame_items: int = _channel.DEFAULT_FRAME_ITEMS,
        frame_bytes: int = _channel.DEFAULT_FRAME_BYTES,
        unconfirmed_items: int = _channel.DEFAULT_UNCONFIRMED_ITEMS,
        unconfirmed_bytes: int = _channel.DEFAULT_UNCONFIRMED_BYTES,
        resume_policy: ResumePolicy = DEFAULT_POLICY,
        clock: Clock | None = None,
    ) -> None:
        self._target = _channel.check_target(target)
        self._timeout = check_timeout(timeout)
        limits = Limits(frame_items, frame_bytes, max_message_bytes, unconfirmed_items, unconfirmed_bytes)
        self._limits = limits.within(max_message_bytes)
        self._policy = resume_policy
        self._channel = grpc.insecure_channel(target, options=_channel.channel_options(max_message_bytes))
        self._batches = BatchServiceStub(self._channel)
        self._strategies = StrategyServiceStub(self._channel)
        self._caches = CacheLifecycleServiceStub(self._channel)
        self._clock = clock or Clock()
        self._health: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_channel.HEALTH_CHECK)
        self._connection = Connection(target, self._batches.ProcessBatch, self._batches.GetBatch, self._clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what is in flight is cancelled. Closing twice is no error."""
        self._connection.closed.set()
        self._channel.close()

    def wait_until_ready(self, timeout: float = 10.0) -> None:
        """Wait until the sidecar can be reached, at most `timeout` seconds. SidecarUnavailableError: it cannot."""
        deadline = self._clock.now() + check_timeout(timeout)
        reached = False
        while not reached:
            try:
                with self._connection.in_use():
                    self._health(b"", timeout=max(deadline - self._clock.now(), 0), wait_for_ready=True)
                reached = True
            except grpc.RpcError as error:
                self._connection.check_open()
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise unavailable(self._target, timeout) from None
                reached = _channel.is_answer(error.code())

    def process_batch(
        self,
        items: Iterable[WorkItem],
        *,
        strategy: str = "",
        batch_id: str = "",
        max_concurrency: int = 0,
        result_order: ResultOrder | str | None = None,
        labels: Mapping[str, str] | None = None,
        resume_after_sequence: int = 0,
        detach: bool = False,
        resume: bool = True,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Batch:
        """Stream items in and iterate over results as they finish.

        Args:
            items: read by another thread as the sidecar takes them. One without a length, such as a generator, may
                block: what it gave before is sent meanwhile.
            strategy: name of the strategy of items that name none.
            batch_id: your name for the batch, at most 256 bytes; empty: the client makes one, see `batch_id` of the
                batch. Of a batch that exists: it goes on; items sent again are recognised by id and content.
            max_concurrency: at most so many of its items in flight; 0: the strategies' own limits.
            result_order: `completion` or `submission`. None: the order of the batch where it exists, else completion.
            labels: free text for the sidecar's logs.
            resume_after_sequence: of a batch that exists: results up to this one were received; those after it come
                again, `replayed`. 0: all of them.
            detach: what the sidecar has accepted goes on when this client goes away; see also `leave()` of the batch.
            resume: ride out broken connections, as far as the client's `resume_policy` goes. False: the first one ends
                the stream with its error.
            timeout: deadline of the whole batch in seconds, broken connections included; None: no limit.
            on_progress: called with each report of the server, by the thread that iterates.

        Raises:
            ValueError: no such result order, no such `timeout`, or `resume_after_sequence` without `batch_id`. What the
                server refuses comes when the batch is entered or iterated.
        """
        self._connection.check_open()
        opening = open_frame(
            batch_id=batch_id,
            strategy=strategy,
            max_concurrency=max_concurrency,
            result_order=result_order,
            labels=labels,
            resume_after_sequence=resume_after_sequence,
            detach=detach,
        )
        outgoing = Outgoing(items, self._limits)
        retries = self._retries(self._policy if resume else None, timeout)
        return Batch(self._connection, outgoing, Incoming(opening, outgoing, retries, on_progress), retries)

    def resume_batch(
        self,
        batch_id: str,
        *,
        after: int = 0,
        resume: bool = True,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Batch:
        """Take up a batch that exists, with no further items: its results after sequence `after`, to its end.

        What the sidecar holds is all there is of the batch from then on. To send items that it does not hold yet, use
        `process_batch` with the `batch_id`. `resume`, `timeout` and `on_progress` are those of `process_batch`.

        Raises:
            BatchNotFoundError: there is none.
        """
        batch = self.get_batch(batch_id)  # opening one that is not there would make it
        return self.process_batch(
            (),
            batch_id=batch_id,
            resume_after_sequence=after,
            detach=batch.detach,
            resume=resume,
            timeout=timeout,
            on_progress=on_progress,
        )

    def process_item(self, item: WorkItem, *, idempotency_key: str = "", timeout: float | None = None) -> Result:
        """Run one item, which must name its strategy; a failed item is a result too.

        Args:
            item: the item.
            idempotency_key: your name for this call, at most 512 bytes. Called again with the same key and item, within
                the journal's retention, it gives the recorded result, `replayed`; so with a key a call whose connection
                broke is made again, as far as the client's `resume_policy` goes. Empty: it is made once.
            timeout: deadline of the call in seconds, further tries included; None: the client's.

        Raises:
            MessageTooLargeError: it was not sent.
            IdempotencyConflictError: the key was used for another item.
        """
        message, _ = encode(item, self._limits.max_message_bytes)
        request = batches_pb2.ProcessItemRequest(item=message, idempotency_key=idempotency_key)
        retries = self._retries(
            self._policy if idempotency_key else None, self._timeout if timeout is None else timeout
        )
        while True:
            try:
                return Result((self._call(self._batches.ProcessItem, request, retries.timeout())).result)
            except BatchLLMClientError as error:
                if self._connection.closed.is_set():
                    raise
                self._clock.wait(self._connection.closed, retries.delay(error))

    def get_batch(self, batch_id: str) -> BatchInfo:
        """Show a batch. BatchNotFoundError: no such id."""
        return (self._call(self._batches.GetBatch, batches_pb2.GetBatchRequest(batch_id=batch_id))).batch

    def list_batches(self, page_size: int = 0) -> Iterator[BatchInfo]:
        """Iterate over all batches by id, ended ones included until their retention is over.

        They are asked for `page_size` at a time, at most 1,000; 0: the server's default, 100.
        """
        request = batches_pb2.ListBatchesRequest(page_size=page_size)
        while True:
            page = self._call(self._batches.ListBatches, request)
            yield from page.batches
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cancel_batch(self, batch_id: str) -> BatchInfo:
        """End a batch: items that have not ended get a result that says CANCELLED. The batch as it is then.

        Cancelling one that has ended is no error. BatchNotFoundError: no such id.
        """
        return (self._call(self._batches.CancelBatch, batches_pb2.CancelBatchRequest(batch_id=batch_id))).batch

    def delete_batch(self, batch_id: str) -> None:
        """Erase a batch that has ended, its prompts and outputs included.

        BatchNotFoundError: no such id. BatchNotFinishedError: it has not ended.
        """
        self._call(self._batches.DeleteBatch, batches_pb2.DeleteBatchRequest(batch_id=batch_id))

    def register_strategy(self, spec: StrategySpec | Mapping[str, Any]) -> tuple[Strategy, bool]:
        """Register a strategy: what is in force, and False if it existed with this very spec.

        `spec` may be a mapping with the keys of `[strategies.NAME]` in the operator's file, see
        `batch_llm_client.strategies.to_spec`. ValueError: a key or type of it is wrong. AlreadyExistsError: the
        name has another spec.
        """
        request = strategies_pb2.RegisterStrategyRequest(spec=to_spec(spec))
        response = self._call(self._strategies.RegisterStrategy, request)
        return response.strategy, response.registered

    def get_strategy(self, name: str) -> Strategy:
        """Show a strategy. NotFoundError: no such name."""
        return self._call(self._strategies.GetStrategy, strategies_pb2.GetStrategyRequest(name=name)).strategy

    def list_strategies(self) -> list[Strategy]:
        """List all strategies by name."""
        return list(self._call(self._strategies.ListStrategies, strategies_pb2.ListStrategiesRequest()).strategies)

    def unregister_strategy(self, name: str) -> None:
        """Remove a strategy that was registered by a client. FailedPreconditionError: from the file, or in use."""
        self._call(self._strategies.UnregisterStrategy, strategies_pb2.UnregisterStrategyRequest(name=name))

    def create_or_reuse_cache(self, strategy: str, ttl: float | None = None) -> tuple[Cache, bool]:
        """Make sure that a strategy's cache exists: the cache, and True if it did.

        `ttl` is the life of a new one in seconds; None: the strategy's.
        """
        request = caches_pb2.CreateOrReuseRequest(strategy=strategy, ttl=None if ttl is None else to_duration(ttl))
        response = self._call(self._caches.CreateOrReuse, request)
        return response.cache, response.reused

    def renew_cache(self, strategy: str, ttl: float | None = None) -> tuple[Cache, bool]:
        """Let a cache live `ttl` seconds from now: the cache, and True if it had ended and was created anew."""
        request = caches_pb2.RenewRequest(strategy=strategy, ttl=None if ttl is None else to_duration(ttl))
        response = self._call(self._caches.Renew, request)
        return response.cache, response.recreated

    def delete_cache(self, strategy: str) -> bool:
        """Delete a strategy's cache: True if there was one."""
        return self._call(self._caches.Delete, caches_pb2.DeleteRequest(strategy=strategy)).deleted

    def get_cache(self, strategy: str) -> Cache:
        """Show a strategy's cache. NotFoundError: there is none."""
        return self._call(self._caches.GetCache, caches_pb2.GetCacheRequest(strategy=strategy)).cache

    def list_caches(self) -> list[Cache]:
        """List all caches that the sidecar holds, expired ones included."""
        return list(self._call(self._caches.ListCaches, caches_pb2.ListCachesRequest()).caches)

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",  # generic in the stubs only
        request: _Request,
        timeout: float | None = None,
    ) -> _Response:
        try:
            with self._connection.in_use():
                return method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from error

    def _retries(self, policy: ResumePolicy | None, timeout: float | None) -> Retries:
        deadline = None if timeout is None else self._clock.now() + check_timeout(timeout)
        return Retries(policy, deadline=deadline, now=self._clock.now, random=self._clock.random)
