"""The request side of a sync stream: frames for grpc's sending thread."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sized

from batch_llm_client._frames import FrameBuffer, Limits, chunk, encode
from batch_llm_client.model import WorkItem
from batchllm.v1.batch_service_pb2 import ProcessBatchRequest


class Outgoing:
    """Sends `opening`, waits for the server's limits, then sends the items.

    A source without a length may block between items. A thread of its own reads it into a buffer of one frame, so
    that what is at hand goes out while the source blocks; the buffer's bound stops the reading when sending stalls.
    """

    def __init__(self, opening: ProcessBatchRequest, items: Iterable[WorkItem], limits: Limits) -> None:
        self._opening = opening
        self._items = items
        self._limits = limits
        self._opened = threading.Event()
        self._changed = threading.Condition()
        self._drained = False
        self._stopped = False
        self.cancel_call: Callable[[], object] = bool
        self.failure: BaseException | None = None
        """What the source raised."""

    def begin(self, server_bytes: int) -> None:
        """Let items flow, within the server's message limit."""
        self._limits = self._limits.within(server_bytes)
        self._opened.set()

    def stop(self) -> None:
        """End the frames and, as soon as it comes back from the source, the reading; the stream is over."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._opened.set()

    def frames(self) -> Iterator[ProcessBatchRequest]:
        """Yield the frames."""
        yield self._opening
        self._opened.wait()
        if self._stopped:
            return
        if not isinstance(self._items, Sized):
            yield from self._frames_at_hand()
            return
        try:
            yield from chunk(self._items, self._limits)
        except Exception as error:
            self._fail(error)

    def _frames_at_hand(self) -> Iterator[ProcessBatchRequest]:
        buffer = FrameBuffer(self._limits)
        threading.Thread(target=self._pump, args=(buffer,), name="batch-llm-source", daemon=True).start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: buffer or self._drained or self._stopped)
                if self._stopped or not buffer:
                    return
                frame = buffer.take()
                self._changed.notify_all()
            yield frame

    def _pump(self, buffer: FrameBuffer) -> None:
        try:
            for item in self._items:
                message, cost = encode(item, self._limits.max_message_bytes)
                with self._changed:
                    while not (self._stopped or buffer.fits(cost)):
                        self._changed.wait()
                    if self._stopped:
                        return
                    if not buffer:
                        self._changed.notify_all()
                    buffer.add(message, cost)
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._drained = True
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        # Cancelled before the frames end: a half-close would tell the server that all is well.
        self.failure = error
        self.cancel_call()
        self.stop()
