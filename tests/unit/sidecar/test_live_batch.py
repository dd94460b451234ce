"""Batches over a store that can be held up, filled and taken away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch_llm.executor import Executor
from batch_llm.journal.memory import MemoryStore
from batch_llm.journal.store import Change, DamagedError, FencedError, Items, Results, Starts, StoreError, Write
from batch_llm.journal.writer import JournalWriter
from batch_llm.model import BatchLLMError, BatchTotals, ErrorReason, ProviderError, Receipt, TokenUsage, WorkItemResult
from batch_llm.shared import SharedStrategy
from batch_llm.sidecar import batch_items, mapping
from batch_llm.sidecar.batch_log import Journal
from batch_llm.sidecar.batches import Batches
from batch_llm.sidecar.item_index import ItemIndex
from batch_llm.sidecar.live_batch import Engine, LiveBatch
from batch_llm.sidecar.recovery import checkpoint, recover
from batch_llm.sidecar.registrations import Registrations
from batch_llm.sidecar.settings import ServerSettings
from batch_llm.strategies import LLMCallStrategy
from batchllm.v1 import batch_service_pb2 as pb
from batchllm.v1.work_pb2 import WorkItem
from batchllm.v1.work_pb2 import WorkItemResult as Message


class Store(MemoryStore):
    """Takes itself for durable."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.failure: StoreError | None = None
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.written: list[Write] = []

    async def write(self, writes: Sequence[Write]) -> None:
        await self.may_write.wait()
        if self.failure is not None:
            raise self.failure
        await super().write(writes)
        self.written += writes


class Gated(LLMCallStrategy[str]):
    """Answers once its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[str] = []
        self.running = 0
        self.failure: Exception | None = None

    async def execute(
        self, prompt: str, attempt: int, timeout: float, state: dict[str, Any] | None = None
    ) -> tuple[str, TokenUsage]:
        self.calls.append(prompt)
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if self.failure is not None:
            raise self.failure
        return prompt, {"input_tokens": 10, "cached_input_tokens": 7, "output_tokens": 1}


class Catalogue:
    def __init__(self, shared: SharedStrategy) -> None:
        self.shared = shared

    def get(self, name: str) -> Any:
        if name != "s":
            raise BatchLLMError(f"no strategy {name!r}", reason=ErrorReason.STRATEGY_NOT_FOUND)
        return SimpleNamespace(shared=self.shared)


@dataclass
class House:
    store: Store
    strategy: Gated
    shared: SharedStrategy
    engine: Engine
    batches: Batches

    async def open(self, **opening: Any) -> LiveBatch:
        return await self.batches.open(pb.OpenBatch(**{"batch_id": "b", "strategy": "s", **opening}))

    async def close(self, batch: LiveBatch) -> None:
        """Leave a batch, and wait until it is let go of."""
        batch.leave()
        await batch.closed.wait()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    store, strategy = Store(), Gated()
    shared = SharedStrategy(strategy, name="s")

    async def pause(seconds: float) -> None:
        await asyncio.sleep(0)

    journal = Journal(store, JournalWriter(store, sleep=pause), "me", 30)
    catalogue: Any = Catalogue(shared)
    engine = Engine(
        catalogue, Registrations(catalogue, journal), Executor(sleep=pause), ServerSettings(state_dir=tmp_path), journal
    )
    house = House(store, strategy, shared, engine, Batches(engine, retention_seconds=60))
    yield house
    store.failure = None
    store.may_write.set()
    strategy.gate.set()
    await house.batches.drain(5)
    assert shared.users == 0, "what a batch leases it gives back"


def frame(*prompts: str) -> list[pb.WorkItems]:
    return [pb.WorkItems(items=[WorkItem(item_id=prompt, prompt=prompt) for prompt in prompts])]


def many(count: int, prefix: str = "p") -> list[pb.WorkItems]:
    return frame(*(f"{prefix}{number}" for number in range(count)))


async def until(true: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come true")


async def take(batch: LiveBatch, count: int) -> list[Message]:
    results: list[Message] = []
    while len(results) < count:
        results += await batch.take(100)
    return results


async def replayed(batch: LiveBatch, after: int = 0) -> list[Message]:
    return [message async for group in batch.replay(after) for message in group]


# -- the order of promises ---------------------------------------------------------------------------------------------


async def test_no_call_is_made_before_its_beginning_is_durable(house: House) -> None:
    batch = await house.open()
    await batch.accept(frame("a"))
    house.store.may_write.clear()
    await until(lambda: house.engine.journal.writer.waiting > 0)
    assert house.strategy.calls == []
    house.store.may_write.set()
    assert [result.item_id for result in await take(batch, 1)] == ["a"]
    await house.close(batch)


async def test_no_result_is_given_before_it_is_durable(house: House) -> None:
    batch = await house.open()
    house.strategy.gate.clear()
    await batch.accept(frame("a"))
    await until(lambda: house.strategy.running == 1)
    house.store.may_write.clear()
    house.strategy.gate.set()
    taking = asyncio.create_task(batch.take(10))
    await until(lambda: house.engine.journal.writer.waiting > 0)
    assert not taking.done()
    house.store.may_write.set()
    assert [result.sequence for result in await taking] == [1]
    await house.close(batch)


async def test_items_that_were_begun_and_have_no_result_are_never_more_than_may_be_in_flight(house: House) -> None:
    batch = await house.open(max_concurrency=3)
    await batch.accept(many(200))
    await take(batch, 200)
    await house.close(batch)
    begun: set[int] = set()
    most = 0
    for write in house.store.written:
        if isinstance(write, Starts):
            begun.update(write.indexes)
        if isinstance(write, Results):
            assert begun.issuperset(write.indexes)
            begun.difference_update(write.indexes)
        most = max(most, len(begun))
    assert (most, begun) == (3, set())


async def test_results_that_are_ready_together_share_a_record(house: House) -> None:
    batch = await house.open()
    house.strategy.gate.clear()
    await batch.accept(many(100))
    await until(lambda: house.strategy.running == 100)
    writes = len(house.store.written)
    house.strategy.gate.set()
    await take(batch, 100)
    assert len(house.store.written) - writes <= 2, "the results and the sums after them"
    assert len([write for write in house.store.written if isinstance(write, Results)]) == 1
    await house.close(batch)


# -- a store that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [True, False])
async def test_items_that_cannot_be_recorded_are_refused_and_taken_later(house: House, full: bool) -> None:
    batch = await house.open()
    await batch.accept(frame("a"))
    await take(batch, 1)
    house.store.failure = StoreError("no", full=full)
    with pytest.raises(StoreError) as refused:
        await batch.accept(frame("a", "b"))
    assert refused.value.reason is (ErrorReason.JOURNAL_FULL if full else ErrorReason.JOURNAL_UNAVAILABLE)
    assert batch.items == 1
    house.store.failure = None
    await until(lambda: house.engine.journal.writer.failure is None)
    assert await batch.accept(frame("a", "b"))
    assert [(result.item_id, result.sequence) for result in await take(batch, 1)] == [("b", 2)]
    assert (batch.items, house.strategy.calls) == (2, ["a", "b"])
    await house.close(batch)


async def test_items_that_could_not_be_recognised_are_refused_and_taken_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small() -> ItemIndex:
        index = ItemIndex()
        index._db.execute("PRAGMA max_page_count = 8")
        return index

    house.strategy.gate.clear()
    batch = await house.open(detach=True)
    with monkeypatch.context() as patch:
        patch.setattr(batch_items, "ItemIndex", small)
        await batch.accept(frame("first"))
        with pytest.raises(StoreError, match="SQLITE_TMPDIR") as failure:
            await batch.accept(many(1000))
    assert failure.value.reason is ErrorReason.JOURNAL_FULL
    assert batch.items == 1
    batch.leave()
    house.strategy.gate.set()
    assert await house.open() is batch, "it runs by itself"
    await batch.accept(many(1000))
    assert batch.items == 1001
    batch.seal()
    await batch.closed.wait()
    assert batch.result is not None
    assert batch.result.succeeded == 1001
    batch.leave()


async def test_a_batch_that_is_handed_over_is_taken_in_whole(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long its items wait to be run; time limits count from when they came."""
    house.strategy.gate.clear()
    batch = await house.open(detach=True, max_concurrency=1)
    for group in range(6):
        await batch.accept(many(600, f"{group}-"))
    last = WorkItem(item_id="last", prompt="last")
    last.timeout.seconds = 60
    await batch.accept([pb.WorkItems(items=[last])])
    assert (batch.items, house.strategy.calls) == (3601, ["0-0"])
    batch.seal()
    batch.leave()
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + 61)
    house.strategy.gate.set()
    await batch.closed.wait()
    assert house.strategy.calls == [f"{group}-{number}" for group in range(6) for number in range(600)]
    assert batch.result is not None
    assert (batch.result.succeeded, dict(batch.result.failures_by_reason)) == (3600, {"ITEM_DEADLINE_EXCEEDED": 1})


async def test_results_are_kept_while_the_store_fails_and_written_when_it_works(house: House) -> None:
    batch = await house.open(max_concurrency=2)
    house.strategy.gate.clear()
    await batch.accept(many(5))
    await until(lambda: house.strategy.running == 2)
    house.store.failure = StoreError("full", full=True)
    house.strategy.gate.set()
    await until(lambda: house.engine.journal.writer.failure is not None)
    assert (len(house.strategy.calls), batch.sequence) == (2, 0), "what cannot be recorded is not begun"
    house.store.failure = None
    assert len(await take(batch, 5)) == 5
    batch.seal()
    await batch.closed.wait()
    assert batch.result is not None
    assert (batch.result.succeeded, len(house.strategy.calls)) == (5, 5)
    batch.leave()


async def test_a_batch_that_another_sidecar_has_taken_stops_at_once(house: House) -> None:
    batch = await house.open(max_concurrency=2, detach=True)
    house.strategy.gate.clear()
    await batch.accept(many(5))
    await until(lambda: house.strategy.running == 2)
    held = house.store._held["b"].batch
    held.record = replace(held.record, owner="other", fence=held.record.fence + 1)  # as a claim would
    with pytest.raises(FencedError):
        await batch.accept(frame("new"))
    assert await batch.take(10) == []
    await batch.closed.wait()
    assert isinstance(batch.failure, FencedError)
    assert (house.strategy.running, batch.result) == (0, None)
    batch.leave()
    with pytest.raises(BatchLLMError) as refused:
        await house.open()
    assert refused.value.reason is ErrorReason.BATCH_IN_USE


async def test_a_batch_that_another_sidecar_has_taken_makes_no_further_attempts(house: House) -> None:
    """Also if this sidecar has not heard of it: it may have stood still, with answers of its calls on their way."""
    batch = await house.open(max_concurrency=2, detach=True)
    house.strategy.gate.clear()
    await batch.accept(many(2))
    await until(lambda: house.strategy.running == 2)
    held = house.store._held["b"].batch
    held.record = replace(held.record, owner="other", fence=held.record.fence + 1)
    house.strategy.failure = ProviderError("busy", status=503)
    house.strategy.gate.set()
    await batch.closed.wait()
    assert isinstance(batch.failure, FencedError)
    assert len(house.strategy.calls) == 2
    batch.leave()


async def test_a_batch_runs_elsewhere_until_its_lease_ends(house: House) -> None:
    """By the store's clock, though ours says another time."""
    await house.close(await house.open())
    house.store.shared = True
    held, now = house.store._held["b"].batch, time.time() + 3600
    house.store._clock = lambda: now
    for seconds in (1, -1):
        held.record = replace(held.record, owner="other", lease_until=now + seconds)
        assert (await house.batches.get("b")).running == (seconds > 0)
        (listed,), _ = await house.batches.page(1, "")
        assert listed.running == (seconds > 0)


async def test_a_batch_that_is_erased_while_it_is_read(house: House) -> None:
    """As another sidecar may: that one does not know who reads it here."""
    batch = await house.open()
    await batch.accept(many(2))
    batch.seal()
    await house.close(batch)
    again = await house.open()
    await house.store.delete("b")
    with pytest.raises(BatchLLMError) as gone:
        [results async for results in again.replay(0)]
    assert gone.value.reason is ErrorReason.BATCH_NOT_FOUND
    await house.close(again)


async def test_a_stream_that_hangs_does_not_keep_a_batch_from_being_cut_short(house: House) -> None:
    batch = await house.open(max_concurrency=1)
    house.strategy.gate.clear()
    await batch.accept(many(2))
    await until(lambda: house.strategy.running == 1)
    batch.drain()
    await batch.cut_short("now")
    await batch.closed.wait()
    assert (house.strategy.running, batch.result, len(house.strategy.calls)) == (0, None, 1)
    assert isinstance(batch.failure, BatchLLMError)
    assert batch.failure.reason is ErrorReason.SERVER_DRAINING
    record = await house.store.get("b")
    assert record is not None
    assert (record.items, record.results, record.owner) == (2, 0, "")
    recovery = await recover(house.store, record, ordered=False)
    assert recovery.maybe_billed == {0}
    batch.leave()


# -- lives -------------------------------------------------------------------------------------------------------------


async def test_sums_and_cache_costs_go_through_all_lives_once(house: House) -> None:
    spent = Receipt(cache_creation_tokens=100, cache_creation_nano_usd=30, storage_until_expiry_nano_usd=7)
    for life in range(3):
        batch = await house.open()
        assert batch.opened().last_sequence == 10 * life
        if life == 0:
            batch._session.account.receipt.add(spent)
        await batch.accept(many(10, f"life{life}-"))
        await take(batch, 10)
        await house.close(batch)
    last = await house.open()
    last.seal()
    await last.closed.wait()
    assert last.result is not None
    assert (last.result.total_items, last.result.total_cached_tokens) == (30, 210)
    assert last.result.effective_input_tokens == 300 - 189  # 0.9 of 210, rounded once
    assert (last.result.receipt.cache_creation_tokens, last.result.receipt.cache_creation_nano_usd) == (100, 30)
    assert last.result.receipt.storage_until_expiry_nano_usd == 0, "of an earlier life it is not true any more"
    last.leave()


async def test_what_is_in_memory_is_dropped_while_nobody_takes_it_and_replayed(house: House) -> None:
    batch = await house.open(detach=True)
    await batch.accept(many(3000))
    batch.leave()
    await until(lambda: batch.sequence == 3000)
    assert not batch._outbox.has_ready
    again = await house.open(detach=True)
    assert again is batch
    messages = await replayed(batch, 5)
    assert [message.sequence for message in messages] == list(range(6, 3001))
    assert all(message.replayed for message in messages)
    batch.seal()
    assert await batch.take(10) == []
    batch.leave()


async def test_a_long_backlog_is_read_as_it_is_run(house: House) -> None:
    batch = await house.open(max_concurrency=1)
    house.strategy.gate.clear()
    for part in range(7):  # more than the inbox takes
        await batch.accept(many(200, f"part{part}-"))
    await until(lambda: house.strategy.running == 1)
    closing = asyncio.create_task(house.close(batch))
    house.strategy.gate.set()
    await closing
    done = batch.sequence
    assert 1 <= done < 100
    batch = await house.open()
    assert batch.opened().items == 1400
    results = await take(batch, 1400 - done)
    assert sorted(result.submission_index for result in results) == list(range(done, 1400))
    assert len(house.strategy.calls) == 1400
    await house.close(batch)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("recorded", [0, 2, 4])
async def test_sums_are_made_up_for_results_that_came_after_the_last_checkpoint(
    house: House, ordered: bool, recorded: int
) -> None:
    batch = await house.open()
    await house.close(batch)
    record = await house.store.claim("b", "me", 30)
    assert record is not None
    results = [
        WorkItemResult(
            item_id=str(index),
            success=index != 1,
            token_usage=TokenUsage(input_tokens=100, output_tokens=10, total_tokens=110, cached_input_tokens=50),
            reason=None if index != 1 else ErrorReason.CANCELLED,
            submission_index=index,
            sequence=(index + 1) if ordered else number + 1,
            bill=Receipt(fresh_input_tokens=50, fresh_input_nano_usd=9, full_price_nano_usd=11) if index == 2 else None,
        )
        for number, index in enumerate((0, 1, 3, 2))
    ]
    totals, counted = BatchTotals(), BatchTotals()
    for number, result in enumerate(results):
        totals.add(result)
        if number < recorded:
            counted.add(result)
    writes: list[Write] = [Items("b", record.fence, 0, 6, pb.WorkItems(items=[WorkItem()] * 6).SerializeToString())]
    for result in results:
        message = mapping.result_message(result)
        payload = pb.WorkItemResults(results=[message]).SerializeToString()
        failed = int(not result.success)
        writes.append(Results("b", record.fence, (result.sequence,), (result.submission_index,), failed, payload))
    writes.append(Starts("b", record.fence, (0, 1, 3, 2, 5)))
    if recorded:
        writes.append(Change("b", record.fence, result=checkpoint(counted, Receipt(cache_creation_tokens=5))))
    await house.store.write(writes)
    record = await house.store.get("b")
    assert record is not None
    recovery = await recover(house.store, record, ordered=ordered)
    assert recovery.totals.dump() == totals.dump()
    assert recovery.account == Receipt(cache_creation_tokens=5 if recorded else 0)
    assert recovery.maybe_billed == {5}
    assert recovery.done == bytearray([1, 1, 1, 1, 0, 0])
    assert (recovery.released, recovery.beyond) == (4, [])


async def test_what_a_batch_in_memory_left_is_forgotten_after_a_while(house: House) -> None:
    house.store.durable = False
    batch = await house.open()
    house.strategy.gate.clear()
    await batch.accept(frame("a"))
    await until(lambda: house.strategy.running == 1)
    await house.batches._forget(time.time() + 60)
    assert await house.store.get("b") is not None, "it runs"
    house.strategy.gate.set()
    await take(batch, 1)
    await house.close(batch)
    await house.batches._forget(time.time() - 60)
    assert await house.store.get("b") is not None, "it is young"
    await house.batches._forget(time.time() + 60)
    assert await house.store.get("b") is None


async def test_what_is_done_from_time_to_time_outlives_damage(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = {"resumable": 0, "expire": 0}
    rounds = asyncio.Semaphore(0)

    def damaged(name: str) -> Callable[..., Any]:
        async def ask(*_: object) -> None:
            tries[name] += 1
            raise DamagedError("a page is damaged")

        return ask

    for name in tries:
        monkeypatch.setattr(house.store, name, damaged(name))

    async def next_round(_: float) -> None:
        await rounds.acquire()

    batches = Batches(house.engine, retention_seconds=60, sleep=next_round)
    batches.start()
    await until(lambda: min(tries.values()) == 1)
    rounds.release()
    rounds.release()
    await until(lambda: min(tries.values()) == 2)
    await batches.drain(5)


async def test_a_store_that_stood_still_gives_owners_time_before_batches_are_taken_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    clock, stood_still = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: clock() + stood_still[0])
    monkeypatch.setattr(house.store, "shared", True)
    answers = [["theirs"], []]  # the second, once its owner has renewed its lease
    taken_up: list[str] = []

    async def resumable() -> list[str]:
        if len(answers) == 2:
            stood_still[0] = house.engine.journal.lease_seconds
        return answers.pop(0)

    async def sleep(seconds: float) -> None:
        if seconds <= house.engine.journal.lease_seconds:
            await asyncio.Event().wait()

    async def take_up(batch_id: str) -> None:
        taken_up.append(batch_id)

    monkeypatch.setattr(house.store, "resumable", resumable)
    batches = Batches(house.engine, retention_seconds=60, sleep=sleep)
    monkeypatch.setattr(batches, "_take_up", take_up)
    batches.start()
    await until(lambda: not answers or bool(taken_up))
    assert taken_up == []
    await batches.drain(5)
