"""Finds out how much a provider takes, by what it answers."""

from __future__ import annotations

import math
from enum import Enum, auto

from .window import NO_LIMIT, WINDOW_SECONDS, SlidingWindow

_START = 4.0
_DOUBLING_UNTIL = 16.0
_DOUBLING_SECONDS = 20.0  # beyond that, at least; a rate would be hit by all that is in flight
_LATER_GROWTH = 1 / 16
_MOST = 1000.0
_BACK_OFF = 0.7
_LARGEST_CUT = 0.5
_PROBE_ROUNDS = 8
_PROBE_SUCCESSES = 100
_PROBE_COST = 0.05  # of the time; what a probe may cost where the provider asks to wait
_SAME = 0.1
_WELL_BELOW = 0.75
_SLOWER = 2.0
_MUCH_SLOWER = 4.0
_FAST_WEIGHT = 0.1
_SLOW_WEIGHT = 0.005
_LEAST_RAISE = 0.01
_RAISE_DOUBLING_SECONDS = 30.0
_MOST_DOUBLINGS = 50.0
_PACE = 1.03  # of the learnt rate: providers may count seconds rather than minutes, and lost time is made up for
_BURST_SECONDS = 0.1
_LEAST_EVIDENCE = 20  # calls in the last minute; fewer say what a minute takes only if that recurs


class Limited(Enum):
    """What a 429 is taken for."""

    CONCURRENCY = auto()
    RATE = auto()
    UNKNOWN = auto()


class AdaptiveLimit:
    """How many calls may be in flight, and how many a minute, learnt from successes, latencies and 429s.

    Calls in flight start low and double for each round of calls, beyond a few no faster than every 20 seconds. From
    the first 429 or slowdown on they grow by a sixteenth for each round, which is also the least before. They grow as
    long as all places are used and latency stays near what it was.

    The 429s until the next success are a row, and a 429 is taken for one of two things:

    - A limit on concurrency: the limit falls below what was in flight, in one row to no less than half, and is tried
      again only now and then. While a row lasts, calls in flight run out.
    - A limit on the rate: if the call was alone, for then it cannot be concurrency; or if a row begins at as many
      calls a minute as the last one did, but at another number in flight. The limit is what it was before the row;
      what went through in the minute before it is the budget of a minute, paced, and raised ever faster until the
      next 429. With a few calls a minute an outage would look the same: they are a budget only if two rows begin with
      them, and no call in between has shown that a minute takes more.

    Answers to what was sent before the last 429 came in say nothing about what the provider takes since.
    """

    def __init__(self) -> None:
        self.limit = _START
        self._sent = SlidingWindow(NO_LIMIT)  # with refused calls: some providers count them
        self._refused = SlidingWindow(NO_LIMIT)
        self._ceiling = math.inf
        self._probe_rounds = float(_PROBE_ROUNDS)
        self._row: tuple[float, int] | None = None  # the limit, and what the minute before took, as the row began
        self._last = (1, 0)  # calls in flight, and what the minute before took, as the last row began
        self._few = 0  # the latter where it was little and may be a budget, else 0
        self._was_alone = False  # whether a call was refused that was alone, in that row
        self._doubling = True
        self._fast = 0.0
        self._slow = 0.0
        self._learnt = NO_LIMIT
        self._raise_from = 0.0
        self._next_at = 0.0

    @property
    def rate(self) -> SlidingWindow | None:
        """The learnt budget of a minute; None without one."""
        return self._sent if self._learnt < NO_LIMIT else None

    def started(self, now: float) -> int:
        """Note a call that starts; gives how many the provider took in the minute before."""
        took = self._sent.total(now) - self._refused.total(now)
        self._sent.take(now)
        self._next_at = max(self._next_at, now - _BURST_SECONDS) + WINDOW_SECONDS / (_PACE * self._sent.limit)
        return took

    def wait(self, now: float) -> float:
        """Seconds until the learnt rate allows another call."""
        if self._learnt == NO_LIMIT:
            return 0.0
        if now > self._raise_from:
            # The longer it has gone well, the faster: the provider may take far more than it did.
            doublings = min((now - self._raise_from) / _RAISE_DOUBLING_SECONDS, _MOST_DOUBLINGS)
            self._sent.limit = math.ceil(self._learnt * (1 + _LEAST_RAISE * (2**doublings - 1)))
        return max(self._sent.wait(now), self._next_at - now)

    def succeeded(self, in_flight: int, latency: float, *, all_in_use: bool, took: int = 0, fresh: bool = True) -> None:
        """Note a call that went well.

        Args:
            in_flight: calls in flight when it started, itself included.
            latency: its seconds.
            all_in_use: whether the limit was what held others back.
            took: what `started` gave for it.
            fresh: whether it started after the last 429 came in.
        """
        self._fast += _FAST_WEIGHT * (latency - self._fast) if self._fast else latency
        self._slow += _SLOW_WEIGHT * (latency - self._slow) if self._slow else latency
        if self._fast > _MUCH_SLOWER * self._slow:
            self.limit = max(1.0, self.limit * (1 - _SLOW_WEIGHT))
        if not fresh:
            return
        self._row = None
        if in_flight >= self._ceiling:
            self._ceiling = math.inf  # the provider takes more than it did
        if took >= self._few:
            self._few = 0
        if self._fast > _SLOWER * self._slow:
            self._doubling = False
        elif all_in_use:
            self.limit = min(_MOST, self.limit + self._growth())

    def throttled(self, now: float, in_flight: int, took: int, wait: float = 0.0, *, fresh: bool = True) -> Limited:
        """Note a 429.

        Args:
            now: monotonic seconds.
            in_flight: calls in flight when it started, itself included.
            took: what `started` gave for it.
            wait: seconds that the provider asked to wait.
            fresh: whether it started after the last 429 came in.

        Returns:
            What seems to be limited.
        """
        self._refused.take(now)
        self._doubling = False
        if not fresh:
            return Limited.UNKNOWN
        if self._row is None:
            self._row = self.limit, took
            if budget := self._budget_again(in_flight, took):
                self._learn(now, budget, wait)
                return Limited.RATE
        limit_before, took_before = self._row
        if in_flight > 1:
            self._ceiling = min(self._ceiling, in_flight)
            self.limit = max(1.0, _LARGEST_CUT * limit_before, min(self.limit, in_flight - 1.0))
            lost_rounds = min(wait, WINDOW_SECONDS) / self._slow if self._slow else 0.0
            self._probe_rounds = max(_PROBE_ROUNDS, lost_rounds / _PROBE_COST)
            return Limited.CONCURRENCY
        self.limit = limit_before
        self._was_alone = True
        if took < min(_LEAST_EVIDENCE, self._sent.limit):
            self._raise_from = now  # a budget of a minute would have let some through by now
            return Limited.UNKNOWN
        self._learn(now, took_before, wait)
        return Limited.RATE

    def overloaded(self) -> None:
        """Note that the provider says it is overloaded (503, 529)."""
        self._doubling = False
        self.limit = max(1.0, self.limit * _BACK_OFF)

    def _budget_again(self, in_flight: int, took: int) -> int:
        """The calls a minute at which a row begins, if the last one did so too, but not in calls in flight; else 0."""
        (last_in_flight, last_took), self._last = self._last, (in_flight, took)
        if took < _LEAST_EVIDENCE:
            return self._few_again(took, elsewhere=in_flight != last_in_flight)
        off = abs(in_flight - last_in_flight) / last_in_flight
        if in_flight <= _WELL_BELOW * self.limit:
            off = math.inf
        return took if abs(took - last_took) < min(_SAME, off) * last_took else 0

    def _few_again(self, took: int, *, elsewhere: bool) -> int:
        few, self._few = self._few, took
        was_alone, self._was_alone = self._was_alone, False
        recurs = few > 0 and abs(took - few) <= 1 and (was_alone or elsewhere)
        if took > 0 and (recurs or abs(took - self._learnt) <= 1):
            # Off by one either way, for windows count in tenths of a second; too high shows at once, too low does not.
            return max(took, few) if recurs else took
        return 0

    def _learn(self, now: float, budget: int, wait: float) -> None:
        self._learnt = self._sent.limit = max(1, min(self._sent.limit, budget))
        seconds = WINDOW_SECONDS * max(1.0, _PROBE_SUCCESSES / self._learnt)
        self._raise_from = now + max(seconds, min(wait, WINDOW_SECONDS) / _PROBE_COST)

    def _growth(self) -> float:
        if self.limit + 1 >= self._ceiling:
            return 1.0 / max(self._probe_rounds * self.limit, _PROBE_SUCCESSES)
        if self.limit < _DOUBLING_UNTIL:
            return 1.0
        return max(_LATER_GROWTH, min(1.0, self._fast / _DOUBLING_SECONDS)) if self._doubling else _LATER_GROWTH
