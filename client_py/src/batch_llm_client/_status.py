"""Reads `google.rpc.Status` details without googleapis-common-protos.

Only the field numbers matter on the wire, so the four messages are declared here, in a pool of their own: the real
ones may be loaded into the default pool of the same process and must not collide.
Source: https://github.com/googleapis/googleapis/blob/master/google/rpc/{status,error_details}.proto
"""

from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

DETAILS_KEY: Final = "grpc-status-details-bin"
DOMAIN: Final = "batchllm.v1"

_PACKAGE: Final = "batch_llm_client.status"
_Field = descriptor_pb2.FieldDescriptorProto
_ERROR_INFO_URL: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_RETRY_INFO_URL: Final = "type.googleapis.com/google.rpc.RetryInfo"


@dataclass(frozen=True, slots=True)
class StatusDetails:
    """What a status says beyond code and message; `retry_after` is in seconds."""

    reason: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None


def parse_details(serialized: bytes) -> StatusDetails:
    """Read ErrorInfo (of this protocol's domain) and RetryInfo; what is unknown or broken is passed over."""
    reason: str | None = None
    metadata: dict[str, str] = {}
    retry_after: float | None = None
    try:
        for detail in _parse(_Status, serialized).details:
            if detail.type_url == _ERROR_INFO_URL:
                info = _parse(_ErrorInfo, detail.value)
                if info.domain == DOMAIN:
                    reason, metadata = info.reason, {entry.key: entry.value for entry in info.metadata}
            elif detail.type_url == _RETRY_INFO_URL:
                delay = _parse(_RetryInfo, detail.value).retry_delay
                retry_after = delay.seconds + delay.nanos / 1e9
    except DecodeError:
        pass  # a proxy's garbage must not hide the status itself
    return StatusDetails(reason, metadata, retry_after)


def _parse(message_class: type[Message], serialized: bytes) -> Any:
    return message_class.FromString(serialized)


def _message_classes() -> tuple[type[Message], ...]:
    # A map is, on the wire, a repeated message of key and value.
    shapes: dict[str, list[tuple[str, int, Any]]] = {
        "Any": [("type_url", 1, _Field.TYPE_STRING), ("value", 2, _Field.TYPE_BYTES)],
        "Duration": [("seconds", 1, _Field.TYPE_INT64), ("nanos", 2, _Field.TYPE_INT32)],
        "Entry": [("key", 1, _Field.TYPE_STRING), ("value", 2, _Field.TYPE_STRING)],
        "Status": [("details", 3, "Any*")],
        "ErrorInfo": [("reason", 1, _Field.TYPE_STRING), ("domain", 2, _Field.TYPE_STRING), ("metadata", 3, "Entry*")],
        "RetryInfo": [("retry_delay", 1, "Duration")],
    }
    file = descriptor_pb2.FileDescriptorProto(name="batch_llm_client/status.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in shapes.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            declared = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if isinstance(kind, str):
                declared.type = _Field.TYPE_MESSAGE
                declared.type_name = f".{_PACKAGE}.{kind.removesuffix('*')}"
                if kind.endswith("*"):
                    declared.label = _Field.LABEL_REPEATED
            else:
                declared.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in ("Status", "ErrorInfo", "RetryInfo")
    )


_Status, _ErrorInfo, _RetryInfo = _message_classes()
