import pytest

from batch_llm_client import MessageTooLargeError, UnexpectedError, WorkItem
from batch_llm_client._frames import Incoming, Limits, chunk, encode
from batchllm.v1.batch_service_pb2 import BatchOpened, ProcessBatchResponse
from batchllm.v1.work_pb2 import BatchResult


def items(count: int, size: int = 1) -> list[WorkItem]:
    return [WorkItem(str(number), "x" * size) for number in range(count)]


def test_frames_by_count() -> None:
    frames = list(chunk(items(130), Limits(64, 1 << 20, 1 << 20)))
    assert [len(frame.items.items) for frame in frames] == [64, 64, 2]
    assert [item.item_id for frame in frames for item in frame.items.items] == [str(n) for n in range(130)]


def test_frames_by_bytes_never_exceed_the_limit() -> None:
    frames = list(chunk(items(100, size=300), Limits(64, 1000, 1 << 20)))
    assert [len(frame.items.items) for frame in frames] == [3] * 33 + [1]
    assert max(frame.ByteSize() for frame in frames) <= 1000


def test_a_large_item_goes_alone() -> None:
    large = WorkItem("large", "x" * 5000)
    frames = list(chunk([*items(2), large, *items(2)], Limits(64, 1000, 1 << 20)))
    assert [len(frame.items.items) for frame in frames] == [2, 1, 2]


def test_no_items_no_frames() -> None:
    assert list(chunk([], Limits(64, 1000, 1000))) == []


def test_too_large_at_the_very_byte() -> None:
    item = WorkItem("1", "x" * 500)
    _, cost = encode(item, 1000)
    size = cost + 6
    encode(item, size)
    with pytest.raises(MessageTooLargeError, match=r"'1' has 5.. bytes") as caught:
        encode(item, size - 1)
    assert (caught.value.item_id, caught.value.size, caught.value.limit) == ("1", size, size - 1)
    assert next(chunk([item], Limits(64, size, size))).ByteSize() <= size


def test_items_must_be_items() -> None:
    with pytest.raises(TypeError, match="WorkItem, not dict"):
        encode({"item_id": "1"}, 1000)  # type: ignore[arg-type]


def test_limits_are_clamped_to_the_server() -> None:
    assert Limits(64, 500, 1000).within(300) == Limits(64, 300, 300)
    assert Limits(64, 500, 1000).within(5000) == Limits(64, 500, 1000)
    assert Limits(64, 500, 1000).within(0) == Limits(64, 500, 1000)
    with pytest.raises(ValueError, match="frame_items must be at least 1"):
        Limits(0, 500, 1000)


def test_a_frame_of_unknown_kind_says_nothing() -> None:
    incoming = Incoming(on_opened=lambda _: None, on_progress=None)
    unknown = ProcessBatchResponse.FromString(b"\x9a\x06\x00")  # field 99, as a newer server may send
    assert list(incoming.take(unknown)) == []
    assert (incoming.opened, incoming.progress) == (None, None)


def test_an_end_without_totals_is_a_bug() -> None:
    incoming = Incoming(on_opened=lambda _: None, on_progress=None)
    with pytest.raises(UnexpectedError, match="opened"):
        incoming.check_complete()
    incoming.take(ProcessBatchResponse(opened=BatchOpened(batch_id="b")))
    with pytest.raises(UnexpectedError, match="batch_result"):
        incoming.check_complete()
    with pytest.raises(RuntimeError, match="at its end"):
        _ = incoming.totals
    incoming.take(ProcessBatchResponse(batch_result=BatchResult(total_items=1)))
    incoming.check_complete()
    assert incoming.totals.total_items == 1
