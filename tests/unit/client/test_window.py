import pytest

from batch_llm_client import UnexpectedError, WorkItem
from batch_llm_client._frames import Limits, encode
from batch_llm_client._window import Window


def window(frame_items: int = 64, frame_bytes: int = 1 << 20, items: int = 1000, size: int = 1 << 20) -> Window:
    return Window(Limits(frame_items, frame_bytes, 1 << 20, items, size))


def add(window: Window, *ids: object, size: int = 1) -> None:
    for item_id in ids:
        window.add(*encode(WorkItem(str(item_id), "x" * size), 1 << 20))


def fits(window: Window, size: int = 1) -> bool:
    return window.fits(encode(WorkItem("x", "x" * size), 1 << 20)[1])


def taken(window: Window) -> list[list[str]]:
    frames = []
    while (frame := window.take()) is not None:
        frames.append([item.item_id for item in frame.items.items])
    return frames


def test_frames_by_count() -> None:
    w = window(frame_items=3)
    add(w, 1, 2)
    assert fits(w)
    add(w, 3)
    assert not fits(w)
    assert taken(w) == [["1", "2", "3"]]
    assert fits(w)


def test_frames_by_bytes_never_exceed_the_limit() -> None:
    w = window(frame_bytes=1000)
    while fits(w, 300):
        add(w, "x", size=300)
    frame = w.take()
    assert frame is not None
    assert len(frame.items.items) == 3
    assert frame.ByteSize() <= 1000


def test_a_large_item_goes_alone() -> None:
    w = window(frame_bytes=1000)
    assert fits(w, 5000)
    add(w, "large", size=5000)
    assert not fits(w)
    assert taken(w) == [["large"]]
    w.rewind()
    add(w, "small")
    assert taken(w) == [["large"], ["small"]]


def test_what_is_not_confirmed_is_bounded_by_count() -> None:
    w = window(items=4)
    add(w, 1, 2, 3, 4)
    w.take()
    assert not fits(w)
    w.confirm(1)
    assert fits(w)
    assert len(w) == 3


def test_what_is_not_confirmed_is_bounded_by_bytes() -> None:
    w = window(size=1000)
    assert fits(w, 5000)
    add(w, 1, 2, 3, size=300)
    w.take()
    assert not fits(w, 300)
    w.confirm(1)
    assert fits(w, 300)
    w.confirm(3)
    assert fits(w, 5000)


def test_a_new_stream_sends_again_what_was_not_confirmed_and_counts_anew() -> None:
    w = window(frame_items=2)
    add(w, 1, 2)
    assert taken(w) == [["1", "2"]]
    add(w, 3, 4)
    assert taken(w) == [["3", "4"]]
    w.confirm(3)
    add(w, 5)
    w.rewind()
    assert not fits(w)
    add(w, 6)
    assert taken(w) == [["4", "5"], ["6"]]
    w.confirm(1)
    w.rewind()
    w.rewind()
    assert taken(w) == [["5", "6"]]
    w.confirm(2)
    assert len(w) == 0


def test_a_smaller_limit_cuts_what_is_sent_again_into_smaller_frames() -> None:
    w = window(frame_bytes=1000)
    add(w, 1, 2, size=300)
    w.take()
    w.limits = w.limits.within(400)
    w.rewind()
    assert taken(w) == [["1"], ["2"]]


def test_a_confirmation_of_what_was_never_sent_is_a_bug() -> None:
    w = window()
    add(w, 1)
    with pytest.raises(UnexpectedError, match="confirmed 1 items of a stream that has 0"):
        w.confirm(1)
    w.take()
    w.confirm(1)
    w.confirm(0)  # an answer that comes late says nothing new
    assert len(w) == 0


def test_nothing_to_take() -> None:
    assert window().take() is None
