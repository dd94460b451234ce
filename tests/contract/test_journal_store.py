"""What every store of the journal must do."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batch_llm.journal.check import problems
from batch_llm.journal.store import (
    Ask,
    BatchExistsError,
    BatchState,
    Begin,
    Change,
    FencedError,
    Items,
    JournalStore,
    RefusedError,
    Registration,
    Results,
    Single,
    SingleExistsError,
    Starts,
    StrategyExistsError,
)
from batch_llm.journal.writer import JournalWriter

Make = Callable[[], JournalStore]

MEBIBYTE = 2**20


def begin(batch_id: str = "batch", **changes: Any) -> Begin:
    return Begin(
        **{"batch_id": batch_id, "opening": b"opening", "detach": False, "owner": "me", "lease_seconds": 60, **changes}
    )


def items(begun: Begin, first: int, count: int = 1, payload: bytes = b"items") -> Items:
    return Items(begun.batch_id, begun.fence, first, count, payload)


def results(begun: Begin, *sequences: int, failed: int = 0, payload: bytes | None = None) -> Results:
    indexes = tuple(sequence + 100 for sequence in sequences)
    return Results(begun.batch_id, begun.fence, sequences, indexes, failed, payload or f"results {sequences}".encode())


def finish(begun: Begin, state: BatchState = BatchState.FINISHED) -> Change:
    return Change(begun.batch_id, begun.fence, state=state, result=b"totals", owner="")


async def all_items(store: JournalStore, batch_id: str = "batch", from_index: int = 0) -> list[Items]:
    return [record async for record in store.items(batch_id, from_index)]


async def all_results(store: JournalStore, batch_id: str = "batch", after: int = 0) -> list[Results]:
    return [record async for record in store.results(batch_id, after)]


async def all_starts(store: JournalStore, batch_id: str = "batch") -> list[int]:
    return [index async for indexes in store.starts(batch_id) for index in indexes]


async def everything(store: JournalStore) -> list[Any]:
    """All that can be read of a store."""
    records = await store.list(1000)
    return [
        (record, await all_items(store, record.batch_id), await all_results(store, record.batch_id))
        for record in records
    ]


async def test_a_batch_is_kept_with_its_counters(store: JournalStore) -> None:
    begun = begin(opening=b"\x00\xff", detach=True)
    await store.write([begun])
    fresh = await store.get("batch")
    assert fresh is not None
    assert (fresh.batch_id, fresh.opening, fresh.state, fresh.detach) == ("batch", b"\x00\xff", BatchState.OPEN, True)
    assert (fresh.owner, fresh.fence, fresh.result) == ("me", begun.fence, b"")
    assert fresh.lease_until == pytest.approx(fresh.create_time + 60)
    assert fresh.update_time == fresh.create_time
    await store.write([items(begun, 0, 3), results(begun, 1, 2, failed=1)])
    await store.write([items(begun, 3, 2), results(begun, 3, failed=1), Change("batch", begun.fence, opening=b"new")])
    record = await store.get("batch")
    assert record is not None
    assert (record.items, record.results, record.failed, record.opening) == (5, 3, 2, b"new")
    assert record.create_time == fresh.create_time
    assert record.update_time > fresh.update_time
    assert await store.get("other") is None


async def test_a_change_leaves_what_it_does_not_name(store: JournalStore) -> None:
    begun = begin(detach=True)
    await store.write([begun])
    before = await store.get("batch")
    await store.write([Change("batch", begun.fence, lease_seconds=1000)])
    leased = await store.get("batch")
    assert before is not None
    assert leased is not None
    assert leased.lease_until > before.lease_until + 900
    assert leased.update_time == before.update_time, "a lease does not put retention off"
    await store.write([Change("batch", begun.fence, state=BatchState.SEALED, detach=False)])
    await store.write([finish(begun, BatchState.CANCELLED)])
    ended = await store.get("batch")
    assert ended is not None
    assert (ended.state, ended.detach, ended.result, ended.owner) == (BatchState.CANCELLED, False, b"totals", "")
    assert (ended.opening, ended.lease_until) == (b"opening", leased.lease_until)


async def test_records_come_back_in_order(store: JournalStore) -> None:
    begun, other = begin(), begin("another")
    await store.write([begun, other])
    written_items, written_results = [], []
    first = sequence = 0
    lots = random.Random(5)
    for number in range(400):
        count = lots.randint(1, 5)
        written_items.append(items(begun, first, count, f"items {number}".encode()))
        written_results.append(results(begun, *range(sequence + 1, sequence + 1 + count), failed=number % 2))
        first, sequence = first + count, sequence + count
        await store.write([written_items[-1], results(other, number + 1), written_results[-1]])
    assert [(r.first_index, r.count, r.payload) for r in await all_items(store)] == [
        (w.first_index, w.count, w.payload) for w in written_items
    ]
    assert [(r.sequences, r.indexes, r.failed, r.payload) for r in await all_results(store)] == [
        (w.sequences, w.indexes, w.failed, w.payload) for w in written_results
    ]
    assert len(await all_results(store, "another")) == 400


async def test_items_from_any_index(store: JournalStore) -> None:
    begun = begin()
    await store.write([begun, items(begun, 0, 3), items(begun, 3, 2), items(begun, 5, 1)])
    firsts = [[record.first_index for record in await all_items(store, from_index=index)] for index in range(8)]
    assert firsts == [[0, 3, 5], [0, 3, 5], [0, 3, 5], [3, 5], [3, 5], [5], [], []]


async def test_results_after_any_sequence(store: JournalStore) -> None:
    begun = begin()
    await store.write([begun])
    for sequences in ((4, 2), (1,), (3, 6), (5,), (7,)):
        await store.write([results(begun, *sequences)])
    found = [[record.sequences for record in await all_results(store, after=after)] for after in range(9)]
    whole = [(1,), (4, 2), (5,), (3, 6), (7,)]
    assert found == [whole, *[whole[1:]] * 3, whole[2:], whole[3:], whole[4:], [], []]


async def test_starts(store: JournalStore) -> None:
    begun = begin()
    await store.write([begun, Starts("batch", begun.fence, (0, 2)), Starts("batch", begun.fence, (1,))])
    await store.write([Starts("batch", begun.fence, (2, 2**32 - 1)), Starts("batch", begun.fence, ())])
    assert await all_starts(store) == [0, 2, 1, 2, 2**32 - 1]


async def test_unknown_batches_hold_nothing(store: JournalStore) -> None:
    assert await all_items(store, "none") == await all_results(store, "none") == await all_starts(store, "none") == []
    assert await store.claim("none", "me", 60) is None
    assert not await store.delete("none")


@pytest.mark.parametrize("bad", ["fence", "unknown", "begin", "single", "gap", "overlap", "sequence", "nul"])
async def test_a_transaction_is_kept_whole_or_not_at_all(store: JournalStore, bad: str) -> None:
    begun = begin()
    await store.write([begun, items(begun, 0), results(begun, 1), Single("key", b"digest", b"result")])
    wrong, error = {
        "fence": (Starts("batch", begun.fence + 1, (0,)), FencedError),
        "unknown": (items(begin("unknown"), 0), FencedError),
        "begin": (begin(), BatchExistsError),
        "single": (Single("key", b"digest", b"another"), SingleExistsError),
        "gap": (items(begun, 5), ValueError),
        "overlap": (items(begun, 0), ValueError),
        "sequence": (results(begun, 1), ValueError),
        "nul": (begin("nul\0"), ValueError),
    }[bad]
    before = await everything(store)
    new = begin("new")
    writes = [new, items(new, 0), items(begun, 1), Starts("batch", begun.fence, (0,)), results(begun, 2)]
    with pytest.raises(error) as refused:
        await store.write([*writes, Single("new", b"digest", b""), wrong])
    if isinstance(refused.value, RefusedError):
        assert refused.value.write is wrong
    assert await everything(store) == before
    assert await all_starts(store) == []
    assert await store.single("new") is None
    await store.write(writes)
    assert len(await everything(store)) == 2


async def test_claims(store: JournalStore) -> None:
    begun = begin(owner="a")
    await store.write([begun])
    assert await store.claim("batch", "b", 60) is None, "it is another's"
    again = await store.claim("batch", "a", 60)
    assert again is not None
    assert (again.owner, again.fence > begun.fence) == ("a", True)
    with pytest.raises(FencedError) as fenced:
        await store.write([results(begun, 1)])
    assert fenced.value.batch_id == "batch"
    await store.write([Change("batch", again.fence, lease_seconds=0)])
    taken = await store.claim("batch", "b", 60)
    assert taken is not None, "the lease has ended"
    assert (taken.owner, taken.fence > again.fence) == ("b", True)
    assert await store.get("batch") == taken
    await store.write([Change("batch", taken.fence, owner="")])
    freed = await store.claim("batch", "c", 60)
    assert freed is not None, "it was let go of"
    await store.write([Change("batch", freed.fence, state=BatchState.FINISHED, owner="")])
    assert await store.claim("batch", "d", 60) is not None, "one that has ended too"


async def test_a_lease_is_won_once(store: JournalStore, make_store: Make) -> None:
    rivals = [store]
    if store.shared:
        rivals += [make_store() for _ in range(3)]
        await asyncio.gather(*(rival.open() for rival in rivals[1:]))
    begun = begin(owner="", lease_seconds=0)
    await store.write([begun])
    fences = [begun.fence]
    for _ in range(10):
        claims = [
            rivals[number % len(rivals)].claim("batch", f"owner {number}", 60) for number in range(4 * len(rivals))
        ]
        won = [record for record in await asyncio.gather(*claims) if record]
        assert len(won) == 1
        fences.append(won[0].fence)
        await store.write([Change("batch", fences[-1], owner="")])
    assert fences == sorted(set(fences))
    for rival in rivals[1:]:
        await rival.close()


async def test_one_of_two_begins_wins(store: JournalStore, make_store: Make) -> None:
    rivals = [store]
    if store.shared:
        rivals.append(make_store())
        await rivals[1].open()
    for number in range(20):
        writes = [begin(f"batch {number}") for _ in range(6)]
        outcomes = await asyncio.gather(
            *(rivals[place % len(rivals)].write([write]) for place, write in enumerate(writes)), return_exceptions=True
        )
        (winner,) = [write for write, outcome in zip(writes, outcomes, strict=True) if outcome is None]
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [BatchExistsError] * 5
        record = await store.get(winner.batch_id)
        assert record is not None
        assert record.fence == winner.fence
    for rival in rivals[1:]:
        await rival.close()


async def test_a_fence_of_an_erased_batch_does_not_open_its_successor(store: JournalStore) -> None:
    old, new = begin(), begin()
    await store.write([old, finish(old)])
    assert await store.delete("batch")
    with pytest.raises(FencedError):
        await store.write([results(old, 1)])
    await store.write([new])
    with pytest.raises(FencedError):
        await store.write([results(old, 1)])
    await store.write([results(new, 1)])
    assert [record.payload for record in await all_results(store)] == [b"results (1,)"]


async def test_resumable(store: JournalStore) -> None:
    free = {"owner": "", "lease_seconds": 60, "detach": True}
    batches = {
        "attached": begin("attached", **free | {"detach": False}),
        "free": begin("free", **free),
        "owned": begin("owned", **free | {"owner": "b"}),
        "over": begin("over", **free | {"owner": "b", "lease_seconds": 0}),
        "sealed": begin("sealed", **free),
        "finished": begin("finished", **free),
        "cancelled": begin("cancelled", **free),
    }
    await store.write(list(batches.values()))
    await store.write(
        [
            Change("sealed", batches["sealed"].fence, state=BatchState.SEALED),
            finish(batches["finished"]),
            finish(batches["cancelled"], BatchState.CANCELLED),
        ]
    )
    assert await store.resumable() == ["free", "over", "sealed"]


async def test_what_sidecars_ask_of_each_other(store: JournalStore) -> None:
    if not store.shared:
        assert await store.asked(["batch"]) == {}
        for call in (store.ask("batch", Ask.CANCEL), store.refuse("batch")):
            with pytest.raises(RuntimeError, match="not shared"):
                await call
        return
    batches = [begin(name, owner="", detach=name != "attached") for name in ("attached", "free", "other")]
    await store.write(batches)
    assert await store.asked(["attached", "free", "other"]) == {}
    await store.ask("free", Ask.YIELD)
    assert await store.resumable() == ["other"], "a client comes for it"
    await store.refuse("free")
    assert await store.resumable() == ["free", "other"]
    await store.ask("attached", Ask.CANCEL)
    assert await store.resumable() == ["attached", "free", "other"], "somebody must cancel it"
    await store.ask("attached", Ask.YIELD)
    await store.ask("other", Ask.YIELD)
    await store.refuse("attached")
    assert await store.asked(["attached", "free", "other"]) == {"attached": Ask.CANCEL, "other": Ask.YIELD}
    for name in ("attached", "other"):
        assert await store.claim(name, "me", 60)
    assert await store.asked(["attached", "other"]) == {"attached": Ask.CANCEL}
    assert await store.delete("attached")
    assert await store.asked(["attached"]) == {}


async def test_its_clock_is_that_of_its_times(store: JournalStore) -> None:
    before = await store.now()
    await store.write([begin()])
    record = await store.get("batch")
    assert record is not None
    assert before <= record.create_time <= await store.now()


async def test_listing_by_pages_and_states(store: JournalStore) -> None:
    names = sorted(f"{letter}{number}" for letter in ("b", "B", "é", "\U0001f600", "_") for number in range(5))
    begun = [begin(name) for name in random.Random(1).sample(names, len(names))]
    await store.write(begun)
    await store.write([finish(each) for each in begun if each.batch_id.endswith("3")])
    pages: list[list[str]] = []
    while page := await store.list(7, pages[-1][-1] if pages else ""):
        pages.append([record.batch_id for record in page])
    assert [len(page) for page in pages] == [7, 7, 7, 4]
    assert [name for page in pages for name in page] == names
    ended = await store.list(3, "_4", [BatchState.FINISHED, BatchState.CANCELLED])
    assert [record.batch_id for record in ended] == ["b3", "é3", "\U0001f6003"]


async def test_singles(store: JournalStore) -> None:
    assert await store.single("key") is None
    await store.write([Single("key", b"digest", b"")])
    await store.write([Single("key", b"digest", b"")])
    begun = await store.single("key")
    assert begun is not None
    assert (begun.digest, begun.result, begun.owner) == (b"digest", b"", "")
    for refused in (Single("key", b"other", b""), Single("key", b"other", b"result")):
        with pytest.raises(SingleExistsError) as error:
            await store.write([refused])
        assert error.value.key == "key"
    await store.write([Single("other", b"x", b""), Single("key", b"digest", b"result")])
    ended = await store.single("key")
    assert ended is not None
    assert (ended.digest, ended.result) == (b"digest", b"result")
    with pytest.raises(SingleExistsError):
        await store.write([Single("key", b"digest", b"")])


async def test_a_single_is_its_owners_while_the_lease_lasts(store: JournalStore) -> None:
    mine, others = (Single("key", b"digest", b"", owner, 60) for owner in ("me", "other"))
    await store.write([mine])
    known = await store.single("key")
    assert known is not None
    assert (known.owner, known.lease_until) == ("me", pytest.approx(await store.now() + 60, abs=30))
    for refused in (others, replace(others, result=b"result")):
        with pytest.raises(SingleExistsError):
            await store.write([refused])
    await store.write([mine])
    await store.write([replace(mine, lease_seconds=0)])
    await store.write([others])
    with pytest.raises(SingleExistsError):
        await store.write([replace(mine, result=b"late")])
    await store.write([replace(others, result=b"result")])
    ended = await store.single("key")
    assert ended is not None
    assert ended.result == b"result"


async def test_one_of_two_sidecars_has_an_idempotency_key(store: JournalStore, make_store: Make) -> None:
    rivals = [store]
    if store.shared:
        rivals.append(make_store())
        await rivals[1].open()
    for number in range(20):
        writes = [Single(f"key {number}", b"digest", b"", f"owner {place}", 60) for place in range(6)]
        outcomes = await asyncio.gather(
            *(rivals[place % len(rivals)].write([write]) for place, write in enumerate(writes)), return_exceptions=True
        )
        (winner,) = [write for write, outcome in zip(writes, outcomes, strict=True) if outcome is None]
        known = await store.single(winner.key)
        assert known is not None
        assert known.owner == winner.owner
    for rival in rivals[1:]:
        await rival.close()


async def test_one_of_two_items_wins_an_idempotency_key(store: JournalStore, make_store: Make) -> None:
    rivals = [store]
    if store.shared:
        rivals.append(make_store())
        await rivals[1].open()
    for number in range(20):
        writes = [Single(f"key {number}", f"digest {place}".encode(), b"") for place in range(6)]
        outcomes = await asyncio.gather(
            *(rivals[place % len(rivals)].write([write]) for place, write in enumerate(writes)), return_exceptions=True
        )
        (winner,) = [write for write, outcome in zip(writes, outcomes, strict=True) if outcome is None]
        known = await store.single(winner.key)
        assert known is not None
        assert known.digest == winner.digest
    for rival in rivals[1:]:
        await rival.close()


async def test_strategies_are_kept_as_they_were_given(store: JournalStore) -> None:
    first, second = Registration("b", b"\x00\xff"), Registration("a-Ö", b"")
    await store.write([first, begin(), second])
    assert await store.strategies() == [second, first]
    assert await store.strategies(["b", "unknown", "b", "\0"]) == [first]
    assert await store.strategies([]) == []
    assert await store.unregister("b")
    assert not await store.unregister("b")
    assert not await store.unregister("\0")
    assert await store.strategies() == [second]
    await store.write([Registration("b", b"another")])
    assert await store.strategies(["b"]) == [Registration("b", b"another")]


@pytest.mark.parametrize("known", [True, False])
async def test_a_strategy_of_a_known_name_is_refused(store: JournalStore, known: bool) -> None:
    first, second = Registration("s", b"first"), Registration("s", b"second")
    if known:
        await store.write([first])
    writes = [begin(), *([] if known else [first]), second]
    with pytest.raises(StrategyExistsError) as raised:
        await store.write(writes)
    assert (raised.value.write, raised.value.name) == (second, "s")
    assert await store.get("batch") is None
    assert await store.strategies() == ([first] if known else [])
    with pytest.raises(ValueError, match="NUL"):
        await store.write([Registration("a\0", b"")])


async def test_a_refused_strategy_takes_no_other_write_with_it(store: JournalStore) -> None:
    writer = JournalWriter(store)
    first, second = Registration("s", b"first"), Registration("s", b"second")
    begun = begin()
    done = await asyncio.gather(*map(writer.offer, (first, second, begun)), return_exceptions=True)
    assert [type(one) for one in done] == [type(None), StrategyExistsError, type(None)]
    assert await store.strategies() == [first]
    assert await store.get("batch") is not None


async def test_one_of_two_registrations_wins(store: JournalStore, make_store: Make) -> None:
    rival = make_store() if store.shared else store
    if store.shared:
        await rival.open()
    for number in range(10):
        name = f"s{number}"
        registrations = [Registration(name, b"one"), Registration(name, b"other")]
        writes = store.write([registrations[0]]), rival.write([registrations[1]])
        done = await asyncio.gather(*writes, return_exceptions=True)
        (lost,) = [place for place, one in enumerate(done) if isinstance(one, StrategyExistsError)]
        assert await store.strategies([name]) == await rival.strategies([name]) == [registrations[1 - lost]]
    if store.shared:
        await rival.close()


async def test_erasing_a_batch(store: JournalStore) -> None:
    begun, other = begin(), begin("other")
    for each in (begun, other):
        await store.write([each, items(each, 0, 2), results(each, 1, 2), Starts(each.batch_id, each.fence, (0, 1))])
    untouched = await everything(store)
    assert await store.delete("batch")
    assert not await store.delete("batch")
    assert await store.get("batch") is None
    assert await all_items(store) == await all_results(store) == await all_starts(store) == []
    assert await everything(store) == untouched[1:]
    again = begin()
    await store.write([again, items(again, 0)])
    assert len(await all_items(store)) == 1
    assert await all_results(store) == []


async def test_retention_erases_what_has_ended(store: JournalStore) -> None:
    batches = {name: begin(name) for name in ("open", "finished", "cancelled", "sealed")}
    for each in batches.values():
        await store.write([each, items(each, 0), results(each, 1)])
    await store.write(
        [
            finish(batches["finished"]),
            finish(batches["cancelled"], BatchState.CANCELLED),
            Change("sealed", batches["sealed"].fence, state=BatchState.SEALED),
            Single("key", b"digest", b"result"),
        ]
    )
    assert await store.expire(3600) == 0
    assert len(await store.list(10)) == 4
    assert await store.single("key") is not None
    assert await store.expire(-3600) == 2
    assert [record.batch_id for record in await store.list(10)] == ["open", "sealed"]
    assert len(await all_items(store, "open")) == 1
    assert await all_items(store, "finished") == []
    assert await store.single("key") is None


async def test_big_records(store: JournalStore) -> None:
    begun = begin(opening=random.Random(1).randbytes(MEBIBYTE))
    big = [random.Random(seed).randbytes(32 * MEBIBYTE) for seed in (1, 2)]
    payloads = [big[0], b"", big[1]]
    await store.write([begun, *(items(begun, first, payload=payload) for first, payload in enumerate(payloads))])
    await store.write([results(begun, 1, payload=big[1]), results(begun, 2, payload=big[0])])
    assert [record.payload for record in await all_items(store)] == payloads
    assert [record.payload for record in await all_results(store)] == [big[1], big[0]]
    assert [record.payload for record in await all_results(store, after=1)] == [big[0]]


async def test_unicode(store: JournalStore) -> None:
    name = "партия-バッチ-\U0001f4e6-' \" % \\ ; -- é"
    begun = begin(name, owner="владелец")
    await store.write([begun, items(begun, 0), Single(f"clé {name}", b"\0", b"")])
    record = await store.get(name)
    assert record is not None
    assert (record.batch_id, record.owner) == (name, "владелец")
    assert [each.batch_id for each in await all_items(store, name)] == [name]
    assert await store.single(f"clé {name}") is not None
    assert await store.delete(name)


async def test_a_hundred_thousand_small_records(store: JournalStore) -> None:
    begun, writer = begin(), JournalWriter(store)
    await writer.offer(begun)
    count = 100_000
    written = [writer.record(results(begun, number)) for number in range(1, count + 1)]
    await asyncio.gather(*written)
    expected = 1
    async for record in store.results("batch"):
        assert record.sequences == (expected,)
        expected += 1
    assert expected == count + 1
    assert [record.sequences for record in await all_results(store, after=count - 1)] == [(count,)]


async def test_what_was_written_outlives_the_store(make_store: Make) -> None:
    store = make_store()
    await store.open()
    begun = begin()
    await store.write([begun, items(begun, 0, 3), Starts("batch", begun.fence, (0,)), results(begun, 1)])
    before = await everything(store)
    await store.close()
    again = make_store()
    await again.open()
    after = await everything(again)
    if not store.durable:
        assert after == []
        return
    assert [rows[1:] for rows in after] == [rows[1:] for rows in before]
    assert await all_starts(again) == [0]
    record = await again.get("batch")
    assert record is not None
    assert (record.owner == "me") == again.shared, "of a store of its own, whoever had batches is dead"
    assert (await again.claim("batch", "new", 60) is not None) == (not again.shared)
    await again.close()


async def test_a_whole_store_has_no_problems(store: JournalStore) -> None:
    for number in range(150):
        begun = begin(f"batch {number}")
        await store.write(
            [begun, items(begun, 0, 2), Starts(begun.batch_id, begun.fence, (0, 1)), results(begun, 2, 1)]
        )
    assert [problem async for problem in problems(store)] == []


async def test_what_is_erased_while_it_is_read_is_no_damage(store: JournalStore) -> None:
    begun = begin()
    await store.write([begun])
    large = bytes(2**20)
    for number in range(9):
        await store.write([items(begun, number, payload=large), Starts("batch", begun.fence, (number,))])
        await store.write([results(begun, number + 1, payload=large)])
    reading = [store.items("batch"), store.results("batch"), store.starts("batch")]
    for each in reading[:2]:
        await anext(each)
    assert await store.delete("batch")
    for each in reading:
        assert len([found async for found in each]) < 9
