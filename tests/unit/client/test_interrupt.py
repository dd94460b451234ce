"""Ctrl-C while a stream runs."""

import signal
import threading

import pytest

from batch_llm_client.cli.interrupt import cancelled_by_interrupt
from batch_llm_client.errors import CallCancelledError

WAIT = 30


def cancelled() -> CallCancelledError:
    return CallCancelledError("cancelled", code="CANCELLED")


def test_the_first_cancels_and_the_reader_is_told_where_it_stands() -> None:
    asked = threading.Event()
    reached = False
    with pytest.raises(KeyboardInterrupt), cancelled_by_interrupt(asked.set):
        signal.raise_signal(signal.SIGINT)
        reached = True
        assert asked.wait(WAIT)
        raise cancelled()
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_ends_it_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), cancelled_by_interrupt(lambda: None):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("not ended")


def test_a_stream_that_others_cancel_is_no_interrupt() -> None:
    with pytest.raises(CallCancelledError), cancelled_by_interrupt(lambda: None):
        raise cancelled()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_it_is_ignored_it_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with cancelled_by_interrupt(lambda: pytest.fail("cancelled")):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_beside_the_main_thread_signals_are_left_alone() -> None:
    found = []

    def body() -> None:
        with cancelled_by_interrupt(lambda: None):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(WAIT)
    assert found == [signal.default_int_handler]
