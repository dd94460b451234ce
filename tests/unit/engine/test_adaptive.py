"""Adaptive concurrency finds hidden limits of a simulated provider. Time is virtual."""

import asyncio
import json
import random
from dataclasses import dataclass

import pytest

from batch_llm.executor import Executor, Work
from batch_llm.model import ExecutionPolicy, RetryConfig
from batch_llm.processor import BatchSession
from batch_llm.quota import AdaptiveLimit, QuotaLimits, QuotaScope
from batch_llm.quota.adaptive import Limited
from batch_llm.shared import SharedStrategy
from batch_llm.strategies.simulated import HiddenLimits, SimulatedStrategy


@dataclass
class Outcome:
    seconds: float
    late_rate: float  # items a second in the later half
    wasted: float  # share of calls that met a 429
    refused: int  # calls that met a 429
    failed: int
    scope: QuotaScope


async def run(
    hidden: HiddenLimits, items: int, latency_ms: float, spread: float, *, width: int = 1024, retries: int = 100
) -> Outcome:
    draw = random.Random(1)

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds * draw.uniform(1 - spread, 1 + spread))

    scope = QuotaScope(limits=QuotaLimits("adaptive"))
    shared = SharedStrategy(SimulatedStrategy(hidden_limits=hidden, sleep=sleep), scope=scope)
    executor = Executor(ExecutionPolicy(RetryConfig(max_rate_limit_retries=retries)))
    session = BatchSession(executor.run, max_concurrency=width)
    prompt = json.dumps({"simulate": {"latency_ms": latency_ms}})
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def feed() -> None:
        await session.submit(Work(str(number), prompt, shared) for number in range(items))
        session.close()

    feeding = asyncio.create_task(feed())
    done = failed = 0
    half = None
    while results := await session.take(1000):
        done += len(results)
        failed += sum(not result.success for result in results)
        if half is None and done >= items / 2:
            half = (loop.time(), done)
    await feeding
    assert half is not None
    late_rate = (done - half[1]) / (loop.time() - half[0])
    calls = hidden.served + hidden.throttled
    return Outcome(loop.time() - start, late_rate, hidden.throttled / calls, hidden.throttled, failed, scope)


@pytest.mark.parametrize(
    ("limit", "items", "latency_ms", "spread"),
    [(40, 5000, 500, 0.0), (40, 5000, 500, 0.3), (5, 2000, 500, 0.3), (200, 30_000, 1000, 0.3)],
)
async def test_it_finds_how_many_may_be_in_flight(limit: int, items: int, latency_ms: float, spread: float) -> None:
    outcome = await run(HiddenLimits(max_in_flight=limit), items, latency_ms, spread)
    assert outcome.failed == 0
    assert outcome.wasted < 0.02
    assert outcome.late_rate >= 0.9 * limit / (latency_ms / 1000)


@pytest.mark.parametrize(
    ("per_minute", "items", "latency_ms", "spread"),
    [(600, 3000, 500, 0.3), (600, 3000, 1000, 0.0), (600, 3000, 100, 0.3), (60, 600, 1000, 0.3)],
)
async def test_it_finds_how_many_a_minute(per_minute: int, items: int, latency_ms: float, spread: float) -> None:
    outcome = await run(HiddenLimits(requests_per_minute=per_minute), items, latency_ms, spread)
    assert outcome.failed == 0
    assert outcome.wasted < 0.02
    assert outcome.late_rate >= 0.9 * per_minute / 60
    assert outcome.scope.adaptive is not None
    assert outcome.scope.adaptive.rate is not None
    assert outcome.scope.adaptive.rate.limit == pytest.approx(per_minute, rel=0.1)


def test_it_stops_growing_when_calls_get_slow_and_backs_off_when_they_get_very_slow() -> None:
    limit = AdaptiveLimit()
    for _ in range(200):
        limit.succeeded(10, 1.0, all_in_use=True)
    grown = limit.limit
    for _ in range(40):
        limit.succeeded(10, 3.0, all_in_use=True)
    held = limit.limit
    for _ in range(10):
        limit.succeeded(10, 3.0, all_in_use=True)
    assert grown > 16
    assert limit.limit == held
    for _ in range(100):
        limit.succeeded(10, 30.0, all_in_use=True)
    assert limit.limit < held


def test_it_does_not_grow_when_nothing_waits_for_it() -> None:
    limit = AdaptiveLimit()
    for _ in range(100):
        limit.succeeded(1, 1.0, all_in_use=False)
    assert limit.limit == 4


def test_an_overloaded_provider_gets_less() -> None:
    limit = AdaptiveLimit()
    limit.limit = 100.0
    limit.overloaded()
    assert limit.limit == 70


async def test_an_outage_is_not_taken_for_a_tiny_rate() -> None:
    limit = AdaptiveLimit()
    time = 0.0
    for _ in range(600):
        limit.started(time)
        limit.succeeded(20, 0.5, all_in_use=True)
        time += 0.1
    assert limit.throttled(time, 1, limit.started(time)) is Limited.RATE
    assert limit.rate is not None
    before = limit.rate.limit
    time += 120  # nothing but 429s for two minutes
    for _ in range(10):
        time += 1
        assert limit.throttled(time, 1, limit.started(time)) is Limited.UNKNOWN
    assert limit.rate.limit == before


def test_a_rate_that_goes_well_is_raised_faster_and_faster() -> None:
    limit = AdaptiveLimit()
    for index in range(100):
        limit.started(index * 0.1)
    limit.succeeded(10, 0.5, all_in_use=True)
    limit.throttled(10.0, 1, limit.started(10.0))
    assert limit.rate is not None
    rates = []
    for minute in range(1, 12):
        limit.wait(10.0 + 61.0 * minute)
        rates.append(limit.rate.limit)
    assert rates[0] == 101
    assert rates[-1] > 1000


def refused_in_a_row(limit: AdaptiveLimit, in_flight: list[int], now: float = 10.0) -> list[Limited]:
    """429s that come in one after the other, each for a call that started after the one before."""
    return [limit.throttled(now, number, limit.started(now)) for number in in_flight]


def with_calls(calls: int) -> AdaptiveLimit:
    """A limit that has seen calls over 10 seconds."""
    limit = AdaptiveLimit()
    for index in range(calls):
        limit.started(index * 10.0 / calls)
    return limit


def test_a_row_of_429s_cuts_the_limit_by_half_at_most_and_the_next_row_again() -> None:
    limit = with_calls(100)
    limit.limit = 100.0
    assert set(refused_in_a_row(limit, [99, 60, 30, 10])) == {Limited.CONCURRENCY}
    assert limit.limit == 50
    limit.succeeded(5, 1.0, all_in_use=False)
    refused_in_a_row(limit, [50, 11])
    assert limit.limit == 25


def test_a_429_for_a_call_that_is_alone_is_about_the_rate_and_the_limit_was_right() -> None:
    limit = with_calls(100)
    limit.limit = 40.0
    assert refused_in_a_row(limit, [40, 20, 1])[-1] is Limited.RATE
    assert limit.limit == 40
    assert limit.rate is not None
    assert limit.rate.limit == 100


def test_a_row_that_begins_at_the_same_calls_a_minute_but_other_calls_in_flight_is_about_the_rate() -> None:
    limit = with_calls(100)
    limit.limit = 40.0
    assert refused_in_a_row(limit, [40]) == [Limited.CONCURRENCY]
    limit.succeeded(30, 1.0, all_in_use=False)
    assert refused_in_a_row(limit, [32]) == [Limited.RATE]
    assert limit.limit == 39
    limit.succeeded(30, 1.0, all_in_use=False)
    assert refused_in_a_row(limit, [32]) == [Limited.CONCURRENCY]


def test_answers_to_calls_from_before_a_429_change_nothing() -> None:
    limit = with_calls(100)
    limit.limit = 40.0
    refused_in_a_row(limit, [40])
    limit.succeeded(100, 1.0, all_in_use=True, fresh=False)
    limit.throttled(10.0, 2, 100, fresh=False)
    assert limit.limit == 39
    for _ in range(20):  # still near the ceiling, which is tried only now and then
        limit.succeeded(39, 1.0, all_in_use=True)
    assert limit.limit < 39.1


def test_a_learnt_rate_is_paced() -> None:
    limit = with_calls(600)
    refused_in_a_row(limit, [1], now=20.0)
    now, times = 100.0, []
    for _ in range(100):
        now += limit.wait(now)
        limit.started(now)
        times.append(now)
    assert times[-1] - times[0] == pytest.approx(99 / 10.3, rel=0.05)


def test_a_probe_that_costs_a_long_wait_is_made_less_often() -> None:
    def calls_to_the_next_probe(wait: float) -> int:
        limit = with_calls(100)
        limit.limit = 40.0
        limit.succeeded(40, 1.0, all_in_use=False)
        limit.throttled(10.0, 40, 100, wait)
        calls = 0
        while limit.limit < 40:
            limit.succeeded(39, 1.0, all_in_use=True)
            calls += 1
        return calls

    assert calls_to_the_next_probe(2.0) > 4 * calls_to_the_next_probe(0.0)


def test_a_rate_rises_again_at_once_after_an_outage() -> None:
    limit = with_calls(100)
    refused_in_a_row(limit, [1])
    assert limit.wait(11.0) > 0
    assert refused_in_a_row(limit, [1], now=100.0) == [Limited.UNKNOWN]
    limit.wait(100.0 + 60)
    assert limit.rate is not None
    assert limit.rate.limit > 102


# -- few calls a minute ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency_ms", [200, 2000])
@pytest.mark.parametrize("per_minute", [3, 4, 7, 10, 15, 19])
async def test_it_finds_a_rate_of_a_few_calls_a_minute(per_minute: int, latency_ms: float) -> None:
    outcome = await run(HiddenLimits(requests_per_minute=per_minute), 20 * per_minute, latency_ms, 0.3, retries=20)
    assert outcome.failed == 0
    assert outcome.late_rate >= 0.9 * per_minute / 60
    assert outcome.refused <= 25
    assert outcome.scope.adaptive is not None
    assert outcome.scope.adaptive.rate is not None
    assert outcome.scope.adaptive.rate.limit == pytest.approx(per_minute, abs=1)


@pytest.mark.parametrize("width", [100, 1024])
@pytest.mark.parametrize("per_minute", [1, 2])
async def test_a_tiny_rate_is_kept_to_before_items_run_out_of_retries(per_minute: int, width: int) -> None:
    outcome = await run(HiddenLimits(requests_per_minute=per_minute), 100, 2000, 0.3, retries=20, width=width)
    assert outcome.failed == 0
    assert outcome.late_rate >= 0.9 * per_minute / 60
    assert outcome.refused <= 25


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_few_calls_in_flight_that_take_long_are_not_taken_for_a_rate(in_flight: int) -> None:
    outcome = await run(HiddenLimits(max_in_flight=in_flight), 100 * in_flight, 30_000, 0.3)
    assert outcome.late_rate >= 0.9 * in_flight / 30
    assert outcome.scope.adaptive is not None
    assert outcome.scope.adaptive.rate is None


def test_a_few_calls_are_a_budget_only_if_two_rows_begin_with_them_and_none_has_gone_beyond() -> None:
    def second_row(began_with: int, then: int) -> Limited:
        limit = with_calls(5)
        assert refused_in_a_row(limit, [2, 1], now=20.0)[-1] is Limited.UNKNOWN
        for _ in range(then):
            took = limit.started(71.0)
            limit.succeeded(2, 1.0, all_in_use=False, took=took + began_with)
        return refused_in_a_row(limit, [2], now=72.0)[0]

    assert second_row(0, 5) is Limited.RATE
    assert second_row(0, 4) is Limited.RATE
    assert second_row(0, 3) is Limited.CONCURRENCY
    assert second_row(5, 5) is Limited.CONCURRENCY, "a call beyond five has gone well"


def test_an_outage_after_quiet_minutes_does_not_lower_a_learnt_rate_of_a_few_calls() -> None:
    limit = with_calls(10)
    refused_in_a_row(limit, [2, 1], now=10.0)
    limit.succeeded(1, 1.0, all_in_use=False, took=0)
    for _ in range(10):
        limit.started(80.0)
    assert refused_in_a_row(limit, [2], now=85.0) == [Limited.RATE]
    assert limit.rate is not None
    limit.succeeded(1, 1.0, all_in_use=False, took=0)
    limit.started(1000.0)
    assert refused_in_a_row(limit, [1], now=1030.0) == [Limited.UNKNOWN]
    assert limit.rate.limit >= 10


# -- long calls --------------------------------------------------------------------------------------------------------


async def test_long_calls_are_ramped_up_by_doubling() -> None:
    outcome = await run(HiddenLimits(), 3000, 30_000, 0.3, width=512)
    assert outcome.seconds < 400


def test_doubling_ends_with_the_first_refusal_slowdown_or_overload() -> None:
    def growth(limit: AdaptiveLimit) -> float:
        before = limit.limit
        limit.succeeded(1, 30.0, all_in_use=True)
        return limit.limit - before

    def grown() -> AdaptiveLimit:
        limit = AdaptiveLimit()
        for _ in range(96):
            limit.succeeded(1, 30.0, all_in_use=True)
        return limit

    assert growth(grown()) == 1
    refused, slow, overloaded = grown(), grown(), grown()
    refused.throttled(0.0, 200, 0)
    slow.succeeded(1, 1e4, all_in_use=True)
    for _ in range(50):
        slow.succeeded(1, 30.0, all_in_use=False)
    overloaded.overloaded()
    assert [growth(limit) for limit in (refused, slow, overloaded)] == [1 / 16] * 3
