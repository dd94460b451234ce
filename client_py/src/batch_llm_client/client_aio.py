"""The async client."""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from batch_llm_client import _channel
from batch_llm_client._durations import to_duration
from batch_llm_client._frames import Limits, encode, open_frame
from batch_llm_client._outgoing_aio import AsyncOutgoing
from batch_llm_client.batch_aio import AsyncBatch, task_is_cancelled
from batch_llm_client.errors import cancelled, closed, from_rpc_error, unavailable
from batch_llm_client.model import Progress, Result, ResultOrder, WorkItem
from batch_llm_client.strategies import to_spec
from batchllm.v1 import cache_lifecycle_service_pb2 as caches_pb2
from batchllm.v1 import strategy_service_pb2 as strategies_pb2
from batchllm.v1.batch_service_pb2 import ProcessItemRequest
from batchllm.v1.batch_service_pb2_grpc import BatchServiceStub
from batchllm.v1.cache_lifecycle_service_pb2 import Cache
from batchllm.v1.cache_lifecycle_service_pb2_grpc import CacheLifecycleServiceStub
from batchllm.v1.strategy_service_pb2 import Strategy, StrategySpec
from batchllm.v1.strategy_service_pb2_grpc import StrategyServiceStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncBatchClient:
    """One connection to a sidecar, for one event loop; create it in a coroutine.

    Every method that talks to the sidecar raises a `BatchLLMClientError`, see `batch_llm_client.errors`.

    Args:
        target: the sidecar's address as gRPC takes it: `unix:/run/batch-llm/batch-llm.sock` or `host:port`.
        timeout: deadline of one call in seconds; batches have their own. Default 60.
        max_message_bytes: larger items are refused before sending. Default 16 MiB; the server's limit holds as well.
        frame_items: at most so many items in a frame. Default 64.
        frame_bytes: at most so many bytes in a frame of more than one item. Default 512 KiB.

    Raises:
        RuntimeError: there is no running event loop.
    """

    def __init__(
        self,
        target: str = _channel.DEFAULT_TARGET,
        *,
        timeout: float = _channel.DEFAULT_TIMEOUT,
        max_message_bytes: int = _channel.DEFAULT_MAX_MESSAGE_BYTES,
        frame_items: int = _channel.DEFAULT_FRAME_ITEMS,
        frame_bytes: int = _channel.DEFAULT_FRAME_BYTES,
    ) -> None:
        asyncio.get_running_loop()  # grpc.aio would bind itself to a loop that nobody runs
        self._target = target
        self._timeout = timeout
        self._limits = Limits(frame_items, frame_bytes, max_message_bytes).within(max_message_bytes)
        self._closed = False
        self._connection = grpc.aio.insecure_channel(target, options=_channel.channel_options(max_message_bytes))
        self._batches = BatchServiceStub(self._connection)
        self._strategies = StrategyServiceStub(self._connection)
        self._caches = CacheLifecycleServiceStub(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; what is in flight is cancelled. Closing twice is no error."""
        self._closed = True
        await self._connection.close()

    async def wait_until_ready(self, timeout: float = 10.0) -> None:
        """Wait until the sidecar can be reached, at most `timeout` seconds. SidecarUnavailableError: it cannot."""
        self._check_open()
        try:
            await asyncio.wait_for(self._connection.channel_ready(), timeout)
        except TimeoutError:
            raise unavailable(self._target, timeout) from None

    def process_batch(
        self,
        items: Iterable[WorkItem] | AsyncIterable[WorkItem],
        *,
        strategy: str = "",
        batch_id: str = "",
        max_concurrency: int = 0,
        result_order: ResultOrder | str = ResultOrder.COMPLETION,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AsyncBatch:
        """Stream items in and iterate over results as they finish.

        Args:
            items: read by a task as the sidecar takes them. An async source may wait: what it gave before is sent
                meanwhile. A plain iterable must not block, it would block the event loop.
            strategy: name of the strategy of items that name none.
            batch_id: your name for the batch; empty: the server makes one.
            max_concurrency: at most so many of its items in flight; 0: the strategies' own limits.
            result_order: `completion` (default) or `submission`.
            labels: free text for the sidecar's logs.
            timeout: deadline of the whole batch in seconds; None: no limit.
            on_progress: called with each report of the server, by the task that iterates.

        Raises:
            ValueError: no such result order. What the server refuses comes when the batch is entered or iterated.
        """
        self._check_open()
        opening = open_frame(
            batch_id=batch_id,
            strategy=strategy,
            max_concurrency=max_concurrency,
            result_order=result_order,
            labels=labels,
        )
        outgoing = AsyncOutgoing(opening, items, self._limits)
        call = self._batches.ProcessBatch(outgoing.frames(), timeout=timeout)
        return AsyncBatch(call, outgoing, self._target, on_progress)

    async def process_item(self, item: WorkItem, *, timeout: float | None = None) -> Result:
        """Run one item, which must name its strategy; a failed item is a result too.

        `timeout` is the call's deadline in seconds; None: the client's. MessageTooLargeError: it was not sent.
        """
        message, _ = encode(item, self._limits.max_message_bytes)
        return Result((await self._call(self._batches.ProcessItem, ProcessItemRequest(item=message), timeout)).result)

    async def register_strategy(self, spec: StrategySpec | Mapping[str, Any]) -> tuple[Strategy, bool]:
        """Register a strategy: what is in force, and False if it existed with this very spec.

        `spec` may be a mapping with the keys of `[strategies.NAME]` in the operator's file, see
        `batch_llm_client.strategies.to_spec`. ValueError: a key or type of it is wrong. AlreadyExistsError: the
        name has another spec.
        """
        request = strategies_pb2.RegisterStrategyRequest(spec=to_spec(spec))
        response = await self._call(self._strategies.RegisterStrategy, request)
        return response.strategy, response.registered

    async def get_strategy(self, name: str) -> Strategy:
        """Show a strategy. NotFoundError: no such name."""
        return (await self._call(self._strategies.GetStrategy, strategies_pb2.GetStrategyRequest(name=name))).strategy

    async def list_strategies(self) -> list[Strategy]:
        """List all strategies by name."""
        return list(
            (await self._call(self._strategies.ListStrategies, strategies_pb2.ListStrategiesRequest())).strategies
        )

    async def unregister_strategy(self, name: str) -> None:
        """Remove a strategy that was registered by a client. FailedPreconditionError: from the file, or in use."""
        await self._call(self._strategies.UnregisterStrategy, strategies_pb2.UnregisterStrategyRequest(name=name))

    async def create_or_reuse_cache(self, strategy: str, ttl: float | None = None) -> tuple[Cache, bool]:
        """Make sure that a strategy's cache exists: the cache, and True if it did.

        `ttl` is the life of a new one in seconds; None: the strategy's.
        """
        request = caches_pb2.CreateOrReuseRequest(strategy=strategy, ttl=None if ttl is None else to_duration(ttl))
        response = await self._call(self._caches.CreateOrReuse, request)
        return response.cache, response.reused

    async def renew_cache(self, strategy: str, ttl: float | None = None) -> tuple[Cache, bool]:
        """Let a cache live `ttl` seconds from now: the cache, and True if it had ended and was created anew."""
        request = caches_pb2.RenewRequest(strategy=strategy, ttl=None if ttl is None else to_duration(ttl))
        response = await self._call(self._caches.Renew, request)
        return response.cache, response.recreated

    async def delete_cache(self, strategy: str) -> bool:
        """Delete a strategy's cache: True if there was one."""
        return (await self._call(self._caches.Delete, caches_pb2.DeleteRequest(strategy=strategy))).deleted

    async def get_cache(self, strategy: str) -> Cache:
        """Show a strategy's cache. NotFoundError: there is none."""
        return (await self._call(self._caches.GetCache, caches_pb2.GetCacheRequest(strategy=strategy))).cache

    async def list_caches(self) -> list[Cache]:
        """List all caches that the sidecar holds, expired ones included."""
        return list((await self._call(self._caches.ListCaches, caches_pb2.ListCachesRequest())).caches)

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]",  # generic in the stubs only
        request: _Request,
        timeout: float | None = None,
    ) -> _Response:
        self._check_open()
        try:
            return await method(request, timeout=self._timeout if timeout is None else timeout)
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise cancelled(self._target) from None
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._target) from error

    def _check_open(self) -> None:
        if self._closed:
            raise closed(self._target)
