"""Finds out how much a provider takes, by what it answers."""

from __future__ import annotations

import math
from enum import Enum, auto

from .window import NO_LIMIT, WINDOW_SECONDS, SlidingWindow

_START = 4.0
_DOUBLING_UNTIL = 16.0
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
_LEAST_EVIDENCE = 20  # calls in the last minute; fewer say nothing of what a minute takes


class Limited(Enum):
    """What a 429 is taken for."""

    CONCURRENCY = auto()
    RATE = auto()
    UNKNOWN = auto()


class AdaptiveLimit:
    """How many calls may be in flight, and how many a minute, learnt from successes, latencies and 429s.

    Calls in flight start low, double at first, then grow by a sixteenth for each round of calls, as long as all places
    are used and latency stays near what it was.

    The 429s until the next success are a row, and a 429 is taken for one of two things:

    - A limit on concurrency: the limit falls below what was in flight, in one row to no less than half, and is tried
      again only now and then. While a row lasts, calls in flight run out.
    - A limit on the rate: if the call was alone, for then it cannot be concurrency; or if a row begins at as many
      calls a minute as the last one did, but at another number in flight. The limit is what it was before the row;
      what went through in the minute before it is the budget of a minute, paced, and raised ever faster until the
      next 429.

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

    def succeeded(self, in_flight: int, latency: float, *, all_in_use: bool, fresh: bool = True) -> None:
        """Note a call that went well.

        Args:
            in_flight: calls in flight when it started, itself included.
            latency: its seconds.
            all_in_use: whether the limit was what held others back.
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
        if all_in_use and self._fast <= _SLOWER * self._slow:
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
        if not fresh:
            return Limited.UNKNOWN
        if self._row is None:
            self._row = self.limit, took
            if self._is_rate_again(in_flight, took):
                self._learn(now, took, wait)
                return Limited.RATE
        limit_before, took_before = self._row
        if in_flight > 1:
            self._ceiling = min(self._ceiling, in_flight)
            self.limit = max(1.0, _LARGEST_CUT * limit_before, min(self.limit, in_flight - 1.0))
            lost_rounds = min(wait, WINDOW_SECONDS) / self._slow if self._slow else 0.0
            self._probe_rounds = max(_PROBE_ROUNDS, lost_rounds / _PROBE_COST)
            return Limited.CONCURRENCY
        self.limit = limit_before
        if took < _LEAST_EVIDENCE <= self._sent.limit:
            self._raise_from = now  # a budget of a minute would have let some through by now
            return Limited.UNKNOWN
        self._learn(now, took_before, wait)
        return Limited.RATE

    def overloaded(self) -> None:
        """Note that the provider says it is overloaded (503, 529)."""
        self.limit = max(1.0, self.limit * _BACK_OFF)

    def _is_rate_again(self, in_flight: int, took: int) -> bool:
        """Whether a row begins where the last one did in calls a minute, rather than in calls in flight."""
        (last_in_flight, last_took), self._last = self._last, (in_flight, took)
        if took < _LEAST_EVIDENCE:
            return False
        off = abs(in_flight - last_in_flight) / last_in_flight
        if in_flight <= _WELL_BELOW * self.limit:
            off = math.inf
        return abs(took - last_took) < min(_SAME, off) * last_took

    def _learn(self, now: float, budget: int, wait: float) -> None:
        self._learnt = self._sent.limit = max(1, min(self._sent.limit, budget))
        seconds = WINDOW_SECONDS * max(1.0, _PROBE_SUCCESSES / self._learnt)
        self._raise_from = now + max(seconds, min(wait, WINDOW_SECONDS) / _PROBE_COST)

    def _growth(self) -> float:
        if self.limit + 1 >= self._ceiling:
            return 1.0 / max(self._probe_rounds * self.limit, _PROBE_SUCCESSES)
        return 1.0 if self.limit < _DOUBLING_UNTIL else 1.0 / _DOUBLING_UNTIL
