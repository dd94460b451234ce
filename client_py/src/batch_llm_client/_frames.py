"""The stream's frames, without any transport: what both clients send, and how both read what comes back."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, NoReturn, Protocol

from batch_llm_client._resume import Retries
from batch_llm_client.errors import BatchLLMClientError, BatchLostError, MessageTooLargeError, UnexpectedError
from batch_llm_client.model import BatchOpened, Progress, ResultOrder, Totals, WorkItem
from batchllm.v1 import work_pb2
from batchllm.v1.batch_service_pb2 import (
    RESULT_ORDER_UNSPECIFIED,
    ItemsAccepted,
    OpenBatch,
    ProcessBatchRequest,
    ProcessBatchResponse,
)

# A message inside another costs one byte of tag and at most five of length.
_NESTING_BYTES: Final = 6
# An item lies in WorkItems, which lies in the request.
FRAME_BYTES: Final = _NESTING_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """What a frame may hold, what a message may weigh in bytes, and how much may be unconfirmed."""

    frame_items: int
    frame_bytes: int
    max_message_bytes: int
    unconfirmed_items: int
    unconfirmed_bytes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1, not {getattr(self, field.name)}")

    def within(self, server_bytes: int) -> "Limits":
        """Clamp to what the server takes; 0: it did not say."""
        largest = min(self.max_message_bytes, server_bytes or self.max_message_bytes)
        return replace(self, max_message_bytes=largest, frame_bytes=min(self.frame_bytes, largest))


def encode(item: WorkItem, limit: int) -> tuple[work_pb2.WorkItem, int]:
    """Build an item's message and say what it costs in a frame, in bytes.

    Raises:
        MessageTooLargeError: a frame of this item alone would exceed `limit` bytes.
        TypeError: it is no WorkItem, or a field has the wrong type.
    """
    if not isinstance(item, WorkItem):
        raise TypeError(f"items must be WorkItem, not {type(item).__name__}")
    message = item.to_message()
    cost = message.ByteSize() + _NESTING_BYTES
    if cost + FRAME_BYTES > limit:
        raise MessageTooLargeError(item.item_id, cost + FRAME_BYTES, limit)
    return message, cost


def open_frame(
    *,
    batch_id: str,
    strategy: str,
    max_concurrency: int,
    result_order: ResultOrder | str | None,
    labels: Mapping[str, str] | None,
    resume_after_sequence: int,
    detach: bool,
) -> OpenBatch:
    """Build what the first frame says, with an id of our own where none is given: without one it cannot be resumed.

    Raises:
        ValueError: no such result order, or a batch without id is to be resumed.
    """
    if resume_after_sequence and not batch_id:
        raise ValueError("resume_after_sequence needs the batch_id of the batch to resume")
    return OpenBatch(
        batch_id=batch_id or f"batch-{uuid.uuid4().hex}",
        strategy=strategy,
        max_concurrency=max_concurrency,
        result_order=RESULT_ORDER_UNSPECIFIED if result_order is None else ResultOrder(result_order).number,
        labels=labels,
        resume_after_sequence=resume_after_sequence,
        detach=detach,
    )


class Sending(Protocol):
    """The side that sends, as far as what comes back concerns it."""

    def begin(self, server_bytes: int) -> None:
        """Let items flow on the present stream, within the server's message limit in bytes."""

    def confirm(self, received: int) -> None:
        """Let go of the first `received` items of the present stream."""


class Incoming:
    """What the server has said of a batch so far, on all its streams.

    Args:
        opening: what the batch was opened with first.
        outgoing: its items.
        retries: told of what is new.
        on_progress: called with each report.
    """

    def __init__(
        self, opening: OpenBatch, outgoing: Sending, retries: Retries, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._opening = opening
        self._outgoing = outgoing
        self._retries = retries
        self._on_progress = on_progress
        self._totals: Totals | None = None
        self._held = 0
        self._newest_sequence = opening.resume_after_sequence  # of all streams
        self._received_sequence = opening.resume_after_sequence  # of the present one
        self.opened: BatchOpened | None = None
        self.progress: Progress | None = None
        self.last_sequence = opening.resume_after_sequence
        """Of the last result that was handed out."""

    @property
    def batch_id(self) -> str:
        """The batch's id."""
        return self._opening.batch_id

    @property
    def held(self) -> int:
        """How many items the server was last known to hold."""
        return self._held

    @property
    def ended(self) -> bool:
        """Whether the last frame has come."""
        return self._totals is not None

    @property
    def totals(self) -> Totals:
        """The totals. RuntimeError: they have not come yet."""
        if self._totals is None:
            raise RuntimeError("a batch's totals come at its end: iterate over all its results first")
        return self._totals

    def opening(self) -> ProcessBatchRequest:
        """Give the first frame of the next stream."""
        frame = ProcessBatchRequest(open=self._opening)
        frame.open.resume_after_sequence = self._received_sequence = self.last_sequence
        return frame

    def take(self, frame: ProcessBatchResponse) -> Iterator[work_pb2.WorkItemResult]:
        """Note what a frame says and give the results in it; a frame of a kind unknown here says nothing.

        Raises:
            BatchLostError: the server no longer holds what it had accepted.
            UnexpectedError: the server breaks the protocol.
        """
        match frame.WhichOneof("frame"):
            case "results":
                return self._new(frame.results.results)
            case "accepted":
                self._accept(frame.accepted)
            case "opened":
                self._open(BatchOpened.from_message(frame.opened))
            case "progress":
                self.progress = Progress.from_message(frame.progress)
                if self._on_progress is not None:
                    self._on_progress(self.progress)
            case "batch_result":
                self._end(Totals.from_message(frame.batch_result))
        return iter(())

    def check_complete(self) -> None:
        """Hold the server to its word when it ends the stream with OK. UnexpectedError: something is missing."""
        if self.opened is None or self._totals is None:
            missing = "`opened`" if self.opened is None else "`batch_result`"
            raise UnexpectedError(f"the server ended the stream without {missing}", code="OK")

    def check_detached(self) -> None:
        """RuntimeError: the batch does not go on without a client."""
        if not self._opening.detach:
            raise RuntimeError("only a batch that was opened with detach=True goes on by itself")

    def explain(self, error: BatchLLMClientError) -> BatchLLMClientError:
        """Say what it means when a server that knew the batch refuses to go on after the last result."""
        if self.opened is not None and error.metadata.get("field") == "resume_after_sequence":
            return self._lost()
        return error

    def _open(self, opened: BatchOpened) -> None:
        if self.opened is not None and (opened.items < self._held or opened.last_sequence < self.last_sequence):
            raise self._lost()
        self.opened = opened
        self._held = opened.items
        self._retries.connected()
        self._outgoing.begin(opened.max_message_bytes)

    def _accept(self, accepted: ItemsAccepted) -> None:
        if accepted.items > self._held:
            self._held = accepted.items
            self._retries.progress()
        self._outgoing.confirm(accepted.received)

    def _lost(self) -> BatchLostError:
        durable = self.opened is not None and self.opened.durable
        return BatchLostError(self.batch_id, self._held, self.last_sequence, durable)

    def _new(self, results: Sequence[work_pb2.WorkItemResult]) -> Iterator[work_pb2.WorkItemResult]:
        following = []
        for result in results:
            if result.sequence > self._received_sequence + 1:
                self._left_out(f"result {result.sequence} follows {self._received_sequence}")
            if result.sequence > self._received_sequence:
                self._received_sequence = result.sequence
                following.append(result)
        if self._received_sequence > self._newest_sequence:
            self._newest_sequence = self._received_sequence
            self._retries.progress()
        return self._handing_out(following)

    def _handing_out(self, results: Iterable[work_pb2.WorkItemResult]) -> Iterator[work_pb2.WorkItemResult]:
        for result in results:
            self.last_sequence = result.sequence
            yield result

    def _end(self, totals: Totals) -> None:
        if totals.total_items > self._newest_sequence:
            self._left_out(f"the batch has {totals.total_items}, the last one is {self._newest_sequence}")
        self._totals = totals

    def _left_out(self, gap: str) -> NoReturn:
        raise UnexpectedError(f"the server left out results: {gap}", code="OK")
