"""Adaptive concurrency with providers of many kinds: limits that change, outages, latencies. Time is virtual."""

import asyncio
import functools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from batch_llm.quota import QuotaLimits, QuotaScope

Latency = Callable[[random.Random, int], float]
"""Seconds of a call, from a source of chance and the calls in flight."""


def constant(seconds: float) -> Latency:
    return lambda draw, in_flight: seconds


def jittered(seconds: float) -> Latency:
    return lambda draw, in_flight: seconds * draw.uniform(0.7, 1.3)


def heavy_tailed(shortest: float = 0.1, longest: float = 10.0, alpha: float = 1.1) -> Latency:
    """A bounded Pareto distribution: most calls are short, a few are a hundred times as long."""
    low, high = shortest**alpha, longest**alpha

    def latency(draw: random.Random, in_flight: int) -> float:
        u = draw.random()
        return float((-(u * high - u * low - high) / (high * low)) ** (-1 / alpha))

    return latency


def saturating(seconds: float, places: int) -> Latency:
    """So many calls run at a time, the others wait within the provider."""
    return lambda draw, in_flight: seconds * draw.uniform(0.8, 1.2) * max(1.0, in_flight / places)


SHORT = jittered(0.5)


@dataclass(frozen=True)
class Limits:
    """What a provider takes.

    Args:
        in_flight: calls at a time.
        per_minute: calls in `window` seconds, times 60 / `window`.
        window: what the rate is counted over.
        fixed: count from the start of a window, as of a minute by the clock, not over the last seconds.
    """

    in_flight: float = math.inf
    per_minute: float = math.inf
    window: float = 60.0
    fixed: bool = False


@dataclass(frozen=True)
class Scenario:
    """What happens.

    Args:
        limits: what the provider takes at first.
        latency: how long calls take.
        minutes: how long it lasts.
        then: what the provider takes from half-time on.
        then_latency: how long calls take from half-time on.
        outage: minutes between which every call is refused.
        retry_after: seconds that a refusal asks to wait.
        refusal_seconds: how long a refusal takes.
        counts_refused: whether refused calls count towards the rate.
        capacity: calls a second that are attainable where no limit says so.
        tenants: how many share the scope.
        callers: calls that are under way or wait, in all.
    """

    limits: Limits = field(default_factory=Limits)
    latency: Latency = SHORT
    minutes: float = 8.0
    then: Limits | None = None
    then_latency: Latency | None = None
    outage: tuple[float, float] | None = None
    retry_after: float | None = None
    refusal_seconds: float = 0.05
    counts_refused: bool = False
    capacity: float = math.inf
    tenants: int = 1
    callers: int = 500

    def attainable(self) -> float:
        """Calls a second, in the end."""
        limits, latency = self.then or self.limits, self.then_latency or self.latency
        in_flight = min(limits.in_flight, self.callers)
        return min(in_flight / mean_latency(latency), limits.per_minute / 60, self.capacity)


@functools.cache
def mean_latency(latency: Latency) -> float:
    draw = random.Random(2)
    return statistics.fmean(latency(draw, 1) for _ in range(100_000))


class Provider:
    """Refuses what is beyond its limits, counted exactly."""

    def __init__(self, scenario: Scenario) -> None:
        self.served: list[float] = []
        self.refused: list[float] = []
        self.most_in_flight = 0
        self._scenario = scenario
        self._limits = scenario.limits
        self._in_flight = 0
        self._minute: deque[float] = deque()
        self._draw = random.Random(1)

    async def call(self, at: float) -> bool:
        """Make a call at so many seconds of the scenario; whether it was served."""
        scenario = self._scenario
        limits, latency = scenario.limits, scenario.latency
        if at >= scenario.minutes * 30:
            limits, latency = scenario.then or limits, scenario.then_latency or latency
        since = at // limits.window * limits.window if limits.fixed else at - limits.window
        while self._minute and self._minute[0] <= since:
            self._minute.popleft()
        full = len(self._minute) >= limits.per_minute * limits.window / 60
        out = scenario.outage is not None and scenario.outage[0] * 60 <= at < scenario.outage[1] * 60
        if out or self._in_flight >= limits.in_flight or full:
            self.refused.append(at)
            if scenario.counts_refused:
                self._minute.append(at)
            await asyncio.sleep(scenario.refusal_seconds)
            return False
        self.served.append(at)
        self._minute.append(at)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        await asyncio.sleep(latency(self._draw, self._in_flight))
        self._in_flight -= 1
        return True


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Args:
        share: of the attainable throughput, in the last quarter.
        wasted: share of all calls that were refused.
        wasted_later: share of calls that were refused in the last quarter.
        refused: calls that were refused.
        refused_soon: calls that were refused within 3 minutes of the change, or of the outage's start.
        regained: minutes from the change, or the outage's end, until a minute with 90 % of what is attainable begins.
        most_in_flight: calls that the provider served at a time, at most.
        by_tenant: calls of each tenant that were served.
    """

    share: float
    wasted: float
    wasted_later: float
    refused: int
    refused_soon: int
    regained: float
    most_in_flight: int
    by_tenant: list[int]


async def play(scenario: Scenario) -> Outcome:
    """Call the provider through an adaptive quota scope, with as many calls as it admits."""
    loop = asyncio.get_running_loop()
    scope = QuotaScope(limits=QuotaLimits("adaptive"))
    provider = Provider(scenario)
    start, seconds = loop.time(), scenario.minutes * 60
    by_tenant = [0] * scenario.tenants

    async def caller(tenant: int) -> None:
        while True:
            admission = await scope.admit(tenant)
            served = await provider.call(loop.time() - start)
            if not served:
                await scope.throttled(admission, scenario.retry_after)
            scope.release(admission, succeeded=served)
            by_tenant[tenant] += served

    callers = [asyncio.create_task(caller(number % scenario.tenants)) for number in range(scenario.callers)]
    await asyncio.sleep(seconds)
    for task in callers:
        task.cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    changes = scenario.then is not None or scenario.then_latency is not None
    event = seconds / 2 if changes else scenario.outage[0] * 60 if scenario.outage is not None else 0.0
    back = scenario.outage[1] * 60 if scenario.outage is not None else event
    expected = scenario.attainable()
    minute = 6 * [0] + [0] * math.ceil(seconds / 10)
    for time in provider.served:
        minute[math.floor(time / 10)] += 1
    regained = next(
        (
            (10 * index - back) / 60
            for index in range(math.ceil(back / 10), math.floor(seconds / 10) - 5)
            if sum(minute[index : index + 6]) >= 0.9 * 60 * expected
        ),
        math.inf,
    )
    late = seconds * 0.75
    served_late = sum(time >= late for time in provider.served)
    refused_late = sum(time >= late for time in provider.refused)
    return Outcome(
        share=served_late / (seconds - late) / expected,
        wasted=len(provider.refused) / (len(provider.served) + len(provider.refused)),
        wasted_later=refused_late / max(1, served_late + refused_late),
        refused=len(provider.refused),
        refused_soon=sum(event <= time < event + 180 for time in provider.refused),
        regained=max(0.0, regained),
        most_in_flight=provider.most_in_flight,
        by_tenant=by_tenant,
    )


def limited(
    in_flight: float = math.inf, per_minute: float = math.inf, latency: Latency = SHORT, **more: Any
) -> Scenario:
    return Scenario(Limits(in_flight, per_minute), latency, **more)


SCENARIOS = {
    "1 in flight": limited(1, minutes=20),
    "3 in flight": limited(3, minutes=20),
    "10 in flight": limited(10, minutes=20),
    "40 in flight": limited(40),
    "300 in flight": limited(300, latency=jittered(2.0)),
    "30 a minute": limited(per_minute=30, minutes=240),
    "600 a minute": limited(per_minute=600, minutes=40),
    "6000 a minute": limited(per_minute=6000),
    "40 in flight, 600 a minute": limited(40, 600, jittered(3.0), minutes=40),
    "10 in flight, 1500 a minute": limited(10, 1500, minutes=20),
    "40 in flight, then 4": limited(40, then=Limits(4)),
    "100 in flight, then 10": limited(100, latency=jittered(2.0), minutes=30, then=Limits(10)),
    "100 in flight, then 10, constant latency": limited(100, latency=constant(2.0), minutes=30, then=Limits(10)),
    "10 in flight, then 100": limited(10, latency=jittered(1.0), then=Limits(100), minutes=20),
    "600 a minute, then 60": limited(per_minute=600, minutes=80, then=Limits(per_minute=60)),
    "600 a minute, then 60, refused count": limited(
        per_minute=600, minutes=80, then=Limits(per_minute=60), counts_refused=True
    ),
    "6000 a minute, then 600": limited(per_minute=6000, minutes=20, then=Limits(per_minute=600)),
    "60 a minute, then 600": limited(per_minute=60, minutes=60, then=Limits(per_minute=600)),
    "600 a minute, then 6000": limited(per_minute=600, minutes=20, then=Limits(per_minute=6000)),
    "40 in flight, outage": limited(40, outage=(4, 6), minutes=12),
    "40 in flight, short outage": limited(40, outage=(4, 4.25)),
    "40 in flight, outage with Retry-After": limited(40, outage=(4, 6), retry_after=20.0, minutes=24),
    "600 a minute, outage": limited(per_minute=600, outage=(8, 10), minutes=30),
    "600 a minute, outage with Retry-After": limited(per_minute=600, outage=(8, 10), retry_after=20.0, minutes=40),
    "40 in flight, Retry-After": limited(40, retry_after=2.0),
    "600 a minute, Retry-After": limited(per_minute=600, retry_after=5.0, minutes=40),
    "40 in flight, constant latency": limited(40, latency=constant(0.5)),
    "40 in flight, heavy tail": limited(40, latency=heavy_tailed()),
    "600 a minute, heavy tail": limited(per_minute=600, latency=heavy_tailed(), minutes=40),
    "40 in flight, then ten times as slow": limited(40, then_latency=jittered(5.0), minutes=16),
    "40 in flight, then ten times as fast": limited(40, latency=jittered(2.0), then_latency=jittered(0.2), minutes=6),
    "600 a minute, 10 s": limited(per_minute=600, latency=jittered(10.0), minutes=40),
    "600 a minute, by the clock": Scenario(Limits(per_minute=600, fixed=True), minutes=40),
    "600 a minute, counted in 10 s": Scenario(Limits(per_minute=600, window=10.0), minutes=40),
    "600 a minute, refused count": limited(per_minute=600, counts_refused=True, minutes=40),
    "30 a minute, refused count": limited(per_minute=30, counts_refused=True, minutes=240),
    "40 in flight, slow refusals": limited(40, refusal_seconds=0.5),
    "40 in flight, refusals at once": limited(40, refusal_seconds=0.0),
    "600 a minute, slow refusals": limited(per_minute=600, refusal_seconds=0.5, minutes=40),
    "40 in flight, 5 tenants": limited(40, tenants=5),
    "600 a minute, 5 tenants": limited(per_minute=600, tenants=5, minutes=40),
    "no limit": limited(latency=jittered(2.0)),
    "no limit, heavy tail": limited(latency=heavy_tailed(), minutes=2),
    "no limit, throughput saturates": Scenario(latency=saturating(0.5, 50), capacity=100, minutes=4),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_it_finds_what_a_provider_takes_and_wastes_little(name: str) -> None:
    scenario = SCENARIOS[name]
    outcome = await play(scenario)
    assert outcome.share >= 0.9
    assert outcome.wasted < 0.02
    assert outcome.wasted_later < 0.02
    if scenario.then is not None or scenario.outage is not None:
        assert outcome.regained <= 6.0
    assert max(outcome.by_tenant) - min(outcome.by_tenant) <= 0.01 * sum(outcome.by_tenant)


@pytest.mark.parametrize("latency", [jittered(2.0), constant(2.0)])
async def test_a_limit_that_falls_tenfold_costs_less_than_three_times_what_was_in_flight(latency: Latency) -> None:
    outcome = await play(limited(100, latency=latency, minutes=12, then=Limits(10)))
    assert outcome.refused_soon < 300


async def test_a_rate_that_falls_tenfold_costs_a_few_calls() -> None:
    outcome = await play(limited(per_minute=6000, minutes=10, then=Limits(per_minute=600)))
    assert outcome.refused_soon < 100
