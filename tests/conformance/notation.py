"""How cases are written: what stands for many or long values, and how messages read."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import duration_pb2, json_format, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1 import cache_lifecycle_service_pb2, errors_pb2, strategy_service_pb2

RUN = "{run}"
"""Stands for what tells this run of a case from all others, in names that a sidecar keeps."""
REASON_PREFIX = "ERROR_REASON_"

METHODS: Mapping[str, tuple[type[Message], type[Message]]] = {
    method.name: (
        getattr(file, method.input_type.name),
        getattr(file, method.output_type.name),
    )
    for file in (pb, strategy_service_pb2, cache_lifecycle_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "ProcessBatch"
}
"""Unary RPCs by name: their request and response."""


def expand(value: Any, *, run: str = RUN, most: int | None = None) -> Any:
    """Write out what is abbreviated.

    `{repeat: text, times: n}` is a long text, `{count: n, each: value, from: 0}` a list in which `{n}` is a number,
    and an item's `simulate` its prompt.

    Args:
        value: from a case.
        run: what `{run}` stands for.
        most: of any repetition at most so many, to look at a case without running it.
    """

    def walk(value: Any, number: str) -> Any:
        if isinstance(value, str):
            return value.replace(RUN, run).replace("{n}", number)
        if isinstance(value, list):
            return [walk(entry, number) for entry in value]
        if not isinstance(value, Mapping):
            return value
        keys = value.keys()
        if keys == {"repeat", "times"}:
            return walk(value["repeat"], number) * _capped(value["times"], most)
        if {"count", "each"} <= keys <= {"count", "each", "from"}:
            first = value.get("from", 0)
            return [walk(value["each"], str(n)) for n in range(first, first + _capped(value["count"], most))]
        if "simulate" in keys:
            value = {**value, "prompt": json.dumps({"simulate": walk(value["simulate"], number)})}
            del value["simulate"]
            # Only once: what a prompt says is not to be looked through again.
            return {key: entry if key == "prompt" else walk(entry, number) for key, entry in value.items()}
        return {key: walk(entry, number) for key, entry in value.items()}

    return walk(value, "{n}")


def parse(message: Message, value: Any) -> Any:
    """A message from protobuf's JSON.

    Raises:
        ValueError: it is none of this message.
    """
    try:
        return json_format.ParseDict(value, message)
    except json_format.ParseError as error:
        raise ValueError(f"no {message.DESCRIPTOR.name}: {error}") from None


def plain(message: Message) -> dict[str, Any]:
    """A message as a case writes it: all fields by their name in the `.proto`, durations and times in seconds.

    Messages that are absent are left out, as are `optional` fields.
    """
    shown = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            shown[field.name] = _many(field, value)
        elif not field.has_presence or message.HasField(field.name):
            shown[field.name] = _one(field, value)
    return shown


def reason_name(number: int) -> str:
    return errors_pb2.ErrorReason.Name(number).removeprefix(REASON_PREFIX)  # type: ignore[arg-type]


def _capped(count: int, most: int | None) -> int:
    return count if most is None else min(count, most)


def _many(field: FieldDescriptor, value: Any) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return {key: _one(entry.fields_by_name["value"], value[key]) for key in value}
    return [_one(field, element) for element in value]


def _one(field: FieldDescriptor, value: Any) -> Any:
    match value:
        case duration_pb2.Duration():
            return value.ToNanoseconds() / 1e9
        case timestamp_pb2.Timestamp():
            return value.ToNanoseconds() / 1e9
        case Message():
            return plain(value)
        case bytes():
            return base64.b64encode(value).decode()
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    return value
