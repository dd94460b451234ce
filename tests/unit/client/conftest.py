"""A small sidecar to talk to: a real gRPC server in this process whose answers the tests script."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from batchllm.v1 import batch_service_pb2 as batch_pb2
from batchllm.v1 import cache_lifecycle_service_pb2 as cache_pb2
from batchllm.v1 import strategy_service_pb2 as strategy_pb2
from batchllm.v1 import work_pb2
from batchllm.v1.batch_service_pb2_grpc import BatchServiceServicer, add_BatchServiceServicer_to_server
from batchllm.v1.cache_lifecycle_service_pb2_grpc import (
    CacheLifecycleServiceServicer,
    add_CacheLifecycleServiceServicer_to_server,
)
from batchllm.v1.errors_pb2 import ErrorReason
from batchllm.v1.strategy_service_pb2_grpc import StrategyServiceServicer, add_StrategyServiceServicer_to_server

Response = batch_pb2.ProcessBatchResponse
Script = Callable[[Iterator[batch_pb2.ProcessBatchRequest], grpc.ServicerContext], Iterator[Response]]


class FakeSidecar(BatchServiceServicer, StrategyServiceServicer, CacheLifecycleServiceServicer):
    """Echoes prompts; a prompt `fail` fails. `script`, where set, is a stream's whole behaviour instead."""

    def __init__(self) -> None:
        self.target = ""
        self.max_message_bytes = 4 * 1024 * 1024
        self.script: Script | None = None
        self.refusal: tuple[grpc.StatusCode, str, dict[str, str], float | None] | None = None
        self.opens: list[batch_pb2.OpenBatch] = []
        self.frames: list[batch_pb2.WorkItems] = []
        self.requests: list[object] = []
        self.stream_ended = threading.Event()
        self.strategies: dict[str, strategy_pb2.Strategy] = {}

    @property
    def item_ids(self) -> list[list[str]]:
        return [[item.item_id for item in frame.items] for frame in self.frames]

    # Streams

    def ProcessBatch(self, request_iterator, context):
        context.add_callback(self.stream_ended.set)
        self.refuse_if_told(context)
        yield from (self.script or self.echo)(request_iterator, context)

    def echo(self, requests, context):
        yield self.opened(next(requests))
        totals = work_pb2.BatchResult(cache_hit_rate=50.0, elapsed=Duration(seconds=2, nanos=500_000_000))
        for request in requests:
            self.frames.append(request.items)
            results = [self.result(item, totals) for item in request.items.items]
            yield Response(results=batch_pb2.WorkItemResults(results=results))
            yield Response(progress=batch_pb2.BatchProgress(done=totals.total_items, elapsed=Duration(seconds=1)))
        yield Response(batch_result=totals)

    def opened(self, request):
        self.opens.append(request.open)
        return Response(
            opened=batch_pb2.BatchOpened(
                batch_id=request.open.batch_id or "made-up",
                strategy=request.open.strategy,
                max_concurrency=request.open.max_concurrency or 32,
                result_order=request.open.result_order or batch_pb2.RESULT_ORDER_COMPLETION,
                max_message_bytes=self.max_message_bytes,
                server_version="0.3.0",
            )
        )

    def result(self, item, totals):
        totals.total_items += 1
        result = work_pb2.WorkItemResult(
            item_id=item.item_id,
            submission_index=totals.total_items - 1,
            sequence=totals.total_items,
            usage=work_pb2.TokenUsage(
                input_tokens=10, output_tokens=2, total_tokens=12, cached_input_tokens=5, effective_input_tokens=6
            ),
            attempts=1,
            elapsed=Duration(nanos=250_000_000),
            strategy="echo",
            model="m",
            context=item.context,
        )
        totals.total_input_tokens += 10
        totals.total_cached_tokens += 5
        totals.total_output_tokens += 2
        totals.effective_input_tokens += 6
        if item.prompt == "fail":
            totals.failed += 1
            totals.failures_by_reason["RATE_LIMITED"] += 1
            result.error.reason = ErrorReason.ERROR_REASON_RATE_LIMITED
            result.error.message = "slow down"
            result.error.retryable = True
            result.error.retry_after.seconds = 3
            result.error.metadata["provider"] = "p"
        else:
            totals.succeeded += 1
            result.output.text = item.prompt
            result.output.finish_reason = "stop"
            result.output.safety_ratings["harm"] = "low"
        return result

    # Single calls

    def ProcessItem(self, request, context):
        self.note(request, context)
        return batch_pb2.ProcessItemResponse(result=self.result(request.item, work_pb2.BatchResult()))

    def RegisterStrategy(self, request, context):
        self.note(request, context)
        new = request.spec.name not in self.strategies
        strategy = strategy_pb2.Strategy(spec=request.spec, source=strategy_pb2.STRATEGY_SOURCE_RPC)
        self.strategies.setdefault(request.spec.name, strategy)
        return strategy_pb2.RegisterStrategyResponse(strategy=strategy, registered=new)

    def GetStrategy(self, request, context):
        self.note(request, context)
        return strategy_pb2.GetStrategyResponse(strategy=self.strategies[request.name])

    def ListStrategies(self, request, context):
        self.note(request, context)
        return strategy_pb2.ListStrategiesResponse(strategies=self.strategies.values())

    def UnregisterStrategy(self, request, context):
        self.note(request, context)
        del self.strategies[request.name]
        return strategy_pb2.UnregisterStrategyResponse()

    def CreateOrReuse(self, request, context):
        self.note(request, context)
        return cache_pb2.CreateOrReuseResponse(cache=self.cache(request.strategy), reused=True)

    def Renew(self, request, context):
        self.note(request, context)
        return cache_pb2.RenewResponse(cache=self.cache(request.strategy), recreated=True)

    def Delete(self, request, context):
        self.note(request, context)
        return cache_pb2.DeleteResponse(deleted=True)

    def GetCache(self, request, context):
        self.note(request, context)
        return cache_pb2.GetCacheResponse(cache=self.cache(request.strategy))

    def ListCaches(self, request, context):
        self.note(request, context)
        return cache_pb2.ListCachesResponse(caches=[self.cache("triage")])

    def cache(self, strategy):
        cache = cache_pb2.Cache(
            name="caches/1", strategy=strategy, model="m", total_token_count=1234, state=cache_pb2.CACHE_STATE_ACTIVE
        )
        cache.expire_time.FromJsonString("2026-01-02T03:04:05Z")
        return cache

    def note(self, request, context):
        self.refuse_if_told(context)
        self.requests.append(request)

    def refuse_if_told(self, context):
        if self.refusal is not None:
            code, reason, metadata, retry_after = self.refusal
            context.abort_with_status(rpc_status.to_status(rich_status(code, reason, metadata, retry_after)))


def rich_status(code, reason, metadata, retry_after=None, domain="batchllm.v1"):
    details = [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)]
    if retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for wrapper, detail in zip(packed, details, strict=True):
        wrapper.Pack(detail)
    return status_pb2.Status(code=code.value[0], message="no, because", details=packed)


def serve(sidecar: FakeSidecar, address: str) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    add_BatchServiceServicer_to_server(sidecar, server)
    add_StrategyServiceServicer_to_server(sidecar, server)
    add_CacheLifecycleServiceServicer_to_server(sidecar, server)
    port = server.add_insecure_port(address)
    sidecar.target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    server.start()
    return server


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    fake = FakeSidecar()
    server = serve(fake, "127.0.0.1:0")
    yield fake
    server.stop(None).wait()


@pytest.fixture
def unix_sidecar() -> Iterator[FakeSidecar]:
    fake = FakeSidecar()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        server = serve(fake, f"unix:{Path(folder) / 'x.sock'}")
        yield fake
        server.stop(None).wait()


@pytest.fixture
def make_status():
    """Builds a google.rpc.Status as the real server does."""
    return rich_status
