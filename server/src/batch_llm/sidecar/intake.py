"""From an item on the wire to work for the engine: checks, defaults, duplicates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from batch_llm.executor import Rejection, Work
from batch_llm.model import BatchLLMError, ErrorReason
from batch_llm.shared import SharedStrategy
from batchllm.v1 import work_pb2

from .item_index import ItemIndex, Seen
from .mapping import seconds

MAX_ID_BYTES = 512


class Intake:
    """Takes the items of one stream or call.

    Args:
        default_strategy: for items that name none; empty for none.
        find: the shared strategy of a name; raises `BatchLLMError`.
        index: recognises items that were sent before; None where there can be none.
    """

    def __init__(
        self, default_strategy: str, find: Callable[[str], SharedStrategy], index: ItemIndex | None = None
    ) -> None:
        self._default_strategy = default_strategy
        self._find = find
        self._index = index
        self._loop = asyncio.get_running_loop()

    def take(self, item: work_pb2.WorkItem) -> Work | None:
        """The item as work, rejected if something is wrong with it; None if it was sent before."""
        item_id = item.item_id
        prompt = item.prompt
        strategy = item.strategy or self._default_strategy
        work = Work(item_id, prompt, None, item.context, strategy)
        work.rejection = self._check(item, strategy, work)
        if work.rejection is not None:
            return work
        if item.HasField("timeout") and (timeout := seconds(item.timeout)) > 0:
            work.deadline = self._loop.time() + timeout
        if self._index is not None:
            seen = self._index.add(item_id, strategy, prompt, item.context)
            if seen is Seen.SAME:
                return None
            if seen is Seen.OTHER_CONTENT:
                work.rejection = Rejection(
                    ErrorReason.ITEM_ID_CONFLICT,
                    f"item_id {item_id!r} was sent before in this batch with other content; the first one stands, "
                    "give this one an id of its own",
                )
        return work

    def _check(self, item: work_pb2.WorkItem, strategy: str, work: Work) -> Rejection | None:
        if not item.item_id.strip():
            return _invalid("item_id", "item_id is blank; give each item an id that is unique in its batch")
        if len(item.item_id) > MAX_ID_BYTES or len(item.item_id.encode()) > MAX_ID_BYTES:
            return _invalid("item_id", f"item_id is longer than {MAX_ID_BYTES} bytes; use a shorter one")
        if not item.prompt:
            return _invalid("prompt", "prompt is empty; give the item a prompt")
        if item.HasField("timeout") and seconds(item.timeout) < 0:
            return _invalid("timeout", f"timeout is negative ({seconds(item.timeout):g} s); leave it out for no limit")
        if not strategy:
            return _invalid("strategy", "no strategy is named, neither by the item nor by its stream; name one")
        try:
            work.shared = self._find(strategy)
        except BatchLLMError as error:
            return Rejection(error.reason, str(error), error.metadata)
        return None


def _invalid(field: str, message: str) -> Rejection:
    return Rejection(ErrorReason.INVALID_ITEM, message, {"field": field})
