"""JournalWriter on a store that fails when told to."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from batch_llm.journal.memory import MemoryStore
from batch_llm.journal.store import (
    BatchExistsError,
    Begin,
    Change,
    DamagedError,
    FencedError,
    Items,
    OutcomeUnknownError,
    Results,
    Single,
    SingleExistsError,
    Starts,
    StoreError,
    Write,
)
from batch_llm.journal.writer import JournalWriter


class FailingStore(MemoryStore):
    """Raises what is in `failures`, one a call; keeps what it was asked to write."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.transactions: list[list[Write]] = []
        self.failed = asyncio.Event()

    async def write(self, writes: Sequence[Write]) -> None:
        await asyncio.sleep(0)  # as a store that works in a thread
        self.transactions.append(list(writes))
        if self.failures:
            self.failed.set()
            raise self.failures.pop(0)
        await super().write(writes)


class Pauses:
    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        await asyncio.sleep(seconds)


def begin(batch_id: str = "b") -> Begin:
    return Begin(batch_id, b"opening", detach=False, owner="me", lease_seconds=60)


def results(begun: Begin, sequence: int, payload: bytes = b"result") -> Results:
    return Results(begun.batch_id, begun.fence, (sequence,), (sequence - 1,), 0, payload)


def items(begun: Begin, first: int, payload: bytes = b"item") -> Items:
    return Items(begun.batch_id, begun.fence, first, 1, payload)


async def sequences(store: MemoryStore, batch_id: str = "b") -> list[int]:
    return [sequence async for record in store.results(batch_id) for sequence in record.sequences]


async def test_all_that_waits_goes_into_one_transaction() -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    futures = [writer.record(results(begun, number)) for number in range(1, 101)]
    assert writer.waiting == 100
    await asyncio.gather(*futures)
    assert [len(writes) for writes in store.transactions] == [1, 100]
    assert await sequences(store) == list(range(1, 101))
    assert writer.waiting == 0


async def test_a_transaction_is_bounded_by_count_and_bytes() -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    await asyncio.gather(*(writer.record(results(begun, number)) for number in range(1, 5002)))
    big = b"x" * (6 * 2**20)
    await asyncio.gather(*(writer.record(results(begun, number, big)) for number in range(5002, 5008)))
    assert [len(writes) for writes in store.transactions] == [1, 4096, 905, 3, 3]


async def test_what_is_recorded_outlives_a_failing_store_in_order(caplog: pytest.LogCaptureFixture) -> None:
    store, begun, pauses = FailingStore(), begin(), Pauses()
    writer = JournalWriter(store, sleep=pauses)
    await writer.offer(begun)
    store.failures = [StoreError("the disk is full", full=True) for _ in range(8)]
    first = [writer.record(results(begun, number)) for number in (1, 2)]
    await store.failed.wait()
    first.append(writer.record(results(begun, 3)))
    await asyncio.gather(*first)
    assert pauses.taken == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert await sequences(store) == [1, 2, 3]
    said = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "batch_llm.journal"]
    assert [level for level, _ in said] == [logging.ERROR, logging.WARNING], said
    assert "the disk is full" in said[0][1]
    assert "again" in said[1][1]


async def test_new_work_is_refused_while_the_store_fails_and_taken_out_again() -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    store.failures = [StoreError("the disk is full", full=True)]
    kept = writer.record(results(begun, 1))
    with pytest.raises(StoreError, match="full") as refused:
        await writer.offer(items(begun, 0))
    assert refused.value.full
    with pytest.raises(StoreError):
        await writer.offer(items(begun, 0))
    assert writer.failure is refused.value
    await kept
    assert writer.failure is None
    assert not [write for writes in store.transactions[2:] for write in writes if isinstance(write, Items)]
    await writer.offer(items(begun, 0, b"later"))
    assert [record.payload async for record in store.items("b")] == [b"later"]


async def test_with_nothing_kept_the_next_offer_finds_out(caplog: pytest.LogCaptureFixture) -> None:
    store, begun, pauses = FailingStore(StoreError("gone"), StoreError("gone")), begin(), Pauses()
    writer = JournalWriter(store, sleep=pauses)
    for _ in range(2):
        with pytest.raises(StoreError, match="gone"):
            await writer.offer(begun)
        await writer.close()
        assert writer.failure is None
    await writer.offer(begun)
    assert pauses.taken == pytest.approx([0.1, 0.2])
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_an_unknown_outcome_is_asked_about_with_the_very_same_writes() -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    store.failures = [OutcomeUnknownError("the connection was lost")]
    offered = asyncio.create_task(writer.offer(items(begun, 0)))
    kept = writer.record(results(begun, 1))
    await store.failed.wait()
    later = writer.record(results(begun, 2))
    with pytest.raises(StoreError):
        await writer.offer(items(begun, 1))
    await asyncio.gather(offered, kept, later)
    _, doubtful, again, after = store.transactions
    assert doubtful == again
    assert {type(write) for write in again} == {Items, Results}
    assert [type(write) for write in after] == [Results]


async def test_a_fenced_batch_does_not_fail_others() -> None:
    store, mine, others = FailingStore(), begin("mine"), begin("others")
    writer = JournalWriter(store)
    await asyncio.gather(writer.offer(mine), writer.offer(others))
    assert await store.claim("others", "me", 60)
    outcomes = await asyncio.gather(
        writer.record(results(others, 1)),
        writer.record(results(mine, 1)),
        writer.record(Starts("others", others.fence, (0,))),
        writer.record(Change("others", others.fence, detach=True)),
        writer.record(results(mine, 2)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [FencedError, type(None), FencedError, FencedError, type(None)]
    assert await sequences(store, "mine") == [1, 2]
    assert len(store.transactions) == 3


async def test_damage_stops_its_batch_and_new_work_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    store, mine, others = FailingStore(), begin("mine"), begin("others")
    writer = JournalWriter(store)
    await asyncio.gather(writer.offer(mine), writer.offer(others))
    store.failures = [DamagedError("a page is damaged") for _ in range(2)]
    outcomes = await asyncio.gather(
        writer.record(results(mine, 1)),
        writer.record(results(others, 1)),
        writer.record(results(mine, 2)),
        writer.record(Single("key", b"digest", b"result")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [DamagedError, type(None), DamagedError, type(None)]
    assert str(outcomes[0]) == "batch 'mine': a page is damaged"
    with pytest.raises(DamagedError, match="batch 'mine'"):
        await writer.record(results(mine, 3))
    assert await sequences(store, "mine") == [], "without a gap"
    with pytest.raises(DamagedError, match="new work is refused until the sidecar is started anew: a page is damaged"):
        await writer.offer(items(others, 0))
    await writer.record(results(others, 2))
    assert await sequences(store, "others") == [1, 2]
    assert isinstance(writer.failure, DamagedError)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_room_for_little_is_not_said_to_be_room_again(caplog: pytest.LogCaptureFixture) -> None:
    class FullStore(MemoryStore):
        room = 100

        async def write(self, writes: Sequence[Write]) -> None:
            if sum(len(write.payload) for write in writes if isinstance(write, Items)) > self.room:
                raise StoreError("the disk is full", full=True)
            await super().write(writes)

    store, begun, pauses = FullStore(), begin(), Pauses()
    writer = JournalWriter(store, sleep=pauses)
    await writer.offer(begun)
    for _ in range(3):
        with pytest.raises(StoreError, match="full"):
            await writer.offer(items(begun, 0, bytes(1000)))
        await writer.close()
        await writer.record(Change("b", begun.fence, detach=True))
    assert pauses.taken == pytest.approx([0.1, 0.1, 0.1]), "it is not slowed down once it writes"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    store.room = 1000
    await writer.offer(items(begun, 0, bytes(600)))
    assert len(caplog.records) == 1
    await writer.offer(items(begun, 1, bytes(600)))
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_a_refusal_does_not_say_that_the_store_can_be_written(caplog: pytest.LogCaptureFixture) -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    store.failures = [StoreError("the disk is full", full=True)]
    with pytest.raises(FencedError):
        await writer.record(results(begin(), 1))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await writer.offer(items(begun, 0, bytes(100)))
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


async def test_a_second_begin_fails_alone_with_what_follows_it() -> None:
    store, first, second = FailingStore(), begin(), begin()
    writer = JournalWriter(store)
    outcomes = await asyncio.gather(
        writer.offer(first),
        writer.offer(second),
        writer.offer(items(second, 0, b"second's")),
        writer.offer(items(first, 0, b"first's")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), BatchExistsError, BatchExistsError, type(None)]
    assert [record.payload async for record in store.items("b")] == [b"first's"]


async def test_a_refused_single_fails_alone() -> None:
    store = FailingStore()
    writer = JournalWriter(store)
    await writer.offer(Single("key", b"digest", b""))
    outcomes = await asyncio.gather(
        writer.offer(Single("key", b"other", b"")),
        writer.record(Single("key", b"digest", b"result")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [SingleExistsError, type(None)]
    known = await store.single("key")
    assert known is not None
    assert known.result == b"result"


async def test_a_write_that_contradicts_what_is_there_fails_alone() -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    outcomes = await asyncio.gather(
        writer.record(results(begun, 1)),
        writer.record(items(begun, 7)),
        writer.record(results(begun, 2)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]
    assert await sequences(store) == [1, 2]


async def test_close_waits_until_all_is_written() -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    store.failures = [StoreError("locked")]
    kept = writer.record(results(begun, 1))
    await writer.close()
    assert kept.done()
    assert await sequences(store) == [1]


async def test_close_that_is_cancelled_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    store.failures = [StoreError("locked") for _ in range(1000)]
    kept = writer.record(results(begun, 1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await writer.close()
    with pytest.raises(StoreError, match="locked"):
        await kept
    assert "1 records are lost" in caplog.text
    assert writer.waiting == 0


async def test_a_caller_that_went_away_does_not_stop_the_writer() -> None:
    store, begun = FailingStore(), begin()
    writer = JournalWriter(store)
    await writer.offer(begun)
    offered = asyncio.create_task(writer.offer(items(begun, 0)))
    await asyncio.sleep(0)
    kept = writer.record(results(begun, 1))
    offered.cancel()
    await kept
    assert await sequences(store) == [1]
