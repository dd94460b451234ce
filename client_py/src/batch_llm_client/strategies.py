"""Strategy specs from plain mappings: the keys of `[strategies.NAME]` in the operator's file."""

import json
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence
from typing import Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from batch_llm_client._durations import to_duration
from batchllm.v1.strategy_service_pb2 import StrategySpec

_T = TypeVar("_T")

# By the type that protobuf shows a field with. A bool is an int to Python, but not to a reader of TOML.
_SCALARS: Final[Mapping[type, tuple[str, tuple[type, ...]]]] = {
    str: ("a string", (str,)),
    bool: ("true or false", (bool,)),
    int: ("an integer", (int,)),
    float: ("a number", (int, float)),
}


def to_spec(spec: StrategySpec | Mapping[str, Any]) -> StrategySpec:
    """Give the protobuf spec of a mapping; a StrategySpec is given back as it is.

    Keys are the spec's fields, those that are durations with the suffix `_seconds`; `retry` and `generation` are
    mappings again; `output_json_schema` is JSON text or a mapping. The sidecar checks ranges and names.

    Raises:
        ValueError: an unknown key or a value of the wrong type; the message names the key and what is known.
    """
    if isinstance(spec, StrategySpec):
        return spec
    values = dict(spec)
    if isinstance(schema := values.get("output_json_schema"), Mapping):
        values["output_json_schema"] = json.dumps(schema)
    message = StrategySpec()
    _fill(message, values, path="")
    return message


def _fill(message: Message, values: Mapping[str, Any], path: str) -> None:
    fields = {
        f"{name}_seconds" if isinstance(getattr(message, name), Duration) else name: name
        for name in message.DESCRIPTOR.fields_by_name
    }
    for key, value in values.items():
        if key not in fields:
            raise ValueError(f"unknown key {f'{path}{key}'!r}; known: {', '.join(path + known for known in fields)}")
        _set(message, fields[key], value, f"{path}{key}")


def _set(message: Message, name: str, value: Any, path: str) -> None:
    field = getattr(message, name)
    if isinstance(field, Duration):
        _check_scalar(value, float, path)
        field.CopyFrom(_in_range(to_duration, value, path))
    elif isinstance(field, Message):
        _require(isinstance(value, Mapping), "a table", value, path)
        _fill(field, value, f"{path}.")
    elif isinstance(field, MutableMapping):
        _require(
            isinstance(value, Mapping) and _all_text([*value.keys(), *value.values()]),
            "a table of strings",
            value,
            path,
        )
        field.update(value)
    elif isinstance(field, MutableSequence):
        _require(isinstance(value, list | tuple) and _all_text(value), "a list of strings", value, path)
        field.extend(value)
    else:
        _check_scalar(value, type(field), path)
        _in_range(lambda checked: setattr(message, name, checked), value, path)


def _check_scalar(value: Any, kind: type, path: str) -> None:
    words, types = _SCALARS[kind]
    _require(isinstance(value, types) and (kind is bool or not isinstance(value, bool)), words, value, path)


def _all_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _require(condition: bool, words: str, value: Any, path: str) -> None:
    if not condition:
        raise ValueError(f"{path} must be {words}, not {value!r}")


def _in_range(convert: Callable[[Any], _T], value: Any, path: str) -> _T:
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
