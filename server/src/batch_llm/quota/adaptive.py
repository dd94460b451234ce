"""Finds out how much a provider takes, by what it answers."""

from __future__ import annotations

import math
from enum import Enum, auto

from .window import Entry, SlidingWindow

_START = 4.0
_DOUBLING_UNTIL = 16.0
_MOST = 1000.0
_BACK_OFF = 0.7
_PROBE_ROUNDS = 8
_PROBE_SUCCESSES = 100
_WELL_BELOW = 0.75
_SLOWER = 2.0
_MUCH_SLOWER = 4.0
_FAST_WEIGHT = 0.1
_SLOW_WEIGHT = 0.005
_LEAST_RAISE = 0.01
_LARGEST_RAISE = 0.5
_RATE_PROBE_SECONDS = 60.0
_NO_LIMIT = 2**62
_LEAST_EVIDENCE = 20  # calls in the last minute; fewer say nothing of what a minute takes

Sent = tuple[Entry, Entry | None]
"""A call in the windows that count it: all calls, and the learnt rate's."""


class Limited(Enum):
    """What a 429 is taken for."""

    CONCURRENCY = auto()
    RATE = auto()
    UNKNOWN = auto()


class AdaptiveLimit:
    """How many calls may be in flight, and how many a minute, learnt from successes, latencies and 429s.

    Calls in flight start low, double at first, then grow by one for each round of calls, as long as all places are
    used and latency stays near what it was. A 429 is one of two things. With about as many in flight as ever went
    well, or more, it is a limit on concurrency: the limit falls below it, and is tried again only now and then. With
    clearly fewer in flight than went well before, it is a limit on the rate: what went through in the last minute is
    taken as the budget of a minute, which is tried a little higher minute by minute.
    """

    def __init__(self) -> None:
        self.limit = _START
        self.rate: SlidingWindow | None = None
        self._sent = SlidingWindow(_NO_LIMIT)
        self._proven = 0
        self._ceiling = math.inf
        self._fast = 0.0
        self._slow = 0.0
        self._raise_rate_at = 0.0
        self._raise_rate_by = _LEAST_RAISE

    def started(self, now: float) -> Sent:
        """Note a call that starts."""
        return self._sent.take(now), self.rate.take(now) if self.rate is not None else None

    def wait(self, now: float) -> float:
        """Seconds until the learnt rate allows another call."""
        if self.rate is None:
            return 0.0
        if now >= self._raise_rate_at:
            # The longer it has gone well, the larger the steps: the provider may take far more than it did.
            self.rate.limit = math.ceil(self.rate.limit * (1 + self._raise_rate_by))
            self._raise_rate_by = min(_LARGEST_RAISE, 2 * self._raise_rate_by)
            self._raise_rate_at = now + _RATE_PROBE_SECONDS
        return self.rate.wait(now)

    def succeeded(self, in_flight: int, latency: float, *, all_in_use: bool) -> None:
        """Note a call that went well.

        Args:
            in_flight: calls in flight when it started, itself included.
            latency: its seconds.
            all_in_use: whether the limit was what held others back.
        """
        self._proven = max(self._proven, in_flight)
        if in_flight >= self._ceiling:
            self._ceiling = math.inf  # the provider takes more than it did
        self._fast += _FAST_WEIGHT * (latency - self._fast) if self._fast else latency
        self._slow += _SLOW_WEIGHT * (latency - self._slow) if self._slow else latency
        if self._fast > _MUCH_SLOWER * self._slow:
            self.limit = max(1.0, self.limit * (1 - _SLOW_WEIGHT))
        elif all_in_use and self._fast <= _SLOWER * self._slow:
            self.limit = min(_MOST, self.limit + self._growth())

    def throttled(self, now: float, in_flight: int, sent: Sent) -> Limited:
        """Note a 429.

        Args:
            now: monotonic seconds.
            in_flight: calls in flight when it started, itself included.
            sent: what `started` gave for it.

        Returns:
            What seems to be limited.
        """
        entry, rate_entry = sent
        self._sent.adjust(entry, -1)  # a refused call does not count at the provider
        if self.rate is not None and rate_entry is not None:
            self.rate.adjust(rate_entry, -1)
        if in_flight > max(1.0, _WELL_BELOW * self._proven):
            self._proven = min(self._proven, in_flight - 1)
            self._ceiling = min(self._ceiling, in_flight)
            self.limit = max(1.0, self.limit * _BACK_OFF, min(self.limit, in_flight - 1.0))
            return Limited.CONCURRENCY
        budget = self._sent.total(now)
        if budget < _LEAST_EVIDENCE and (self.rate is None or self.rate.limit >= _LEAST_EVIDENCE):
            return Limited.UNKNOWN
        budget = max(1, budget)
        if self.rate is None:
            self.rate = SlidingWindow(budget)
            self.rate.adopt(self._sent)
        self.rate.limit = min(self.rate.limit, budget)
        self._raise_rate_at = now + _RATE_PROBE_SECONDS
        self._raise_rate_by = _LEAST_RAISE
        return Limited.RATE

    def overloaded(self) -> None:
        """Note that the provider says it is overloaded (503, 529)."""
        self.limit = max(1.0, self.limit * _BACK_OFF)

    def _growth(self) -> float:
        if self.limit + 1 >= self._ceiling:
            return 1.0 / max(_PROBE_ROUNDS * self.limit, _PROBE_SUCCESSES)
        return 1.0 if self.limit < _DOUBLING_UNTIL else 1.0 / self.limit
