"""Quota scopes: pauses, slow start, budgets, turns. Time is virtual."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from batch_llm.model import ProcessingEvent, RateLimitConfig
from batch_llm.quota import ExponentialBackoffStrategy, FixedDelayStrategy, QuotaLimits, QuotaScope, QuotaUser


def now() -> float:
    return asyncio.get_running_loop().time()


async def call(scope: QuotaScope, tenant: object = None, seconds: float = 0.0, tokens: int | None = None) -> float:
    """Make a call that goes well; when it started."""
    admission = await scope.admit(tenant)
    started = now()
    if seconds:
        await asyncio.sleep(seconds)
    scope.release(admission, succeeded=True, tokens=tokens)
    return started


async def throttle(scope: QuotaScope, suggested: float | None = None) -> None:
    admission = await scope.admit(None)
    await scope.throttled(admission, suggested)
    scope.release(admission, succeeded=False)


async def test_a_429_pauses_the_scope_for_everybody_and_no_other_scope() -> None:
    paused, other = QuotaScope("a", strategy=FixedDelayStrategy(30)), QuotaScope("b", strategy=FixedDelayStrategy(30))
    start = now()
    await throttle(paused)
    assert paused.cooldown_remaining(now()) == 30
    assert [t - start for t in await asyncio.gather(call(paused), call(paused), call(other))] == [30, 30, 0]


@pytest.mark.parametrize(("suggested", "pause"), [(57.2, 57.2), (3.0, 10.0), (None, 10.0), (999_999.0, 3600.0)])
async def test_what_the_provider_asks_for_is_a_floor_up_to_an_hour(suggested: float | None, pause: float) -> None:
    scope = QuotaScope(strategy=FixedDelayStrategy(10))
    start = now()
    await throttle(scope, suggested)
    assert await call(scope) - start == pytest.approx(pause)


async def test_a_pause_does_not_end_with_an_item_that_waits_for_it() -> None:
    scope = QuotaScope(strategy=FixedDelayStrategy(30))
    start = now()
    await throttle(scope)
    waiting = asyncio.create_task(call(scope))
    await asyncio.sleep(1)
    waiting.cancel()
    assert await call(scope) - start == 30


async def test_429s_of_calls_that_were_under_way_are_one_pause() -> None:
    scope = QuotaScope(strategy=ExponentialBackoffStrategy(10, backoff_multiplier=2, slow_start_items=0))
    start = now()
    admissions = [await scope.admit(None) for _ in range(5)]
    for admission in admissions:
        await scope.throttled(admission, None)
        scope.release(admission, succeeded=False)
    assert await call(scope) - start == 10
    for pause in (10, 20, 40):  # one after another, they grow; a success in between starts anew
        before = now()
        await throttle(scope)
        assert scope.cooldown_remaining(now()) == pause
        await asyncio.sleep(pause)
        assert now() - before == pause
    await call(scope)
    await throttle(scope)
    assert scope.cooldown_remaining(now()) == 10


async def test_after_a_pause_calls_are_spaced_out_less_and_less() -> None:
    config = RateLimitConfig(
        cooldown_seconds=10, slow_start_items=4, slow_start_initial_delay=2.0, slow_start_final_delay=1.0
    )
    scope = QuotaScope(strategy=ExponentialBackoffStrategy.of(config))
    start = now()
    await throttle(scope)
    starts = await asyncio.gather(*(call(scope) for _ in range(7)))
    assert [time - start for time in starts] == [10, 12, 13.75, 15.25, 16.5, 16.5, 16.5]


async def test_requests_per_minute_hold_and_a_cancelled_wait_costs_nothing() -> None:
    scope = QuotaScope(limits=QuotaLimits(requests_per_minute=3))
    start = now()
    for _ in range(3):
        await call(scope)
    waiting = [asyncio.create_task(call(scope)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[:2]:
        task.cancel()
    assert [await task - start for task in waiting[2:]] == [60, 60, 60]


async def test_tokens_are_reserved_then_corrected_and_given_back() -> None:
    scope = QuotaScope(limits=QuotaLimits(tokens_per_minute=1000))
    start = now()
    first = await scope.admit(None, 600)
    blocked = asyncio.create_task(scope.admit(None, 600))
    await asyncio.sleep(1)
    assert not blocked.done()
    scope.release(first, succeeded=True, tokens=100)  # it took far less than reserved
    second = await blocked
    assert now() - start == 1
    scope.release(second, succeeded=True, tokens=900)
    third = asyncio.create_task(scope.admit(None, 10))
    await asyncio.sleep(5)
    third.cancel()
    await asyncio.gather(third, return_exceptions=True)
    last = await scope.admit(None, 10)  # estimated by what calls have used: waits for the big one to expire
    assert now() - start == 61
    scope.release(last, succeeded=False, tokens=None)


async def test_a_call_admitted_in_the_moment_of_its_cancellation_gives_everything_back() -> None:
    scope = QuotaScope(limits=QuotaLimits(max_concurrency=1, requests_per_minute=2, tokens_per_minute=100))
    first = await scope.admit(None, 10)
    waiting = asyncio.create_task(scope.admit(None, 10))
    await asyncio.sleep(0)
    scope.release(first, succeeded=True, tokens=10)  # hands over
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert scope.in_flight == 0
    start = now()
    await call(scope)
    assert now() == start
    assert scope.in_flight == 0


async def test_tenants_take_turns() -> None:
    scope = QuotaScope(limits=QuotaLimits(max_concurrency=2))
    order: list[str] = []

    async def one(tenant: str) -> None:
        await call(scope, tenant, 1.0)
        order.append(tenant)

    big = [asyncio.create_task(one("big")) for _ in range(100)]
    await asyncio.sleep(1.5)
    small = [asyncio.create_task(one("small")) for _ in range(3)]
    single = asyncio.create_task(one("single"))
    await single
    assert order.count("big") <= 6
    await asyncio.gather(*small)
    assert order.count("big") <= 10
    await asyncio.gather(*big)
    assert scope.in_flight == 0


async def test_pauses_are_told(left_behind: Callable[[], set[str]]) -> None:
    told: list[tuple[ProcessingEvent, dict[str, Any]]] = []
    scope = QuotaScope("g/m", strategy=FixedDelayStrategy(5), events=lambda event, data: told.append((event, data)))
    await throttle(scope)
    await call(scope)
    await asyncio.sleep(1)
    assert [event for event, _ in told] == [
        ProcessingEvent.RATE_LIMIT_HIT,
        ProcessingEvent.COOLDOWN_STARTED,
        ProcessingEvent.COOLDOWN_ENDED,
    ]
    assert told[1][1] == {"scope": "g/m", "duration": 5, "consecutive": 1}
    assert told[2][1]["duration"] == 5
    assert left_behind() == set()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_concurrency": 0}, "max_concurrency must be at least 1, got 0"),
        ({"requests_per_minute": -1}, "requests_per_minute must be at least 1, got -1"),
        ({"tokens_per_minute": 0}, "tokens_per_minute must be at least 1, got 0"),
        ({"max_concurrency": "auto"}, "max_concurrency must be a number or 'adaptive', got 'auto'"),
    ],
)
def test_limits_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuotaLimits(**fields)


async def test_a_429_at_little_traffic_teaches_no_rate() -> None:
    scope = QuotaScope(limits=QuotaLimits("adaptive"), strategy=FixedDelayStrategy(5))
    for _ in range(2):
        await call(scope)
    start = now()
    await throttle(scope, 0.001)
    assert await call(scope) - start == pytest.approx(0.001)
    start = now()
    await throttle(scope)
    assert await call(scope) - start == pytest.approx(5)
    assert scope.adaptive is not None
    assert scope.adaptive.rate is None


async def test_adaptive_pauses_grow_with_an_outage_but_last_no_longer_than_it_has() -> None:
    scope = QuotaScope(limits=QuotaLimits("adaptive"), strategy=FixedDelayStrategy(300))
    for _ in range(600):
        await call(scope, seconds=0.1)
    start, pauses = now(), []
    while now() < start + 600:
        await throttle(scope)
        pauses.append(scope.cooldown_remaining(now()))
        assert pauses[-1] <= max(0.05, now() - start)
    assert pauses[:4] == pytest.approx([0.05, 0.1, 0.2, 0.4])
    assert pauses[8:11] == pytest.approx([10, 10, 10])
    assert pauses[-1] == 300
    assert len(pauses) < 20


async def test_a_rate_limit_strategy_that_fails_pauses_all_the_same() -> None:
    class Failing(FixedDelayStrategy):
        async def on_rate_limit(self, worker_id: int, consecutive_limit_count: int) -> float:
            raise KeyError("bug")

        def should_apply_slow_start(self, items_since_resume: int) -> tuple[bool, float]:
            raise KeyError("bug")

    scope = QuotaScope(strategy=Failing())
    start = now()
    await throttle(scope)
    assert [time - start for time in await asyncio.gather(call(scope), call(scope))] == [60, 60]
    assert scope.in_flight == 0


async def test_what_the_provider_asks_for_holds_though_the_item_is_cancelled_meanwhile() -> None:
    class Slow(FixedDelayStrategy):
        async def on_rate_limit(self, worker_id: int, consecutive_limit_count: int) -> float:
            await asyncio.sleep(10)
            return 0.0

    scope = QuotaScope(strategy=Slow())
    task = asyncio.create_task(throttle(scope, 100.0))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert scope.cooldown_remaining(now()) == 99


async def test_tokens_per_minute_hold_from_the_first_call_on_and_a_429_gives_its_own_back() -> None:
    scope = QuotaScope(limits=QuotaLimits(tokens_per_minute=100), strategy=FixedDelayStrategy(0))
    start = now()
    starts = await asyncio.gather(*(call(scope, seconds=1.0, tokens=10) for _ in range(25)))
    for time in starts:
        assert sum(10 for other in starts if time <= other < time + 60) <= 100
    assert max(starts) - start < 130
    await asyncio.sleep(120)
    start = now()
    for _ in range(50):
        await throttle(scope)
    await call(scope, tokens=10)
    assert now() == start


async def never_ends() -> Any:
    await asyncio.sleep(1e9)


async def never_gives_in() -> Any:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1e9)


async def cancels_itself() -> Any:
    raise asyncio.CancelledError


async def exits() -> Any:
    sys.exit(1)


def giving(value: Any) -> Callable[[], Any]:
    async def give() -> Any:
        return value

    return give


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (giving(float("inf")), 60),
        (giving(float("nan")), 60),
        (giving(-1.0), 60),
        (giving("5"), 60),
        (giving(None), 60),
        (giving(True), 60),
        (cancels_itself, 60),
        (exits, 60),
        (never_ends, 91),
        (never_gives_in, 91),
    ],
)
async def test_a_pause_that_is_no_number_or_never_comes_is_a_minute(
    answer: Callable[[], Any], seconds: float, caplog: pytest.LogCaptureFixture, left_behind: Callable[[], set[str]]
) -> None:
    class Odd(FixedDelayStrategy):
        async def on_rate_limit(self, worker_id: int, consecutive_limit_count: int) -> float:
            result: float = await answer()
            return result

    scope = QuotaScope(strategy=Odd())
    start = now()
    await throttle(scope)
    assert await call(scope) - start == pytest.approx(seconds, abs=1)
    assert scope.in_flight == 0
    assert "a rate-limit strategy failed; pausing for 60 s" in caplog.text
    assert left_behind() == set()


@pytest.mark.parametrize(
    "answer", [(True, None), True, None, (True, float("inf")), (True, float("nan")), (True, -1.0), (1, 0.5), ("yes", 1)]
)
async def test_a_slow_start_that_makes_no_sense_is_none(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(FixedDelayStrategy):
        def should_apply_slow_start(self, items_since_resume: int) -> tuple[bool, float]:
            result: tuple[bool, float] = answer
            return result

    scope = QuotaScope(strategy=Odd(10))
    start = now()
    await throttle(scope)
    assert [time - start for time in await asyncio.gather(call(scope), call(scope))] == [10, 10]
    assert scope.in_flight == 0
    assert "calls are not spaced out" in caplog.text


async def test_a_slow_start_that_raises_what_it_should_not_is_none() -> None:
    class Odd(FixedDelayStrategy):
        def should_apply_slow_start(self, items_since_resume: int) -> tuple[bool, float]:
            raise asyncio.CancelledError

    scope = QuotaScope(strategy=Odd(10))
    start = now()
    await throttle(scope)
    assert await call(scope) - start == 10
    assert scope.in_flight == 0


# -- users -------------------------------------------------------------------------------------------------------------


async def test_a_budget_holds_while_users_come_and_go() -> None:
    scope = QuotaScope(strategy=FixedDelayStrategy(0))
    user, other = QuotaUser(5), QuotaUser(5)
    scope.join(user)
    held = [await scope.admit(None) for _ in range(5)]
    scope.leave(user)
    scope.join(other)
    start = now()
    for admission in held:
        await scope.throttled(admission, None)  # gives back what it took, once
        scope.release(admission, succeeded=False)
    starts = await asyncio.gather(*(call(scope) for _ in range(12)))
    assert [time - start for time in sorted(starts)] == [0] * 5 + [60] * 5 + [120] * 2


async def test_a_budget_counts_what_earlier_users_have_called_and_those_without_one() -> None:
    scope = QuotaScope()
    start, starts = now(), []
    await call(scope)
    for _ in range(3):
        user = QuotaUser(2)
        scope.join(user)
        starts += [await call(scope) - start, await call(scope) - start]
        scope.leave(user)
    assert starts == [0, 60, 60, 120, 120, 180]


async def test_who_waits_for_the_budget_of_a_user_goes_on_when_that_leaves() -> None:
    scope = QuotaScope()
    user = QuotaUser(1)
    scope.join(user)
    await call(scope)
    start = now()
    waiting = [asyncio.create_task(call(scope)) for _ in range(3)]
    await asyncio.sleep(1)
    scope.leave(user)
    assert [time - start for time in await asyncio.gather(*waiting)] == [1, 1, 1]


def test_the_end_of_a_pause_is_told_though_the_event_loop_that_met_it_is_gone() -> None:
    # Real event loops one after the other; the pause is too short to be noticed.
    told: list[ProcessingEvent] = []
    scope = QuotaScope(strategy=FixedDelayStrategy(0.01))
    user = QuotaUser(events=lambda event, data: told.append(event))
    scope.join(user)
    asyncio.run(throttle(scope))
    assert told[-1] is ProcessingEvent.COOLDOWN_STARTED
    asyncio.run(call(scope))
    assert told.count(ProcessingEvent.COOLDOWN_ENDED) == 1


async def hold(scope: QuotaScope) -> None:
    admission = await scope.admit(None)
    try:
        await asyncio.sleep(1e9)
    finally:
        scope.release(admission, succeeded=False)


async def begin(*coroutines: Coroutine[Any, Any, None]) -> None:
    for coroutine in coroutines:
        coroutine.send(None)


def test_calls_that_are_thrown_away_with_their_event_loops_give_their_places_back() -> None:
    scope = QuotaScope(limits=QuotaLimits(max_concurrency=1))
    under_way, waiting = hold(scope), hold(scope)
    asyncio.run(begin(under_way))
    asyncio.run(begin(waiting))
    under_way.close()
    waiting.close()
    assert scope.in_flight == 0


def test_a_call_that_is_thrown_away_as_it_is_admitted_gives_its_place_back() -> None:
    scope = QuotaScope(limits=QuotaLimits(max_concurrency=1))
    waiting = hold(scope)

    async def admit() -> None:
        admission = await scope.admit(None)
        await begin(waiting)
        scope.release(admission, succeeded=True)

    asyncio.run(admit())
    waiting.close()
    assert scope.in_flight == 0
