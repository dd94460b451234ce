"""Budgets that sidecars share: never more than the limit, none starved, slices without the store. Time is virtual."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random

import pytest

from batch_llm.quota import Admission, FixedDelayStrategy, Fleet, QuotaLimits, QuotaScope, QuotaUser
from batch_llm.quota.ledger import Answer, Ask
from batch_llm.quota.store import MemoryBudgets, Place

MINUTE = 60.0


def now() -> float:
    return asyncio.get_running_loop().time()


class Store(MemoryBudgets):
    """Can be lost, for all or for one; takes its time."""

    def __init__(self) -> None:
        super().__init__(now)
        self.lost: set[str] | bool = False
        self.seconds = 0.002
        self.draws = 0
        self.failures = 0  # draws to come that fail

    async def _reach(self, member: str) -> None:
        await asyncio.sleep(self.seconds)
        if self.lost is True or (self.lost and member in self.lost):
            raise TimeoutError("the store is gone")

    async def beat(self, member: str) -> Place:
        await self._reach(member)
        return await super().beat(member)

    async def draw(self, member: str, asks: Mapping[str, Ask]) -> Mapping[str, Answer]:
        await self._reach(member)
        self.draws += 1
        if self.failures:
            self.failures -= 1
            raise TimeoutError("nobody knows whether it was done")
        return await super().draw(member, asks)


class Sidecar:
    """One scope of one sidecar, and when it made calls."""

    def __init__(self, store: Store, limits: QuotaLimits, name: str = "p/m") -> None:
        self.fleet = Fleet(store)
        self.scope = QuotaScope(name, limits, FixedDelayStrategy(0), fleet=self.fleet)
        self.starts: list[float] = []
        self.used: list[tuple[float, int]] = []

    async def call(self, seconds: float = 0.0, tokens: int | None = None, prompt: int = 0) -> Admission:
        admission = await self.scope.admit(None, prompt)
        self.starts.append(now())
        if tokens is not None:
            self.used.append((now(), tokens))
        if seconds:
            await asyncio.sleep(seconds)
        self.scope.release(admission, succeeded=True, tokens=tokens)
        return admission

    def many(self, calls: int, seconds: float = 0.0, tokens: int | None = None) -> list[asyncio.Task[Admission]]:
        return [asyncio.create_task(self.call(seconds, tokens)) for _ in range(calls)]


@asynccontextmanager
async def sidecars(count: int, limits: QuotaLimits, store: Store | None = None) -> AsyncIterator[list[Sidecar]]:
    store = store or Store()
    made = [Sidecar(store, limits) for _ in range(count)]
    for each in made:
        await each.fleet.open()
    await asyncio.sleep(6)  # all know how many they are
    try:
        yield made
    finally:
        for each in made:
            await each.fleet.close()


async def end(tasks: Sequence[asyncio.Task[Admission]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def worst(times: Sequence[float]) -> int:
    """The most in any 60 seconds."""
    return max((sum(start <= time < start + MINUTE for time in times) for start in times), default=0)


def all_starts(made: Sequence[Sidecar]) -> list[float]:
    return sorted(start for each in made for start in each.starts)


@pytest.mark.parametrize(("count", "limit"), [(1, 5), (3, 30), (8, 5), (4, 1000)])
async def test_together_they_stay_within_the_limit_and_use_it(count: int, limit: int) -> None:
    async with sidecars(count, QuotaLimits(requests_per_minute=limit)) as made:
        start = now()
        tasks = [task for each in made for task in each.many(limit * 5)]
        await asyncio.sleep(1)
        assert len(all_starts(made)) == limit, "what is free goes at once"
        await asyncio.sleep(4 * MINUTE)
        await end(tasks)
        starts = all_starts(made)
    assert worst(starts) <= limit
    assert len([time for time in starts if time < start + 3.9 * MINUTE]) >= 3.8 * limit, "no more than 5 % are lost"


async def test_a_small_limit_starves_nobody() -> None:
    async with sidecars(8, QuotaLimits(requests_per_minute=5)) as made:
        tasks = [task for each in made for task in each.many(100)]
        start = now()
        await asyncio.sleep(16 * MINUTE)
        await end(tasks)
    counts = [len([time for time in each.starts if time > start + MINUTE]) for each in made]
    assert max(counts) - min(counts) <= 1, counts


async def test_one_with_little_to_do_does_not_wait_for_those_with_much() -> None:
    async with sidecars(4, QuotaLimits(requests_per_minute=600)) as made:
        tasks = [task for each in made[:3] for task in each.many(5000)]
        await asyncio.sleep(3 * MINUTE)
        start = now()
        await made[3].call()
        assert now() - start < 5
        await end(tasks)


async def test_a_grant_covers_many_calls_and_none_costs_a_draw_of_its_own_under_load() -> None:
    store = Store()
    async with sidecars(2, QuotaLimits(max_concurrency=8, requests_per_minute=60_000), store) as made:

        async def work(sidecar: Sidecar) -> None:
            until = now() + 20
            while now() < until:
                await sidecar.call(0.02)

        await asyncio.gather(*(work(each) for each in made for _ in range(8)))
        assert len(all_starts(made)) > 15_000
        assert store.draws < 200


async def test_an_idle_sidecar_holds_nothing_and_gives_back_what_it_did_not_use() -> None:
    async with sidecars(2, QuotaLimits(requests_per_minute=1200)) as made:
        first, second = made
        for _ in range(300):  # so many a second that it draws ahead
            await asyncio.gather(first.call(), asyncio.sleep(0.01))
        await asyncio.sleep(6)
        start = now()
        tasks = second.many(900)
        await asyncio.gather(*tasks)
        assert now() - start < 1


async def test_a_dead_sidecar_s_place_in_line_is_not_kept() -> None:
    async with sidecars(2, QuotaLimits(requests_per_minute=1)) as made:
        dead, alive = made
        tasks = dead.many(2)
        await asyncio.sleep(1)
        dead.fleet._task.cancel()  # type: ignore[union-attr]  # as if it were killed
        start = now()
        await alive.call()
        assert now() - start < MINUTE + 3
        await end(tasks)


async def test_a_cancelled_wait_gives_its_place_back() -> None:
    async with sidecars(2, QuotaLimits(requests_per_minute=3)) as made:
        first, second = made
        await asyncio.gather(*first.many(3))
        await asyncio.sleep(10)
        waiting = first.many(3)
        await asyncio.sleep(10)
        await end(waiting)
        await asyncio.gather(*second.many(3))
    assert worst(all_starts(made)) == 3
    assert max(second.starts) - min(first.starts) < MINUTE + 3


async def test_a_call_given_back_is_free_for_others() -> None:
    async with sidecars(2, QuotaLimits(requests_per_minute=3)) as made:
        first, second = made
        refused = [await first.scope.admit(None) for _ in range(3)]
        for admission in refused:
            await first.scope.throttled(admission, None)
            first.scope.release(admission, succeeded=False)
        await asyncio.sleep(6)
        start = now()
        await asyncio.gather(*second.many(3))
        assert now() - start < 1


async def test_tokens_stay_within_the_limit_by_what_calls_really_used() -> None:
    random = Random(7)
    async with sidecars(3, QuotaLimits(tokens_per_minute=10_000)) as made:
        tasks = []
        for each in made:
            await each.call(tokens=100)
        for each in made:
            tasks += [asyncio.create_task(each.call(0.5, random.choice((50, 150)))) for _ in range(400)]
        await asyncio.sleep(4 * MINUTE)
        await end(tasks)
        used = sorted(one for each in made for one in each.used)
    most = max(sum(tokens for at, tokens in used if start <= at < start + MINUTE) for start, _ in used)
    assert most <= 10_500, "but for what the last calls used more than was reserved"
    assert sum(tokens for _, tokens in used) > 36_000


async def test_tokens_that_were_not_used_are_free_for_others_soon() -> None:
    async with sidecars(2, QuotaLimits(tokens_per_minute=1000)) as made:
        first, second = made
        admission = await first.scope.admit(None, 900)
        start = now()
        waiting = asyncio.create_task(second.call(prompt=600))
        await asyncio.sleep(1)
        first.scope.release(admission, succeeded=True, tokens=100)
        await waiting
        assert 1 < now() - start < 12


async def test_a_users_own_limit_stays_with_its_sidecar() -> None:
    async with sidecars(2, QuotaLimits(requests_per_minute=100)) as made:
        first, second = made
        user = QuotaUser(requests_per_minute=2)
        first.scope.join(user)
        tasks = first.many(10)
        await asyncio.sleep(0.1)
        assert len(first.starts) == 2
        start = now()
        await asyncio.gather(*second.many(98))
        assert now() - start < 0.1, "it asks for no more than it may use"
        await end(tasks)


@pytest.mark.parametrize(("count", "limit", "slices"), [(3, 30, [10, 10, 10]), (3, 5, [2, 2, 1]), (4, 2, [1, 1, 0, 0])])
async def test_without_the_store_each_has_its_slice_and_together_no_more_than_the_limit(
    count: int, limit: int, slices: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    caplog.set_level(logging.INFO, "batch_llm")
    async with sidecars(count, QuotaLimits(requests_per_minute=limit), store) as made:
        store.lost = True
        tasks = [task for each in made for task in each.many(200)]
        await asyncio.sleep(30)
        assert all_starts(made) == [], "others may have used everything in the minute before"
        await asyncio.sleep(60)
        assert sorted((len(each.starts) for each in made), reverse=True) == slices
        await asyncio.sleep(3 * MINUTE)
        store.lost = False
        await asyncio.sleep(3 * MINUTE)
        starts = all_starts(made)
        await end(tasks)
    assert worst(starts) <= limit
    assert len([time for time in starts if time > max(starts) - 62]) >= limit
    assert [record.message.split(":")[0] for record in caplog.records] == [
        *["the store of shared budgets cannot be reached"] * count,
        *["the store of shared budgets is back"] * count,
    ]


async def test_without_the_store_it_goes_on_at_once_with_its_part_of_what_was_unspent() -> None:
    store = Store()
    async with sidecars(3, QuotaLimits(requests_per_minute=30), store) as made:
        await asyncio.gather(*(each.call() for each in made))
        store.lost = True
        tasks = [task for each in made for task in each.many(20)]
        await asyncio.sleep(10)
        assert [len(each.starts) for each in made] == [10, 10, 10]
        await end(tasks)


async def test_a_loss_under_full_load_exceeds_nothing() -> None:
    store = Store()
    async with sidecars(3, QuotaLimits(requests_per_minute=60), store) as made:
        tasks = [*made[0].many(300), *made[1].many(3)]  # one uses nearly all
        await asyncio.sleep(90)
        store.lost = True
        tasks += [*made[1].many(300), *made[2].many(300)]
        for lost in (False, True, False):
            await asyncio.sleep(100)
            store.lost = lost
        await asyncio.sleep(200)
        await end(tasks)
    starts = all_starts(made)
    assert worst(starts) <= 60
    assert len(starts) > 250


async def test_tokens_have_slices_and_a_call_that_needs_more_waits_for_the_store() -> None:
    store = Store()
    async with sidecars(4, QuotaLimits(tokens_per_minute=1000), store) as made:
        store.lost = True
        large = asyncio.create_task(made[0].call(prompt=300))
        small = asyncio.create_task(made[1].call(prompt=200))
        await asyncio.sleep(3 * MINUTE)
        assert (large.done(), small.done()) == (False, True)
        store.lost = False
        await asyncio.sleep(15)
        assert large.done()


async def test_what_was_used_is_said_again_when_that_fails() -> None:
    store = Store()
    async with sidecars(2, QuotaLimits(requests_per_minute=10), store) as made:
        store.lost = True
        tasks = [task for each in made for task in each.many(50)]
        await asyncio.sleep(65)
        assert [len(each.starts) for each in made] == [5, 5]
        store.lost, store.failures = False, 2
        await asyncio.sleep(2 * MINUTE)
        assert worst(all_starts(made)) == 10
        assert len(all_starts(made)) == 20
        await end(tasks)


async def test_only_what_is_limited_has_slices() -> None:
    store = Store()
    async with sidecars(2, QuotaLimits(tokens_per_minute=1000), store) as made:
        for _ in range(5):
            await made[0].call(tokens=100)
        await asyncio.sleep(15)
        store.lost = True
        await asyncio.sleep(50)  # what it used is over, and the first minute without the store is not
        tasks = made[0].many(20, tokens=25)
        await asyncio.sleep(1)
        assert len(made[0].starts) > 5 + 5
        await end(tasks)


async def test_one_that_loses_the_store_alone_keeps_to_its_slice() -> None:
    store = Store()
    async with sidecars(3, QuotaLimits(requests_per_minute=30), store) as made:
        tasks = [task for each in made for task in each.many(500)]
        await asyncio.sleep(3 * MINUTE)
        store.lost = {made[0].fleet._member}
        await asyncio.sleep(3 * MINUTE)
        since = now() - MINUTE
        assert len([start for start in made[0].starts if start >= since]) <= 10
        assert worst(all_starts(made)) <= 40
        await end(tasks)


async def test_a_store_slower_than_a_grant_lasts_counts_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    async with sidecars(2, QuotaLimits(requests_per_minute=30), store) as made:
        await made[0].call()
        store.seconds = 1.5
        tasks = made[0].many(20)
        await asyncio.sleep(5)
        assert 1 < len(made[0].starts) <= 15
        assert "it took 1.5 s, longer than a grant is of use" in caplog.text
        await end(tasks)


async def test_a_budget_first_used_while_the_store_is_lost_has_its_slice_too() -> None:
    store = Store()
    async with sidecars(2, QuotaLimits(requests_per_minute=10), store) as made:
        store.lost = True
        await asyncio.sleep(10)
        late = Sidecar(store, QuotaLimits(requests_per_minute=10))
        late.fleet = made[0].fleet
        late.scope = QuotaScope("p/other", QuotaLimits(requests_per_minute=10), fleet=late.fleet)
        tasks = late.many(20)
        await asyncio.sleep(65)
        assert len(late.starts) == 5
        await end(tasks)


async def test_those_that_leave_or_die_are_no_more_counted(left_behind: Callable[[], set[str]]) -> None:
    store = Store()
    async with sidecars(3, QuotaLimits(requests_per_minute=30), store) as made:
        made[2].fleet._task.cancel()  # type: ignore[union-attr]  # as if it were killed
        await asyncio.sleep(30)
        await made[1].fleet.close()
        await asyncio.sleep(6)
        await made[0].call()
        store.lost = True
        tasks = made[0].many(50)
        await asyncio.sleep(10)
        assert len(made[0].starts) == 30
        await end(tasks)
    assert left_behind() == set()
