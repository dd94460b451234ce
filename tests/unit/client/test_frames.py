import pytest

from batch_llm_client import BatchLostError, MessageTooLargeError, ResumePolicy, UnexpectedError, WorkItem
from batch_llm_client._frames import Incoming, Limits, encode
from batch_llm_client._resume import Retries
from batch_llm_client._window import Window
from batchllm.v1.batch_service_pb2 import BatchOpened, ItemsAccepted, OpenBatch, ProcessBatchResponse, WorkItemResults
from batchllm.v1.work_pb2 import BatchResult, WorkItemResult


def limits(frame_items: int = 64, frame_bytes: int = 1 << 20, **bounds: int) -> Limits:
    return Limits(
        **{"max_message_bytes": 1 << 20, "unconfirmed_items": 1000, "unconfirmed_bytes": 1 << 20} | bounds,
        frame_items=frame_items,
        frame_bytes=frame_bytes,
    )


def test_too_large_at_the_very_byte() -> None:
    item = WorkItem("1", "x" * 500)
    message, cost = encode(item, 1000)
    size = cost + 6
    encode(item, size)
    with pytest.raises(MessageTooLargeError, match=r"'1' has 5.. bytes") as caught:
        encode(item, size - 1)
    assert (caught.value.item_id, caught.value.size, caught.value.limit) == ("1", size, size - 1)
    window = Window(limits(frame_bytes=size))
    window.add(message, cost)
    frame = window.take()
    assert frame is not None
    assert frame.ByteSize() <= size


def test_items_must_be_items() -> None:
    with pytest.raises(TypeError, match="WorkItem, not dict"):
        encode({"item_id": "1"}, 1000)  # type: ignore[arg-type]


def test_limits_are_clamped_to_the_server() -> None:
    mine = limits(frame_bytes=500, max_message_bytes=1000)
    assert mine.within(300) == limits(frame_bytes=300, max_message_bytes=300)
    assert mine.within(5000) == mine
    assert mine.within(0) == mine
    for name in ("frame_items", "unconfirmed_items", "unconfirmed_bytes"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            limits(**{name: 0})


class Sending:
    """Notes what the sending side is told."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def begin(self, server_bytes: int) -> None:
        self.told.append(server_bytes)

    def confirm(self, received: int) -> None:
        self.told.append(received)


def incoming(after: int = 0) -> Incoming:
    retries = Retries(ResumePolicy(), deadline=None, now=lambda: 0.0, random=lambda: 0.0)
    return Incoming(OpenBatch(batch_id="b", resume_after_sequence=after), Sending(), retries, None)


def opened(**said: object) -> ProcessBatchResponse:
    return ProcessBatchResponse(opened=BatchOpened(batch_id="b", **said))


def results(*sequences: int) -> ProcessBatchResponse:
    messages = [WorkItemResult(item_id=str(sequence), sequence=sequence) for sequence in sequences]
    return ProcessBatchResponse(results=WorkItemResults(results=messages))


def accepted(items: int, received: int) -> ProcessBatchResponse:
    return ProcessBatchResponse(accepted=ItemsAccepted(items=items, received=received))


def test_a_frame_of_unknown_kind_says_nothing() -> None:
    batch = incoming()
    unknown = ProcessBatchResponse.FromString(b"\x9a\x06\x00")  # field 99, as a newer server may send
    assert list(batch.take(unknown)) == []
    assert (batch.opened, batch.progress) == (None, None)


def test_an_end_without_totals_is_a_bug() -> None:
    batch = incoming()
    with pytest.raises(UnexpectedError, match="opened"):
        batch.check_complete()
    batch.take(opened())
    with pytest.raises(UnexpectedError, match="batch_result"):
        batch.check_complete()
    with pytest.raises(RuntimeError, match="at its end"):
        _ = batch.totals
    totals = ProcessBatchResponse(batch_result=BatchResult(total_items=1))
    with pytest.raises(UnexpectedError, match="left out results: the batch has 1, the last one is 0"):
        batch.take(totals)
    batch.take(results(1))
    batch.take(totals)
    batch.check_complete()
    assert batch.totals.total_items == 1


def test_results_that_were_handed_out_are_passed_over_and_a_gap_is_a_bug() -> None:
    batch = incoming(after=2)
    batch.take(opened(last_sequence=9))
    assert [result.sequence for result in batch.take(results(1, 2, 3, 4))] == [3, 4]
    assert batch.opening().open.resume_after_sequence == 4
    with pytest.raises(UnexpectedError, match="result 6 follows 4"):
        batch.take(results(6))  # here, not when they are handed out: so it ends the batch


def test_only_what_is_handed_out_counts_as_received() -> None:
    batch = incoming()
    batch.take(opened())
    handed = batch.take(results(1, 2, 3))
    next(handed)
    assert batch.opening().open.resume_after_sequence == 1


def test_a_server_that_holds_less_than_it_accepted_has_lost_the_batch() -> None:
    batch = incoming()
    batch.take(opened(durable=False))
    batch.take(opened(durable=False))  # nothing was accepted yet, so nothing is lost
    batch.take(accepted(5, 5))
    with pytest.raises(BatchLostError, match=r"5 items.*'b'.*in memory") as caught:
        batch.take(opened(items=4))
    assert (caught.value.held, caught.value.last_sequence, caught.value.durable) == (5, 0, False)


def test_a_server_that_has_fewer_results_than_it_sent_has_lost_the_batch() -> None:
    batch = incoming()
    batch.take(opened(durable=True))
    list(batch.take(results(1, 2)))
    with pytest.raises(BatchLostError, match="was deleted, or a sidecar with another journal"):
        batch.take(opened(items=2, last_sequence=1, durable=True))


def test_items_held_from_other_streams_count() -> None:
    batch = incoming()
    batch.take(opened(items=7))
    with pytest.raises(BatchLostError):
        batch.take(opened(items=6))
