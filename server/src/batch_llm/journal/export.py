"""What can be read of a journal, as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from batchllm.v1 import batch_service_pb2, strategy_service_pb2

from .store import Damaged, Items, JournalStore, Registration, Results


async def lines(store: JournalStore, batch_id: str | None, damaged: Damaged) -> AsyncIterator[dict[str, Any]]:
    """Objects with `strategy`, or with `batch_id` and `item` (with `index`) or `result`.

    By the field names of proto/batchllm/v1.

    Args:
        store: an open store.
        batch_id: of this batch only; None: of all, and the registered strategies.
        damaged: told of what cannot be read.
    """
    if batch_id is None:
        for registration in await store.strategies(damaged=damaged):
            for line in _strategy(registration, damaged):
                yield line
    ids = [batch_id] if batch_id is not None else [each async for each in store.ids(damaged=damaged)]
    for each in ids:
        async for items in store.items(each, damaged=damaged):
            for line in _items(items, damaged):
                yield line
        async for results in store.results(each, damaged=damaged):
            for line in _results(results, damaged):
                yield line


def _strategy(record: Registration, damaged: Damaged) -> list[dict[str, Any]]:
    try:
        message = strategy_service_pb2.StrategySpec.FromString(record.spec)
    except DecodeError as error:
        damaged(f"strategy {record.name!r} is no message: {error}")
        return []
    return [{"strategy": MessageToDict(message, preserving_proto_field_name=True)}]


def _items(record: Items, damaged: Damaged) -> list[dict[str, Any]]:
    try:
        message = batch_service_pb2.WorkItems.FromString(record.payload)
    except DecodeError as error:
        damaged(f"batch {record.batch_id!r}: items from {record.first_index} on are no message: {error}")
        return []
    return [
        {"batch_id": record.batch_id, "index": index, "item": MessageToDict(item, preserving_proto_field_name=True)}
        for index, item in enumerate(message.items, record.first_index)
    ]


def _results(record: Results, damaged: Damaged) -> list[dict[str, Any]]:
    try:
        message = batch_service_pb2.WorkItemResults.FromString(record.payload)
    except DecodeError as error:
        damaged(f"batch {record.batch_id!r}: results to {max(record.sequences)} are no message: {error}")
        return []
    return [
        {"batch_id": record.batch_id, "result": MessageToDict(result, preserving_proto_field_name=True)}
        for result in message.results
    ]
