"""What every store of shared budgets does, in memory and in PostgreSQL."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from batch_llm.postgres import Postgres, PostgresError
from batch_llm.quota.ledger import NOTHING, Amount, Answer, Ask
from batch_llm.quota.postgres import PostgresBudgets
from batch_llm.quota.store import BudgetStore, MemoryBudgets, Place
from batch_llm.quota.window import NO_LIMIT

from .postgres import PostgresServer

TEN = Amount(10, NO_LIMIT)


@pytest.fixture(params=["memory", "postgres"])
def make_budgets(request: pytest.FixtureRequest) -> Callable[[], BudgetStore]:
    """Makes stores over the same budgets, each for one sidecar."""
    if request.param == "memory":
        store = MemoryBudgets(time.monotonic)
        return lambda: store
    url, schema = request.getfixturevalue("postgres").url, f"test_{uuid.uuid4().hex}"
    return lambda: PostgresBudgets(Postgres(url, schema))


@pytest.fixture
async def sidecars(make_budgets: Callable[[], BudgetStore]) -> AsyncIterator[list[BudgetStore]]:
    stores = [make_budgets() for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    yield stores
    for store in stores:
        await store.close()


async def draw(store: BudgetStore, member: str, ask: Ask, name: str = "p/m") -> Answer:
    return (await store.draw(member, {name: ask}))[name]


async def test_together_no_more_is_granted_than_the_limit(sidecars: list[BudgetStore]) -> None:
    async def one(number: int) -> int:
        answers = [await draw(sidecars[number], str(number), Ask(TEN, 1)) for _ in range(8)]
        return sum(answer.granted.requests for answer in answers)

    assert sum(await asyncio.gather(*map(one, range(4)))) == 10


async def test_budgets_are_apart_and_drawn_together(sidecars: list[BudgetStore]) -> None:
    names = ["a/m", "b/m", "ünïcode", "with \0 in it"]
    for store, expected in ((sidecars[0], 10), (sidecars[1], 0)):
        answers = await store.draw("x", {name: Ask(TEN, 10) for name in names})
        assert {name: answer.granted.requests for name, answer in answers.items()} == dict.fromkeys(names, expected)


async def test_two_that_draw_the_same_budgets_in_another_order_do_not_lock_each_other_out(
    sidecars: list[BudgetStore],
) -> None:
    names = ["a", "b", "c"]

    async def one(number: int) -> None:
        for _ in range(30):
            await sidecars[number].draw(str(number), {name: Ask(TEN, 1) for name in names[:: (-1) ** number]})

    await asyncio.gather(*map(one, range(4)))


async def test_corrections_give_back_and_take_more(sidecars: list[BudgetStore]) -> None:
    first, second, *_ = sidecars
    limit = Amount(NO_LIMIT, 1000)
    answer = await draw(first, "a", Ask(limit, 3, 300, 300))
    assert answer.granted == (3, 900)
    assert (await draw(second, "b", Ask(limit, 1, 300, 300))).granted == NOTHING
    await draw(first, "a", Ask(limit, corrections={answer.key: Amount(-1, -500)}))
    assert (await draw(second, "b", Ask(limit, 1, 300, 300))).granted == (1, 300)
    await draw(first, "a", Ask(limit, corrections={answer.key: Amount(0, 250)}))
    assert (await draw(second, "b", Ask(limit, 1, 300, 300))).unspent.tokens == 50


async def test_what_was_used_without_the_store_counts(sidecars: list[BudgetStore]) -> None:
    await draw(sidecars[0], "a", Ask(TEN, used=Amount(7, 0)))
    assert (await draw(sidecars[1], "b", Ask(TEN, 10))).granted.requests == 3


async def test_who_waits_has_a_turn_and_is_told_when(sidecars: list[BudgetStore]) -> None:
    first, second, third, _ = sidecars
    answer = await draw(first, "a", Ask(TEN, 10))
    assert answer.wait == 0
    assert 0 < (await draw(second, "b", Ask(TEN, 2))).wait <= 5
    assert (await draw(third, "c", Ask(TEN, 1))).granted == NOTHING
    await draw(first, "a", Ask(TEN, corrections={answer.key: Amount(-1, 0)}))
    assert (await draw(third, "c", Ask(TEN, 1))).granted == NOTHING, "what is free is kept for the one before it"
    assert (await draw(second, "b", Ask(TEN, 2))).granted.requests == 1


async def test_members_come_and_go(sidecars: list[BudgetStore]) -> None:
    members = ["a", "b", "c", "d"]
    places = [await store.beat(member) for store, member in zip(sidecars, members, strict=True)]
    assert places == [Place(number + 1, number) for number in range(4)]
    assert await sidecars[1].beat("b") == Place(4, 1)
    await sidecars[0].leave("a")
    assert await sidecars[1].beat("b") == Place(3, 0)


async def test_a_server_that_is_gone_is_an_error_and_grants_outlive_it() -> None:
    server = PostgresServer()
    try:
        server.start()
        store = PostgresBudgets(Postgres(server.url))
        await store.open()
        await draw(store, "a", Ask(TEN, 9))
        server.kill()
        with pytest.raises(PostgresError):
            await draw(store, "a", Ask(TEN, 9))
        server.start()
        assert (await draw(store, "b", Ask(TEN, 9))).granted.requests == 1
        await store.close()
    finally:
        server.remove()
