"""What a case expects, against what came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1 import work_pb2

from .adapter import Answer, shortened
from .notation import METHODS, parse, plain, reason_name

# The other fields of a result are looked at only where a case names them.
_OUTPUT = {"text": "", "finish_reason": "stop", "safety_ratings": {}, "attempts": 1}
_FAILURE = {"reason": "", "metadata": {}, "retryable": False, "retry_after": None, "attempts": 0}
_ALWAYS = {"context": "", "replayed": False, "maybe_billed": False}
_ERROR = {
    "code": None,
    "reason": None,
    "metadata": {},
    "retry_after": None,
    "item_id": None,
    "size": None,
    "limit": None,
}
_MESSAGES: Mapping[str, type[Message]] = {
    "opened": pb.BatchOpened,
    "accepted": pb.ItemsAccepted,
    "progress": pb.BatchProgress,
    "totals": work_pb2.BatchResult,
}
RESULTS = "results"
ANY_ORDER = "results_in_any_order"
# What an answer has is expected; these are not, unless a case names them.
_INCIDENTAL = {"frames", "opened", "accepted", "progress", "batch_id", "last_sequence", "taken", "items", "response"}


def readable(answer: Answer, method: str | None = None) -> Answer:
    """An answer with its messages as cases write them.

    Args:
        answer: the adapter's.
        method: of the call that it answers.

    Raises:
        ValueError: what should be a message is none.
    """
    shown = dict(answer)
    for key, kind in _MESSAGES.items():
        if key in answer:
            shown[key] = plain(parse(kind(), answer[key]))
    if RESULTS in answer:
        shown[RESULTS] = [result(parse(work_pb2.WorkItemResult(), one)) for one in answer[RESULTS]]
    if "response" in answer and method is not None:
        shown["response"] = plain(parse(METHODS[method][1](), answer["response"]))
        if method == "ProcessItem":
            message = parse(pb.ProcessItemResponse(), answer["response"])
            shown["response"] = {"result": result(message.result)}
    return shown


def result(message: work_pb2.WorkItemResult) -> dict[str, Any]:
    """A result, flat: the fields of its output or error beside its own."""
    shown = plain(message)
    outcome = shown.pop("output", None)
    failure = shown.pop("error", None)
    if failure is not None:
        outcome = {"retry_after": None, **failure, "reason": reason_name(message.error.reason)}
    return {**shown, **(outcome or {"outcome": "none"})}


def differences(expected: Mapping[str, Any], answer: Answer) -> Iterator[str]:
    """Where an answer is not as expected; nothing if it is."""
    wanted = dict(expected)
    if ANY_ORDER in wanted:
        wanted[RESULTS] = _by_name(wanted.pop(ANY_ORDER))
        answer = {**answer, RESULTS: _by_name(answer.get(RESULTS, []))}
    for key in sorted(answer.keys() - wanted.keys() - _INCIDENTAL):
        if answer[key] or key != RESULTS:
            yield f"{key}: nothing was expected, there is {shortened(answer[key])}"
    for key, value in wanted.items():
        if key not in answer and value != []:
            yield f"{key}: expected {shortened(value)}, there is none"
        elif key == "error":
            yield from _exactly({**_ERROR, **value}, {**_ERROR, **answer[key]}, key)
        elif key == RESULTS and isinstance(value, list):
            yield from _results(value, answer.get(RESULTS, []))
        elif key == "response" and "result" in value:
            yield from _exactly(_whole(value["result"]), answer[key]["result"], "result")
        else:
            yield from _as_far_as_named(value, answer[key], key)


def _results(wanted: list[dict[str, Any]], came: list[dict[str, Any]]) -> Iterator[str]:
    if len(wanted) != len(came):
        names = [one["item_id"] for one in came]
        yield f"{len(wanted)} result(s) were expected, there are {len(came)}: {shortened(names)}"
        return
    for number, (one, other) in enumerate(zip(wanted, came, strict=True)):
        yield from _exactly(_whole(one), other, f"results[{number}]")


def _whole(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A result that is expected, with what goes without saying."""
    return {**(_FAILURE if "reason" in wanted else _OUTPUT), **_ALWAYS, **wanted}


def _exactly(wanted: Mapping[str, Any], came: Mapping[str, Any], where: str) -> Iterator[str]:
    """All that is wanted, and maps without more."""
    for key, value in wanted.items():
        other = came.get(key)
        if key in ("metadata", "safety_ratings") and isinstance(other, Mapping) and value.keys() != other.keys():
            yield f"{where}.{key}: expected {shortened(value)}, there is {shortened(other)}"
        else:
            yield from _as_far_as_named(value, other, f"{where}.{key}")


def _as_far_as_named(wanted: Any, came: Any, where: str) -> Iterator[str]:
    if isinstance(wanted, Mapping) and any(key.startswith("$") for key in wanted):
        if not _holds(wanted, came):
            yield f"{where}: expected {shortened(wanted)}, there is {shortened(came)}"
    elif isinstance(wanted, Mapping) and isinstance(came, Mapping):
        for key, value in wanted.items():
            yield from _as_far_as_named(value, came.get(key), f"{where}.{key}")
    elif isinstance(wanted, list) and isinstance(came, list) and len(wanted) == len(came):
        for number, (one, other) in enumerate(zip(wanted, came, strict=True)):
            yield from _as_far_as_named(one, other, f"{where}[{number}]")
    elif wanted != came or isinstance(wanted, bool) != isinstance(came, bool):
        yield f"{where}: expected {shortened(wanted)}, there is {shortened(came)}"


OPERATORS = ("$contains", "$below", "$above", "$absent", "$any")


def _holds(wanted: Mapping[str, Any], came: Any) -> bool:
    for operator, value in wanted.items():
        match operator:
            case "$contains":
                held = came is not None and value in came
            case "$below":
                held = came is not None and came < value
            case "$above":
                held = came is not None and came > value
            case "$absent":
                held = came is None
            case _:
                held = came is not None
        if not held:
            return False
    return True


def _by_name(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(results, key=lambda one: (one["item_id"], "reason" in one))
