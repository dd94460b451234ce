"""Items on their way: those that wait for a frame, and those that the server has not confirmed yet."""

from collections import deque
from collections.abc import Iterable

from batch_llm_client._frames import FRAME_BYTES, Limits
from batch_llm_client.errors import UnexpectedError
from batchllm.v1 import work_pb2
from batchllm.v1.batch_service_pb2 import ProcessBatchRequest, WorkItems


class Window:
    """Items in the order of their source, from the first unconfirmed one to the last one read.

    Bounded by the limits: what waits is at most a frame, unless a new stream has put back what was sent on the former.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._sent: deque[tuple[work_pb2.WorkItem, int]] = deque()
        self._waiting: deque[tuple[work_pb2.WorkItem, int]] = deque()
        self._bytes = 0
        self._waiting_bytes = 0
        self._confirmed = 0

    def __len__(self) -> int:
        """How many are not confirmed, those that wait included."""
        return len(self._sent) + len(self._waiting)

    @property
    def waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self._waiting)

    def fits(self, cost: int) -> bool:
        """Whether an item of `cost` bytes may be added; an empty window takes any."""
        limits, waiting = self.limits, len(self._waiting)
        if waiting and (waiting >= limits.frame_items or self._waiting_bytes + cost > limits.frame_bytes - FRAME_BYTES):
            return False
        held = waiting + len(self._sent)
        return not held or (held < limits.unconfirmed_items and self._bytes + cost <= limits.unconfirmed_bytes)

    def add(self, message: work_pb2.WorkItem, cost: int) -> None:
        """Add an item that fits."""
        self._waiting.append((message, cost))
        self._waiting_bytes += cost
        self._bytes += cost

    def take(self) -> ProcessBatchRequest | None:
        """Make the next frame; None: nothing waits. Its items stay here until they are confirmed."""
        waiting, limits = self._waiting, self.limits
        if not waiting:
            return None
        if len(waiting) <= limits.frame_items and FRAME_BYTES + self._waiting_bytes <= limits.frame_bytes:
            taken = list(waiting)
            waiting.clear()
        else:
            taken = [waiting.popleft()]
            size = FRAME_BYTES + taken[0][1]
            while waiting and len(taken) < limits.frame_items and size + waiting[0][1] <= limits.frame_bytes:
                taken.append(waiting.popleft())
                size += taken[-1][1]
        self._sent.extend(taken)
        self._waiting_bytes -= _costs(taken)
        return ProcessBatchRequest(items=WorkItems(items=[message for message, _ in taken]))

    def confirm(self, received: int) -> None:
        """Let go of the first `received` items of the present stream. UnexpectedError: so many were never sent."""
        count = received - self._confirmed
        if count > len(self._sent):
            sent = self._confirmed + len(self._sent)
            raise UnexpectedError(f"the server confirmed {received} items of a stream that has {sent}", code="OK")
        for _ in range(count):
            self._bytes -= self._sent.popleft()[1]
        self._confirmed = max(self._confirmed, received)

    def rewind(self) -> None:
        """Begin a new stream: what was not confirmed is to be sent again."""
        self._waiting.extendleft(reversed(self._sent))
        self._waiting_bytes += _costs(self._sent)
        self._sent.clear()
        self._confirmed = 0


def _costs(entries: Iterable[tuple[work_pb2.WorkItem, int]]) -> int:
    return sum(cost for _, cost in entries)
