"""The request side of a sync batch: frames for grpc's sending threads."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sized

from batch_llm_client._frames import Limits, encode
from batch_llm_client._window import Window
from batch_llm_client.model import WorkItem
from batchllm.v1.batch_service_pb2 import ProcessBatchRequest


class Outgoing:
    """Sends a batch's items, on one stream after the other.

    A thread of its own reads the source, since one without a length may block between items: what is at hand goes out
    meanwhile. One with a length goes out in full frames. The window's bounds stop the reading when sending stalls.
    """

    def __init__(self, items: Iterable[WorkItem], limits: Limits) -> None:
        self._items = items
        self._in_full_frames = isinstance(items, Sized)
        self._window = Window(limits)
        self._lock = threading.RLock()  # entered for each item, and faster so than through the condition
        self._changed = threading.Condition(self._lock)
        self._frames: Frames | None = None
        self._reading = False
        self._read = False
        self._stalled = False
        self.over = threading.Event()
        """Nothing more is to be sent: the batch has ended, was cancelled, or its source failed."""
        self.failure: BaseException | None = None
        """What the source raised."""
        self.cancel_call: Callable[[], object] = bool

    @property
    def settled(self) -> bool:
        """Whether the source has ended and the server holds all of it."""
        with self._lock:
            return self._read and not self._window

    def new_stream(self, opening: ProcessBatchRequest) -> "Frames":
        """Give the frames of the next stream: `opening`, then what is not confirmed, then what follows."""
        with self._lock:
            if self._frames is not None:
                self._frames.ended = True  # what it took now would be lost
            self._window.rewind()
            self._frames = Frames(self, opening)
            self._changed.notify_all()
            return self._frames

    def begin(self, server_bytes: int) -> None:
        """Let items flow on the present stream, within the server's message limit."""
        with self._lock:
            self._window.limits = self._window.limits.within(server_bytes)
            if self._frames is not None:
                self._frames.flowing = True
            if not self._reading:
                self._reading = True
                threading.Thread(target=self._pump, name="batch-llm-source", daemon=True).start()
            self._changed.notify_all()

    def confirm(self, received: int) -> None:
        """Let go of the first `received` items of the present stream."""
        with self._lock:
            self._window.confirm(received)
            self._changed.notify_all()

    def end(self, frames: "Frames") -> None:
        """End the frames of a stream whose call has ended; the batch may go on with another."""
        with self._lock:
            frames.ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """End the reading, as soon as it comes back from the source; the batch is over, its call ended or cancelled."""
        with self._lock:
            self.over.set()
            self._changed.notify_all()

    def next_frame(self, frames: "Frames") -> ProcessBatchRequest | None:
        """Wait for a stream's next frame; None: it has no more."""
        with self._lock:
            self._changed.wait_for(lambda: frames.ended or (frames.flowing and self._has_frame()))
            if frames.ended:
                return None
            frame = self._window.take()
            self._changed.notify_all()
            return frame

    def _has_frame(self) -> bool:
        # The end of the frames is a half-close, which tells the server that all is well. So a source that failed, or
        # that was not read to its end, leaves them waiting for the end of the call.
        if self.over.is_set():
            return False
        return self._read or (self._window.waiting and (self._stalled or not self._in_full_frames))

    def _pump(self) -> None:
        window = self._window
        try:
            for item in self._items:
                message, cost = encode(item, window.limits.max_message_bytes)
                with self._lock:
                    while not (window.fits(cost) or self.over.is_set()):
                        self._stalled = True
                        self._changed.notify_all()
                        self._changed.wait()
                    self._stalled = False
                    if self.over.is_set():
                        return
                    if not window.waiting:
                        self._changed.notify_all()
                    window.add(message, cost)
        except BaseException as error:
            self.failure = error
            self.stop()
            self.cancel_call()
        else:
            with self._lock:
                self._read = True
                self._changed.notify_all()


class Frames:
    """One stream's frames, an iterator."""

    def __init__(self, outgoing: Outgoing, opening: ProcessBatchRequest) -> None:
        self._outgoing = outgoing
        self._opening: ProcessBatchRequest | None = opening
        self.flowing = False
        """The server has answered `opened`."""
        self.ended = False

    def __iter__(self) -> Iterator[ProcessBatchRequest]:
        return self

    def __next__(self) -> ProcessBatchRequest:
        if self._opening is not None:
            frame, self._opening = self._opening, None
            return frame
        following = self._outgoing.next_frame(self)
        if following is None:
            raise StopIteration
        return following

    def end(self) -> None:
        """End them; the stream is over."""
        self._outgoing.end(self)
