"""What both Python clients are given, and what they show to their users, as messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from google.protobuf import duration_pb2, json_format
from google.protobuf.message import Message

from batch_llm_client import BatchLLMClientError, MessageTooLargeError, Receipt, Result, ResumePolicy, Totals, WorkItem
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1 import cache_lifecycle_service_pb2 as caches
from batchllm.v1 import strategy_service_pb2 as strategies
from batchllm.v1 import work_pb2
from tests.conformance.notation import METHODS, REASON_PREFIX

_ORDERS = {pb.RESULT_ORDER_COMPLETION: "completion", pb.RESULT_ORDER_SUBMISSION: "submission"}

# How a call is made, and the response that what it gives stands for. With the async client calls are awaited.
_CALLS: Mapping[str, tuple[Callable[..., Any], Callable[[Any], Message]]] = {
    "ProcessItem": (
        lambda client, request, timeout=None: client.process_item(
            item(request.item), idempotency_key=request.idempotency_key, timeout=timeout
        ),
        lambda got: pb.ProcessItemResponse(result=_message(work_pb2.WorkItemResult(), result(got))),
    ),
    "GetBatch": (
        lambda client, request: client.get_batch(request.batch_id),
        lambda got: pb.GetBatchResponse(batch=got),
    ),
    "ListBatches": (
        lambda client, request: client.list_batches(request.page_size),
        lambda got: pb.ListBatchesResponse(batches=got),
    ),
    "CancelBatch": (
        lambda client, request: client.cancel_batch(request.batch_id),
        lambda got: pb.CancelBatchResponse(batch=got),
    ),
    "DeleteBatch": (lambda client, request: client.delete_batch(request.batch_id), lambda _: pb.DeleteBatchResponse()),
    "RegisterStrategy": (
        lambda client, request: client.register_strategy(request.spec),
        lambda got: strategies.RegisterStrategyResponse(strategy=got[0], registered=got[1]),
    ),
    "GetStrategy": (
        lambda client, request: client.get_strategy(request.name),
        lambda got: strategies.GetStrategyResponse(strategy=got),
    ),
    "ListStrategies": (
        lambda client, request: client.list_strategies(),
        lambda got: strategies.ListStrategiesResponse(strategies=got),
    ),
    "UnregisterStrategy": (
        lambda client, request: client.unregister_strategy(request.name),
        lambda _: strategies.UnregisterStrategyResponse(),
    ),
    "CreateOrReuse": (
        lambda client, request: client.create_or_reuse_cache(request.strategy, _ttl(request)),
        lambda got: caches.CreateOrReuseResponse(cache=got[0], reused=got[1]),
    ),
    "Renew": (
        lambda client, request: client.renew_cache(request.strategy, _ttl(request)),
        lambda got: caches.RenewResponse(cache=got[0], recreated=got[1]),
    ),
    "Delete": (
        lambda client, request: client.delete_cache(request.strategy),
        lambda got: caches.DeleteResponse(deleted=got),
    ),
    "GetCache": (
        lambda client, request: client.get_cache(request.strategy),
        lambda got: caches.GetCacheResponse(cache=got),
    ),
    "ListCaches": (lambda client, request: client.list_caches(), lambda got: caches.ListCachesResponse(caches=got)),
}


class CountedList:
    """Items as a list has them, counted as they are taken."""

    def __init__(self, items: list[WorkItem]) -> None:
        self._items = items
        self.taken = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[WorkItem]:
        for item in self._items:
            self.taken += 1
            yield item


def call(client: Any, method: str, request: object, timeout: float | None) -> Any:
    """Make a call, as a user would."""
    message = json_format.ParseDict(request, METHODS[method][0]())
    return _CALLS[method][0](client, message, **({} if timeout is None else {"timeout": timeout}))


def response(method: str, got: Any) -> dict[str, Any]:
    """The answer to a call."""
    return {"response": json_format.MessageToDict(_CALLS[method][1](got))}


def policy(bounds: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of a client."""
    return {} if bounds is None else {"resume_policy": ResumePolicy(**bounds)}


def opening(open: object) -> dict[str, Any]:
    """Options of `process_batch`."""
    message = json_format.ParseDict(open, pb.OpenBatch())
    options = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    options["result_order"] = _ORDERS.get(message.result_order)
    return options


def items(wire: Iterable[object]) -> list[WorkItem]:
    return [item(json_format.ParseDict(one, work_pb2.WorkItem())) for one in wire]


def item(message: work_pb2.WorkItem) -> WorkItem:
    timeout = message.timeout.ToNanoseconds() / 1e9 if message.HasField("timeout") else None
    return WorkItem(message.item_id, message.prompt, message.strategy, message.context, timeout)


def result(got: Result) -> dict[str, Any]:
    """A WorkItemResult of what users see."""
    shown = {
        "item_id": got.item_id,
        "submission_index": got.submission_index,
        "sequence": got.sequence,
        "usage": asdict(got.usage),
        "attempts": got.attempts,
        "elapsed": _duration(got.elapsed),
        "strategy": got.strategy,
        "model": got.model,
        "context": json_format.MessageToDict(work_pb2.WorkItem(context=got.context)).get("context", ""),
        "replayed": got.replayed,
        "maybe_billed": got.maybe_billed,
        "receipt": _receipt(got.receipt),
    }
    if got.ok:
        shown["output"] = {
            "text": got.text,
            "finish_reason": got.finish_reason,
            "safety_ratings": got.safety_ratings,
        }
    if got.error is not None:
        failure = {**asdict(got.error), "reason": REASON_PREFIX + got.error.reason}
        failure["retry_after"] = None if got.error.retry_after is None else _duration(got.error.retry_after)
        shown["error"] = failure
    return shown


def totals(got: Totals) -> dict[str, Any]:
    """A BatchResult."""
    shown = {field.name: getattr(got, field.name) for field in fields(got)}
    shown["elapsed"] = _duration(got.elapsed)
    shown["receipt"] = None if got.receipt is None else _receipt(got.receipt)
    return shown


def opened(got: Any) -> dict[str, Any]:
    """A BatchOpened."""
    return {**asdict(got), "result_order": f"RESULT_ORDER_{got.result_order.name}"}


def status(batch: Any, taken: int) -> dict[str, Any]:
    shown = {"batch_id": batch.batch_id, "last_sequence": batch.last_sequence, "taken": taken}
    if batch.progress is not None:
        shown["progress"] = {**asdict(batch.progress), "elapsed": _duration(batch.progress.elapsed)}
    return shown


def error(failure: BaseException) -> dict[str, Any] | None:
    """None: it is no error that users are promised."""
    match failure:
        case BatchLLMClientError():
            shown = {name: getattr(failure, name) for name in ("code", "message", "reason", "metadata", "retry_after")}
            if isinstance(failure, MessageTooLargeError):
                shown |= {"item_id": failure.item_id, "size": failure.size, "limit": failure.limit}
            return shown
        case ValueError() | RuntimeError():
            return {"code": "REFUSED", "message": str(failure)}
    return None


def _receipt(got: Receipt) -> dict[str, Any]:
    shown = {name: value for name, value in asdict(got).items() if value is not None}
    if got.price_date is not None:
        shown["price_date"] = got.price_date.isoformat()
    return {**shown, "advice": list(got.advice)}


def _message(message: Any, wire: object) -> Any:
    return json_format.ParseDict(wire, message)


def _duration(seconds: float) -> str:
    message = duration_pb2.Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message.ToJsonString()


def _ttl(request: Any) -> float | None:
    return request.ttl.ToNanoseconds() / 1e9 if request.HasField("ttl") else None
