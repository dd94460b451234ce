"""Ctrl-C: the first ends the stream in good order, the second the command."""

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from batch_llm_client.errors import CallCancelledError


@contextmanager
def cancelled_by_interrupt(cancel: Callable[[], None]) -> Iterator[None]:
    """Have SIGINT cancel a stream; KeyboardInterrupt is raised where its reader then learns of it.

    Python would raise it at any instruction of the main thread, also within `threading.Condition`, on which grpc waits:
    its lock would be left as nobody expects it.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as a shell has it for what runs in the background
    if ignored or threading.current_thread() is not threading.main_thread():
        yield  # signals are the business of whoever runs this
        return
    interrupted = False

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, before)
        # In a thread of its own, made without `threading`: the main thread may hold any lock now.
        _thread.start_new_thread(cancel, ())

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    except CallCancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
