"""A small sidecar to talk to: a real gRPC server in this process whose answers the tests script."""

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
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


@pytest.fixture(autouse=True)
def interruptible() -> None:
    """SIGINT is not ignored, as it is in what a shell runs in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Log:
    """A batch in the journal."""

    opening: batch_pb2.OpenBatch
    stream: grpc.ServicerContext | None = None
    items: dict[str, work_pb2.WorkItem] = field(default_factory=dict)
    results: list[work_pb2.WorkItemResult] = field(default_factory=list)
    totals: work_pb2.BatchResult = field(
        default_factory=lambda: work_pb2.BatchResult(
            cache_hit_rate=50.0, elapsed=Duration(seconds=2, nanos=500_000_000)
        )
    )
    sealed: bool = False
    cancelled: bool = False


@dataclass
class Fault:
    """Ends one stream, at the first moment of that kind when its batch has so many items or results.

    Moments: `items` read and not yet accepted, `accepted` sent, `result` sent, `totals` sent.
    """

    moment: str
    count: int = 0
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    reason: str = ""
    retry_after: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)


class FakeSidecar(BatchServiceServicer, StrategyServiceServicer, CacheLifecycleServiceServicer):
    """Echoes prompts; a prompt `fail` fails. `script`, where set, is a stream's whole behaviour instead.

    It keeps a journal: `journal`, which outlives a restart (`stop`, `start`) unless a test empties it. A batch belongs
    to its newest stream: what an older one still does leaves no trace.
    """

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
        self.durable = True
        self.journal: dict[str, Log] = {}
        self.faults: list[Fault] = []
        self.refusals: list[Fault] = []
        self.received: list[list[str]] = []
        self._server: grpc.Server | None = None
        self._journal_lock = threading.Lock()

    def start(self, address: str = "") -> None:
        """Serve at `address`, or where it was before."""
        address = address or self.target
        server = self._server = grpc.server(ThreadPoolExecutor(max_workers=8))
        add_BatchServiceServicer_to_server(self, server)
        add_StrategyServiceServicer_to_server(self, server)
        add_CacheLifecycleServiceServicer_to_server(self, server)
        port = server.add_insecure_port(address)
        self.target = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        server.start()

    def stop(self) -> None:
        """Break all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(None).wait()

    @property
    def item_ids(self) -> list[list[str]]:
        return [[item.item_id for item in frame.items] for frame in self.frames]

    # Streams

    def ProcessBatch(self, request_iterator, context):
        at_the_end(context, self.stream_ended)
        self.refuse_if_told(context)
        yield from (self.script or self.echo)(request_iterator, context)

    def echo(self, requests, context):
        opening = next(requests).open
        if self.refusals:
            self.abort(context, self.refusals.pop(0))
        log = self.journal.setdefault(opening.batch_id, Log(opening))
        if opening.resume_after_sequence > len(log.results):
            told = {"field": "resume_after_sequence"}
            self.abort(context, Fault("", 0, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", metadata=told))
        with self._journal_lock:
            log.stream = context
        yield self.opened(opening, log)
        for recorded in log.results[opening.resume_after_sequence :]:
            replayed = work_pb2.WorkItemResult()
            replayed.CopyFrom(recorded)
            replayed.replayed = True
            yield Response(results=batch_pb2.WorkItemResults(results=[replayed]))
        received: list[str] = []
        self.received.append(received)
        yield from self.run(log, context)
        for request in requests:
            self.frames.append(request.items)
            received += [item.item_id for item in request.items.items]
            self.fail_at("items", len(log.items), context)
            new = [item for item in request.items.items if item.item_id not in log.items]
            log.items.update({item.item_id: item for item in new})
            yield Response(accepted=batch_pb2.ItemsAccepted(items=len(log.items), received=len(received)))
            self.fail_at("accepted", len(log.items), context)
            yield from self.run(log, context)
            yield Response(progress=batch_pb2.BatchProgress(done=log.totals.total_items, elapsed=Duration(seconds=1)))
        log.sealed = True
        yield from self.run(log, context)
        yield Response(batch_result=log.totals)
        self.fail_at("totals", 0, context)

    def run(self, log, context):
        """Each item once, in order; a frame for each result."""
        for item in list(log.items.values())[len(log.results) :]:
            with self._journal_lock:
                if log.stream is not context:
                    return
                result = self.result(item, log.totals)
                log.results.append(result)
            yield Response(results=batch_pb2.WorkItemResults(results=[result]))
            self.fail_at("result", len(log.results), context)

    def fail_at(self, moment, count, context):
        if self.faults and self.faults[0].moment == moment and count >= self.faults[0].count:
            self.abort(context, self.faults.pop(0))

    def abort(self, context, fault):
        if fault.reason:
            status = rich_status(fault.code, fault.reason, fault.metadata, fault.retry_after)
            context.abort_with_status(rpc_status.to_status(status))
        context.abort(fault.code, "dropped")

    def opened(self, opening, log=None):
        self.opens.append(opening)
        return Response(
            opened=batch_pb2.BatchOpened(
                batch_id=opening.batch_id,
                strategy=opening.strategy,
                max_concurrency=opening.max_concurrency or 32,
                result_order=opening.result_order or batch_pb2.RESULT_ORDER_COMPLETION,
                max_message_bytes=self.max_message_bytes,
                server_version="0.3.0",
                items=len(log.items) if log else 0,
                last_sequence=len(log.results) if log else 0,
                durable=self.durable,
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

    # Batches

    def GetBatch(self, request, context):
        self.note(request, context)
        return batch_pb2.GetBatchResponse(batch=self.info(self.log(request.batch_id, context)))

    def ListBatches(self, request, context):
        self.note(request, context)
        ids = sorted(batch_id for batch_id in self.journal if batch_id > request.page_token)
        page = ids[: request.page_size or 100]
        return batch_pb2.ListBatchesResponse(
            batches=[self.info(self.journal[batch_id]) for batch_id in page],
            next_page_token=page[-1] if len(ids) > len(page) else "",
        )

    def CancelBatch(self, request, context):
        self.note(request, context)
        log = self.log(request.batch_id, context)
        log.cancelled = True
        return batch_pb2.CancelBatchResponse(batch=self.info(log))

    def DeleteBatch(self, request, context):
        self.note(request, context)
        log = self.log(request.batch_id, context)
        if not (log.sealed or log.cancelled):
            self.abort(context, Fault("", 0, grpc.StatusCode.FAILED_PRECONDITION, "BATCH_NOT_FINISHED"))
        del self.journal[request.batch_id]
        return batch_pb2.DeleteBatchResponse()

    def log(self, batch_id, context):
        if batch_id not in self.journal:
            self.abort(context, Fault("", 0, grpc.StatusCode.NOT_FOUND, "BATCH_NOT_FOUND"))
        return self.journal[batch_id]

    def info(self, log):
        state = batch_pb2.BATCH_STATE_FINISHED if log.sealed else batch_pb2.BATCH_STATE_OPEN
        return batch_pb2.BatchInfo(
            batch_id=log.opening.batch_id,
            state=batch_pb2.BATCH_STATE_CANCELLED if log.cancelled else state,
            detach=log.opening.detach,
            update_time=Timestamp(seconds=1_767_323_045),
            items=len(log.items),
            done=len(log.results),
            failed=log.totals.failed,
            last_sequence=len(log.results),
            labels=log.opening.labels,
        )

    # Single calls

    def ProcessItem(self, request, context):
        self.note(request, context)
        if self.refusals:
            self.abort(context, self.refusals.pop(0))
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


def at_the_end(context: grpc.ServicerContext, ended: threading.Event) -> threading.Event:
    """Have `ended` set at a stream's end, though that has come already."""
    if not context.add_callback(ended.set):
        ended.set()
    return ended


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


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    fake = FakeSidecar()
    fake.start("127.0.0.1:0")
    yield fake
    fake.stop()


@pytest.fixture
def unix_sidecar() -> Iterator[FakeSidecar]:
    fake = FakeSidecar()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        fake.start(f"unix:{Path(folder) / 'x.sock'}")
        yield fake
        fake.stop()


@pytest.fixture
def make_status():
    """Builds a google.rpc.Status as the real server does."""
    return rich_status
