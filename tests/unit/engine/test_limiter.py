import asyncio
from typing import Any

import pytest

from batch_llm.sync import Limiter


async def turns(count: int = 4) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_at_least_one(limit: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {limit}"):
        Limiter(limit)


@pytest.mark.parametrize("limit", [True, 2.0, "2", None])
def test_a_limit_is_a_whole_number(limit: Any) -> None:
    with pytest.raises(ValueError, match=f"^max_concurrency must be a whole number, got {limit!r}; "):
        Limiter(limit)


async def test_places_are_given_up_to_the_limit_and_come_back() -> None:
    limiter = Limiter(2)
    assert [limiter.try_acquire() for _ in range(3)] == [True, True, False]
    limiter.release()
    assert [limiter.try_acquire() for _ in range(2)] == [True, False]


async def test_first_come_first_served() -> None:
    limiter = Limiter(1)
    served: list[int] = []

    async def visitor(number: int) -> None:
        await limiter.acquire()
        served.append(number)
        limiter.release()

    await limiter.acquire()
    visitors = [asyncio.create_task(visitor(number)) for number in range(5)]
    await turns()
    limiter.release()
    assert not limiter.try_acquire(), "a newcomer must not overtake those who wait"
    await asyncio.gather(*visitors)
    assert served == [0, 1, 2, 3, 4]
    assert limiter.in_use == 0


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize(
    "moment", ["before it waits", "while it waits", "before a release", "after a release", "later"]
)
async def test_a_cancellation_at_any_moment_loses_no_place(limit: int, victim: int, moment: str) -> None:
    limiter = Limiter(limit)

    async def visitor() -> None:
        await limiter.acquire()
        limiter.release()

    for _ in range(limit):
        await limiter.acquire()
    visitors = [asyncio.create_task(visitor()) for _ in range(3)]
    if moment != "before it waits":
        await turns()
    if moment == "after a release":
        limiter.release()
    visitors[victim].cancel()
    if moment == "while it waits":
        await turns()
    for _ in range(limit - (moment == "after a release")):
        limiter.release()
    outcomes = await asyncio.gather(*visitors, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
        number == victim for number in range(3)
    ]
    assert limiter.in_use == 0
    assert sum(limiter.try_acquire() for _ in range(limit + 1)) == limit


async def test_never_more_than_the_limit_though_many_are_cancelled() -> None:
    limiter = Limiter(3)
    running = peak = finished = 0

    async def visitor(stay: float) -> None:
        nonlocal running, peak, finished
        await limiter.acquire()
        running += 1
        peak = max(peak, running)
        try:
            await asyncio.sleep(stay)
            finished += 1
        finally:
            running -= 1
            limiter.release()

    visitors = [asyncio.create_task(visitor(number % 7)) for number in range(300)]
    for number, task in enumerate(visitors):
        if number % 3 == 0:
            await asyncio.sleep(number % 2)
            task.cancel()
    await asyncio.wait(visitors)
    assert peak == 3
    assert finished >= 200
    assert limiter.in_use == 0
