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
# No strategy has such a name: in the journal it is before the name of one that was unknown when the item came.
_UNKNOWN = "!"


class Intake:
    """Takes the items of one batch or call.

    Args:
        default_strategy: for items that name none; empty for none.
        find: the shared strategy of a name; raises `BatchLLMError`.
        index: recognises items that were sent before; None where there can be none.
    """

    def __init__(
        self, default_strategy: str, find: Callable[[str], SharedStrategy], index: ItemIndex | None = None
    ) -> None:
        self.default_strategy = default_strategy
        self.index = index
        self._find = find
        self._loop = asyncio.get_running_loop()

    def take(self, item: work_pb2.WorkItem) -> Work | None:
        """The item as work, rejected if something is wrong with it; None if it was sent before."""
        work = self._work(item, item.strategy or self.default_strategy)
        index = self.index
        if index is None:
            return work
        content = (item.item_id, work.strategy, item.prompt, item.context)
        if work.rejection is None:
            match index.add(*content):
                case Seen.NEW:
                    return work
                case Seen.SAME:
                    return None
            work.rejection = Rejection(
                ErrorReason.ITEM_ID_CONFLICT,
                f"item_id {item.item_id!r} was sent before in this batch with other content; the first one stands, "
                "give this one an id of its own",
            )
        return work if index.refuse(*content) is Seen.NEW else None

    # -- through the journal -----------------------------------------------------------------------------------------

    @staticmethod
    def mark(item: work_pb2.WorkItem, work: Work) -> None:
        """Make an item that was taken ready for the journal: it names its strategy, whatever the next default is."""
        unknown = work.rejection is not None and work.rejection.reason is ErrorReason.STRATEGY_NOT_FOUND
        item.strategy = _UNKNOWN + work.strategy if unknown else work.strategy

    def retake(self, item: work_pb2.WorkItem, index: int) -> Work:
        """The work of an item from the journal.

        Raises:
            BatchLLMError: STRATEGY_NOT_FOUND: its strategy was known when it came.
        """
        work = self._work(item, item.strategy.removeprefix(_UNKNOWN))
        work.index = index
        rejection = work.rejection
        unknown = rejection is not None and rejection.reason is ErrorReason.STRATEGY_NOT_FOUND
        if rejection is not None and unknown and not item.strategy.startswith(_UNKNOWN):
            raise BatchLLMError(
                f"{rejection.message}; items of this batch wait for it",
                reason=rejection.reason,
                metadata=rejection.metadata,
            )
        return work

    def recall(self, item: work_pb2.WorkItem) -> None:
        """Note an item from the journal in the index."""
        if self.index is None:
            return
        strategy = item.strategy.removeprefix(_UNKNOWN)
        content = (item.item_id, strategy, item.prompt, item.context)
        refused = item.strategy.startswith(_UNKNOWN) or not strategy or _flaw(item) is not None
        if refused or self.index.add(*content) is not Seen.NEW:
            self.index.refuse(*content)

    def _work(self, item: work_pb2.WorkItem, strategy: str) -> Work:
        work = Work(item.item_id, item.prompt, None, item.context, strategy)
        work.rejection = _flaw(item) or self._assign(strategy, work)
        if work.rejection is None and item.HasField("timeout") and (timeout := seconds(item.timeout)) > 0:
            work.deadline = self._loop.time() + timeout
        return work

    def _assign(self, strategy: str, work: Work) -> Rejection | None:
        if not strategy:
            return _invalid("strategy", "no strategy is named, neither by the item nor by its stream; name one")
        try:
            work.shared = self._find(strategy)
        except BatchLLMError as error:
            return Rejection(error.reason, str(error), error.metadata)
        return None


def _flaw(item: work_pb2.WorkItem) -> Rejection | None:
    item_id = item.item_id
    if not item_id.strip():
        return _invalid("item_id", "item_id is blank; give each item an id that is unique in its batch")
    if len(item_id) > MAX_ID_BYTES or len(item_id.encode()) > MAX_ID_BYTES:
        return _invalid("item_id", f"item_id is longer than {MAX_ID_BYTES} bytes; use a shorter one")
    if not item.prompt:
        return _invalid("prompt", "prompt is empty; give the item a prompt")
    if item.HasField("timeout") and seconds(item.timeout) < 0:
        return _invalid("timeout", f"timeout is negative ({seconds(item.timeout):g} s); leave it out for no limit")
    return None


def _invalid(field: str, message: str) -> Rejection:
    return Rejection(ErrorReason.INVALID_ITEM, message, {"field": field})
