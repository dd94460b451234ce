"""The stream's frames, without any transport: what both clients send, and how both read what comes back."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from batch_llm_client.errors import MessageTooLargeError, UnexpectedError
from batch_llm_client.model import BatchOpened, Progress, ResultOrder, Totals, WorkItem
from batchllm.v1 import work_pb2
from batchllm.v1.batch_service_pb2 import OpenBatch, ProcessBatchRequest, ProcessBatchResponse, WorkItems

# A message inside another costs one byte of tag and at most five of length.
_NESTING_BYTES: Final = 6
# An item lies in WorkItems, which lies in the request.
_FRAME_BYTES: Final = _NESTING_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """What a frame may hold, and what a message may weigh in bytes."""

    frame_items: int
    frame_bytes: int
    max_message_bytes: int

    def __post_init__(self) -> None:
        for name in ("frame_items", "frame_bytes", "max_message_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

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
    if cost + _FRAME_BYTES > limit:
        raise MessageTooLargeError(item.item_id, cost + _FRAME_BYTES, limit)
    return message, cost


class FrameBuffer:
    """Items on their way into one frame, bounded by count and bytes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._messages: list[work_pb2.WorkItem] = []
        self._bytes = _FRAME_BYTES

    def __bool__(self) -> bool:
        return bool(self._messages)

    def fits(self, cost: int) -> bool:
        """Whether an item of `cost` bytes may be added; an empty buffer takes any."""
        return not self._messages or (
            len(self._messages) < self._limits.frame_items and self._bytes + cost <= self._limits.frame_bytes
        )

    def add(self, message: work_pb2.WorkItem, cost: int) -> None:
        """Add an item that fits."""
        self._messages.append(message)
        self._bytes += cost

    def take(self) -> ProcessBatchRequest:
        """Make a frame of all that is here, and be empty again."""
        frame = ProcessBatchRequest(items=WorkItems(items=self._messages))
        self._messages = []
        self._bytes = _FRAME_BYTES
        return frame


def chunk(items: Iterable[WorkItem], limits: Limits) -> Iterator[ProcessBatchRequest]:
    """Cut items that are all at hand into full frames."""
    buffer = FrameBuffer(limits)
    for item in items:
        message, cost = encode(item, limits.max_message_bytes)
        if not buffer.fits(cost):
            yield buffer.take()
        buffer.add(message, cost)
    if buffer:
        yield buffer.take()


def open_frame(
    *,
    batch_id: str,
    strategy: str,
    max_concurrency: int,
    result_order: ResultOrder | str,
    labels: Mapping[str, str] | None,
) -> ProcessBatchRequest:
    """Build the first frame. ValueError: no such result order."""
    return ProcessBatchRequest(
        open=OpenBatch(
            batch_id=batch_id,
            strategy=strategy,
            max_concurrency=max_concurrency,
            result_order=ResultOrder(result_order).number,
            labels=labels,
        )
    )


class Incoming:
    """What the server has said on one stream so far."""

    def __init__(self, *, on_opened: Callable[[int], None], on_progress: Callable[[Progress], None] | None) -> None:
        """`on_opened` gets the server's message limit in bytes."""
        self._on_opened = on_opened
        self._on_progress = on_progress
        self._totals: Totals | None = None
        self.opened: BatchOpened | None = None
        self.progress: Progress | None = None

    @property
    def totals(self) -> Totals:
        """The totals. RuntimeError: they have not come yet."""
        if self._totals is None:
            raise RuntimeError("a batch's totals come at its end: iterate over all its results first")
        return self._totals

    def take(self, frame: ProcessBatchResponse) -> Iterator[work_pb2.WorkItemResult]:
        """Note what a frame says and give the results in it; a frame of a kind unknown here says nothing."""
        match frame.WhichOneof("frame"):
            case "results":
                return iter(frame.results.results)
            case "opened":
                self.opened = BatchOpened.from_message(frame.opened)
                self._on_opened(self.opened.max_message_bytes)
            case "progress":
                self.progress = Progress.from_message(frame.progress)
                if self._on_progress is not None:
                    self._on_progress(self.progress)
            case "batch_result":
                self._totals = Totals.from_message(frame.batch_result)
        return iter(())

    def check_complete(self) -> None:
        """Hold the server to its word when it ends the stream with OK. UnexpectedError: something is missing."""
        if self.opened is None or self._totals is None:
            missing = "`opened`" if self.opened is None else "`batch_result`"
            raise UnexpectedError(f"the server ended the stream without {missing}", code="OK")
